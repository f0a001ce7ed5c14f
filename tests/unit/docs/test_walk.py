"""The page docs/walk.md against the stacks of a small federation that runs."""

import re
import traceback
from pathlib import Path

import pytest
import torch

from deploy.cli.main import app
from server import journal
from server.aggregators import mean
from tests.support.federations import DEFAULTS, SMALL, phantom_sites
from tests.support.studies import ROOT

OURS = ("server", "client", "common", "deploy")
PAGE = (ROOT / "docs" / "walk.md").read_text()
WALKS = {
    "gradient": "Down: from the command to the gradient",
    "accepted": "Up: an answer is written down",
    "folded": "Up: the round closes",
}


def frames_on_the_page(heading):
    """Return (file, function) of each line of the table under a heading."""
    part = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\S+\.py)` \| `(\S+)` \|", part, re.MULTILINE)


def own_frames():
    """Return (file, function) of the project's own frames, outermost first."""
    paths = ((Path(frame.filename), frame.name) for frame in traceback.extract_stack())
    inside = ((p.relative_to(ROOT), name) for p, name in paths if p.is_relative_to(ROOT))
    return [(path.as_posix(), name) for path, name in inside if path.parts[0] in OURS]


def recorded(patch, stacks, name, owner, function):
    """Keep the stack of the first call of a function, which is then called as ever."""
    original = getattr(owner, function)

    def record(*args, **keywords):
        stacks.setdefault(name, own_frames())
        return original(*args, **keywords)

    patch.setattr(owner, function, record)


@pytest.fixture(scope="module")
def stacks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("walk")
    sites = phantom_sites(folder / "data", modalities=("ct", "mr"), cases=3)
    study = folder / "study.yaml"
    study.write_text(SMALL.format(**{**DEFAULTS, "rounds": 1}))
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        recorded(patch, found, "gradient", torch.Tensor, "backward")
        recorded(patch, found, "accepted", journal, "digest_of")
        recorded(patch, found, "folded", mean, "_check_weights")
        given = [part for path in sites for part in ("--site", str(path))]
        command = ["simulate", str(study), *given, "--out", str(folder / "run"), "--quiet"]
        app(command, standalone_mode=False)
    return found


@pytest.mark.parametrize(("name", "heading"), WALKS.items(), ids=WALKS)
def test_the_stack_has_the_frames_of_the_page_in_its_order(stacks, name, heading):
    assert stacks[name] == frames_on_the_page(heading)


def test_every_file_that_the_page_names_is_there():
    named = set(re.findall(r"`((?:server|client|common|deploy|tests)/\S+\.py)`", PAGE))

    assert named
    assert all((ROOT / name).is_file() for name in named)
