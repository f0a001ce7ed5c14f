"""Row 25: disks that are full or cannot be written, at the hub and at a site."""

import os
import shutil
import subprocess
import time
from contextlib import contextmanager, suppress

import pytest

from common.errors import RunError
from common.study.load import parse_study
from deploy.local import LocalFederation
from tests.faults.lab import Lab, quiet_end
from tests.support.federations import DEFAULTS, SMALL, phantom_sites

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount small disks"),
]

STUDY = parse_study(
    SMALL.format(**{**DEFAULTS, "rounds": 12, "minimum": 1, "each": 0}).replace(
        "steps: 3", "steps: 40"
    )
)
FULL_SECONDS = 25.0
MOUNT, UMOUNT = (shutil.which(name) or name for name in ("mount", "umount"))


def mount(*arguments):
    subprocess.run([MOUNT, *map(str, arguments)], check=True, capture_output=True)


def unmount(path):
    for _ in range(3):
        subprocess.run([UMOUNT, "-l", str(path)], check=False, capture_output=True)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("d")
    profiles = phantom_sites(folder / "data", modalities=("ct", "ct", "mr"))
    for profile in profiles:
        profile.write_text(profile.read_text() + "checkpoint_seconds: 0.5\n")
    federation = LocalFederation(folder)
    federation.hub.mkdir()
    places = [federation.hub]
    mount("-t", "tmpfs", "-o", "size=96m,mode=700", "tmpfs", federation.hub)
    try:
        federation.make_hub()
        for name in ("runs", "log"):
            mount("-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", federation.hub / name)
            places.append(federation.hub / name)
        federation.start_hub()
        names = [federation.join(profile) for profile in profiles]
        state = federation.site("ct-2") / "state"
        mount("-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", state)
        places.append(state)
        for name in names:
            federation.start_site(name)
        made = Lab(federation, STUDY, profiles, names)
        try:
            yield made
        finally:
            made._simulated.join()
            quiet_end(federation)
    finally:
        for path in reversed(places):
            unmount(path)
        shutil.rmtree(folder / "hub", ignore_errors=True)


@contextmanager
def full(folder):
    """Leave no byte free below a folder's mount."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    with ballast.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"0" * 64)
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def read_only(folder):
    """Let nobody write below a folder, root neither."""
    mount("--bind", folder, folder)
    mount("-o", "remount,ro,bind", folder)
    try:
        yield
    finally:
        subprocess.run([UMOUNT, "-l", str(folder)], check=True, capture_output=True)


PLACES = {
    "hub-journal": lambda lab: lab.federation.hub / "runs",
    "hub-log": lambda lab: lab.federation.hub / "log",
    "hub-database": lambda lab: lab.federation.hub,
    "site-state": lambda lab: lab.federation.site("ct-2") / "state",
}
WAYS = {"full": full, "readonly": read_only}
CASES = [(w, p) for w in WAYS for p in PLACES if (w, p) != ("readonly", "hub-database")]
CLEAR = ("cannot write", "cannot be written", "free space in the hub's folder")
WORDS = {
    "full": ("disk is full", "No space left", "disk full", *CLEAR),
    "readonly": ("Read-only", "read-only", *CLEAR),
}


def how_it_is(lab):
    """Return the run's state and sentence; the register itself may be what cannot be read."""
    try:
        row = lab.row
    except RunError as error:
        return f"register: {error}"
    return f"{row.state}: {row.sentence or 'no sentence'}"


def said(lab, since, state):
    """Return what the register and the logs say of the trouble since a time."""
    hub = lab.federation.hub
    texts = [state, (hub / "log" / "hub.log").read_text(errors="replace")[since:]]
    texts.append(
        (lab.federation.folder / "coordinator.out").read_text(errors="replace")[-4000:]
    )
    site = lab.federation.site("ct-2")
    logs = [site / name for name in ("log/site.log", "log/worker.jsonl")]
    texts += [path.read_text(errors="replace")[-4000:] for path in logs]
    return "\n".join(texts)


@pytest.mark.parametrize(("way", "place"), CASES, ids=[f"{w}.{p}" for w, p in CASES])
def test_a_disk_that_cannot_be_written_pauses_and_loses_nothing(lab, matrix, way, place):
    with matrix(
        f"25.{way}.{place}",
        f"{place} {way} for {FULL_SECONDS:.0f} s while the sites trained",
        "a clear message, a pause, goes on when there is room, nothing accepted lost",
    ) as case:
        lab.fresh()
        number = lab.phase("ct-2", "training", step=0.2)
        log = lab.federation.hub / "log" / "hub.log"
        since = log.stat().st_size
        with WAYS[way](PLACES[place](lab)):
            time.sleep(FULL_SECONDS)
            state = how_it_is(lab)
            told = said(lab, since, state)
        clear = [word for word in WORDS[way] if word in told]
        began = time.monotonic()
        lab.recovered(number, 240)
        lost = lab.tell(case, number, time.monotonic() - began)
        case.happened = f"{state}; said in logs: {clear[:1] or 'nothing'}; " + case.happened
        allowed = place.startswith("site")
        assert not lost or (allowed and set(lost) == {"ct-2"} and len(lost) <= 2), (
            f"rounds were lost: {lost}"
        )
        assert clear or place == "hub-log", "nothing is said of the disk"
