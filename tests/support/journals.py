"""Runs' folders for tests of the hub alone: no site, no network, three numbers for weights."""

from dataclasses import asdict

import numpy as np
import pytest

from common.messages import IntensityTotals, Score
from common.study.study import Federation, as_plain
from common.tensors import digest_of, write_tensors
from server.enrolment import pool
from server.journal import ClosedRound, Damage, Journal
from server.recovery import recover
from server.run import RunInfo, read_run, write_run
from server.selection import choose
from tests.support.studies import enrolment, small_study, study_hash, update

TIMES = {"seconds": 1.0, "fold_seconds": 0.1, "gap_seconds": 0.2}


def run_info(**changes):
    """Return what ``run.json`` of a small study says."""
    study = small_study()
    known = {
        "run": "run-1",
        "study": as_plain(study),
        "hash": study_hash(study),
        "created": "2026-01-01T00:00:00+00:00",
        "versions": {"fedseg": "0.1.0"},
        "initial": "0" * 64,
    }
    return RunInfo(**(known | changes))


def accept(journal, site="A", number=1, **changes):
    """Put one site's update of a round into the journal."""
    sent = update(site, round=number, **changes)
    traffic = {"norm": 2.5, "traffic": (10, 20), "seconds": 0.5}
    return journal.accept(sent.report, sent.weights, **traffic)


def close(journal, number, *accepted):
    """Close a round with weights of its own."""
    write_tensors(journal.model(number), {"w": np.full(3, number, np.float32)}, {})
    closed = ClosedRound(
        number=number,
        accepted=accepted,
        refused={"B": "did not answer in time"},
        digest=digest_of(journal.model(number)),
        **TIMES,
    )
    journal.close(closed)
    return closed


def run_of_rounds(folder, scores, *, planned=100):
    """Make a run as the hub leaves it, with two sites and as many closed rounds as scores.

    Args:
        folder: Made.
        scores: Metric of the weights that came into each round, None for none.
        planned: Rounds of the study.
    """
    folder.mkdir()
    initial = folder / "initial.safetensors"
    write_tensors(initial, {"w": np.zeros(3, np.float32)}, {})
    study = small_study(federation=Federation(rounds=planned))
    info = run_info(study=as_plain(study), hash=study_hash(study), initial=digest_of(initial))
    write_run(folder, info)
    journal = Journal(folder)
    totals = {"ct": (IntensityTotals(count=3, total=0.1, squares=7.7),)}
    sites = {site: enrolment(site, {"ct": 3}, study=study, totals=totals) for site in "AB"}
    told = {site: asdict(e) for site, e in sites.items()}
    journal.write("enrolment", {"sites": told, "refused": {}})
    journal.write("pooled", pool(sites.values(), study))
    closed = []
    for number, value in enumerate(scores, 1):
        held = () if value is None else (dice(value),)
        closed.append(close(journal, number, accept(journal, number=number, scores=held)))
        choose(journal, closed, None)
    return journal, info


def dice(value):
    """Return one validation Dice."""
    return Score(modality="ct", label="liver", metric="dice", value=value, cases=3)


# --- damage, and what is done about it ------------------------------------------------------

SCORES = (None, 0.9, 0.2, 0.1)  # so round 1 is the best of four


def put_right(journal):
    """Recover as a new process does, and go on to where the rounds begin."""
    journal = Journal(journal.folder)
    recover(journal, read_run(journal.folder))
    rounds = journal.closed_rounds()
    if rounds:
        journal.tidy(len(rounds))
        choose(journal, rounds, None)
    return rounds


def told(journal):
    """Return what the journal has of damage: by file what was done."""
    found = journal.read("damage", tuple[Damage, ...]) or ()
    return {d.file: d.then for d in found}


def flip(path, at=-1):
    """Flip a bit of one byte of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def halve(path):
    """Leave the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(path):
    """Remove a file."""
    path.unlink()


def everything(folder):
    """Return every file of a folder by its name there."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def close_untidily(journal, number, *held):
    """Close a round as a hub does that is killed before it lets go of the updates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "tidy", lambda *_: None)
        close(journal, number, *held)


each_damage = pytest.mark.parametrize("damage", [flip, halve, remove])
