"""App bundles that a site must refuse, and how somebody at the hub's machine starts them."""

import hashlib
import io
import json
import os
import subprocess
import sys
import warnings
import zipfile
from importlib.metadata import version

from deploy.supervise.flower import environment

PROJECT = """[project]
name = "{name}"
version = "{version}"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "{publisher}"
fab-include = ["**/*.py"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
run = ""
"""
SERVER = """
import json, time
from pathlib import Path
from flwr.app import Message, RecordDict, ConfigRecord
from flwr.serverapp import ServerApp
app = ServerApp()
@app.main()
def main(grid, context):
    nodes = list(grid.get_node_ids())
    asked = [Message(RecordDict({{"c": ConfigRecord({{"x": 1}})}}), n, "query.enrol") for n in nodes]
    names = dict(zip(grid.push_messages(asked), nodes))
    told, until = {{}}, time.time() + 40
    while len(told) < len(names) and time.time() < until:
        for m in grid.pull_messages([n for n in names if names[n] not in told]):
            told[names[m.metadata.reply_to_message_id]] = m.error.code if m.has_error() else 0
        time.sleep(0.2)
    Path({told!r}).write_text(json.dumps(told))
"""
CLIENT = """
from pathlib import Path
Path({marker!r}).mkdir(exist_ok=True)
import os
(Path({marker!r}) / str(os.getpid())).write_text("imported")
from flwr.clientapp import ClientApp
app = ClientApp()
@app.query("enrol")
def enrol(message, context):
    from flwr.app import Message
    return Message(message.content, reply_to=message)
"""
MARKS = """
from pathlib import Path
import os, sys
if "serverapp" not in " ".join(sys.argv):
    Path({marker!r}).mkdir(exist_ok=True)
    (Path({marker!r}) / str(os.getpid())).write_text("imported")
"""
START = """
import sys
from pathlib import Path
import flwr.cli.run.run
module = sys.modules["flwr.cli.run.run"]
content = Path(sys.argv[1]).read_bytes()
module.build_fab_from_disk = lambda _app: content
from flwr.cli.app import app
sys.argv = ["flwr", "run", sys.argv[2], "hub", "--format", "json"]
app()
"""


def files_of(told, marker, *, name="evil", publisher="evil", shadow=()):
    """Return the files of a bundle that tells what nodes answer and marks where it is imported."""
    text = PROJECT.format(name=name, publisher=publisher, version=version("fedseg"))
    found = {
        "pyproject.toml": text.encode(),
        "server/__init__.py": b"",
        "server/app.py": SERVER.format(told=str(told)).encode(),
        "client/__init__.py": b"",
        "client/app.py": CLIENT.format(marker=str(marker)).encode(),
    }
    return found | {path: MARKS.format(marker=str(marker)).encode() for path in shadow}


def zipped(files, more=()):
    """Return a bundle as Flower makes it, with entries besides that it would not make."""
    from flwr.cli.build import build_fab_from_files

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a library of Flower's
        content, _ = build_fab_from_files(files)
    held = io.BytesIO(content)
    with zipfile.ZipFile(held, "a", zipfile.ZIP_DEFLATED) as archive:
        for info, data in more:
            archive.writestr(info, data)
    return held.getvalue()


def link_to(target):
    info = zipfile.ZipInfo("client/link")
    info.create_system, info.external_attr = 3, (0o120777 << 16)
    return info, target


def huge(size):
    """Return an entry of so many zeros, a thousandth of that in the archive."""
    return zipfile.ZipInfo("client/zeros.py"), bytes(size)


def start(hub, content, folder):
    """Start a run of a bundle as somebody at the hub's machine could; return what Flower says."""
    path = folder / "hostile.fab"
    path.write_bytes(content)
    home = hub / "flower" / "desk"
    done = subprocess.run(
        [sys.executable, "-c", START, str(path), str(hub / "flower" / "fedseg")],
        env={**os.environ, **environment(home)}, cwd=home, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    text = done.stdout[done.stdout.find("{") :]
    try:
        answer = json.loads(text)
    except ValueError:
        return (
            f"refused by Flower: {(done.stderr or done.stdout).strip().splitlines()[-1][:120]}"
        )
    return "started" if answer.get("success") else f"refused by Flower: {answer}"[:200]


def digest(content):
    return hashlib.sha256(content).hexdigest()
