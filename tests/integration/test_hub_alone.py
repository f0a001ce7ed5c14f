"""The hub runs where neither torch nor MONAI nor a reader of images can be imported."""

import subprocess
import sys

from server.journal import Journal
from tests.support.federations import built, small_study

HUB = """
import sys

FORBIDDEN = {"torch", "monai", "nibabel", "pydicom", "PIL", "itk", "highdicom", "scipy", "client",
             "tensorboardX"}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in FORBIDDEN:
            raise ModuleNotFoundError(f"{name} is not installed at this hub", name=name)

sys.meta_path.insert(0, Blocker())
try:
    import torch
except ModuleNotFoundError:
    pass
else:
    sys.exit("the blocker does not block")

import uuid
import numpy as np
from flwr.app import Context as FlowerContext, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1

from common import protocol
from common.messages import *
from common.study.load import parse_study
from common.study.study import study_hash
from server.app import app

SITES = {2: ("site-a", "ct"), 3: ("site-b", "mr")}

class FakeSites(Grid):
    run = None
    def set_run(self, run): ...
    def create_message(self, *args, **keywords): ...
    def send_and_receive(self, messages, *, timeout=None): ...
    def get_node_ids(self): return list(SITES)
    def push_messages(self, messages):
        self.waiting = {}
        for message in messages:
            message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
            self.waiting[message.metadata.message_id] = message
        return list(self.waiting)
    def pull_messages(self, ids):
        name, message = self.waiting.popitem()
        site, modality = SITES[message.metadata.dst_node_id]
        return [Message(protocol.pack(reply(site, modality, message)), reply_to=message)]

def reply(site, modality, message):
    kind = message.metadata.message_type
    if kind == protocol.ENROL:
        context = protocol.unpack(Context, message.content)
        account = Accounting(declared=5, usable=5, skipped={}, train=3, validation=1, test=1)
        totals = {"ct": (IntensityTotals(count=10, total=5.0, squares=50.0),)} if modality == "ct" else {}
        return Enrolment(site=site, study=study_hash(parse_study(context.study)), totals=totals,
                         accounting={modality: account}, annotated=("liver", "spleen"), version="0")
    if kind == protocol.EVALUATE:
        job = protocol.unpack(EvaluateJob, message.content)
        score = Score(modality=modality, label="liver", metric="dice", value=0.5, cases=1)
        return Evaluation(site=site, round=job.context.round, federated=(score,), alone=(),
                          differences=(), skipped={}, seconds=0.1)
    job = protocol.unpack(TrainJob, message.content)
    report = UpdateReport(site=site, run=job.context.run, round=job.context.round, cases={modality: 3},
                          study=study_hash(parse_study(job.context.study)), used={modality: 3},
                          skipped={}, steps=3, loss=1.0, seconds={}, scores=(), affinities={})
    return Update(report=report, weights={n: a + np.float32(1) for n, a in job.weights.items()})

app(FakeSites(), FlowerContext(run_id=1, node_id=1, node_config={}, state=RecordDict(),
                         run_config={"run": sys.argv[1]}))
print(sorted(m for m in sys.modules if m.split(".")[0] in FORBIDDEN))
"""


def test_a_whole_run_of_the_hub_needs_no_torch_no_monai_and_no_image_reader(sites, tmp_path):
    folder = built(small_study(rounds=2), [sites[0], sites[2]], tmp_path / "run")

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HUB, str(folder)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith("[]")
    rounds = Journal(folder).closed_rounds()
    assert [sorted(a.report.site for a in r.accepted) for r in rounds] == [
        ["site-a", "site-b"]
    ] * 2
