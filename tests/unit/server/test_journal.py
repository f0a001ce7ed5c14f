import json
import logging
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from common.errors import InputError, RunError, RunInUseError
from common.study.study import as_plain
from common.tensors import digest_of, read_tensors, write_tensors
from server.journal import Best, Chosen, ClosedRound, Journal, owning
from server.run import RunInfo, read_run, write_run
from tests.support.studies import ROOT, small_study, study_hash, update


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path)


def accept(journal, site="A", number=1, **changes):
    sent = update(site, round=number, **changes)
    traffic = {"norm": 2.5, "traffic": (10, 20), "seconds": 0.5}
    return journal.accept(sent.report, sent.weights, **traffic)


def close(journal, number, *accepted):
    write_tensors(journal.model(number), {"w": np.full(3, number, np.float32)}, {})
    closed = ClosedRound(
        number=number,
        accepted=accepted,
        refused={"B": "did not answer in time"},
        digest=digest_of(journal.model(number)),
        seconds=1.0,
        fold_seconds=0.1,
        gap_seconds=0.2,
    )
    journal.close(closed)
    return closed


def test_an_accepted_update_is_found_again_by_another_process(journal):
    accepted = accept(journal)

    assert Journal(journal.folder).accepted(1) == {"A": accepted}
    found = read_tensors(journal.update_file(1, "A"))
    np.testing.assert_array_equal(found["w"], update().weights["w"], strict=True)


def test_a_loss_that_is_not_a_number_can_be_read_back(journal):
    accept(journal, loss=math.nan)

    assert math.isnan(journal.accepted(1)["A"].report.loss)


def truncate(weights, _report):
    os.truncate(weights, weights.stat().st_size - 1)


def flip_a_byte(weights, _report):
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def lose_the_weights(weights, _report):
    weights.unlink()


def lose_the_report(_weights, report):
    report.unlink()


def leave_a_half_written_report(_weights, report):
    report.rename(report.with_name(f".{report.name}.1.part"))


def write_the_weights_of_a_second_try(weights, _report):
    write_tensors(weights, {"w": np.zeros((2, 3), np.float32)}, {})


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip_a_byte,
        lose_the_weights,
        lose_the_report,
        leave_a_half_written_report,
        write_the_weights_of_a_second_try,
    ],
    ids=lambda damage: damage.__name__.replace("_", " "),
)
def test_what_is_not_whole_is_as_if_never_sent(journal, damage):
    kept = accept(journal, "B")
    accept(journal, "A")
    weights = journal.update_file(1, "A")

    damage(weights, weights.with_suffix(".json"))

    assert journal.accepted(1) == {"B": kept}
    assert accept(journal, "A") == journal.accepted(1)["A"]


def test_a_damaged_report_is_as_if_never_sent_and_that_is_said(journal, caplog):
    accept(journal)
    report = journal.update_file(1, "A").with_suffix(".json")
    report.write_text(report.read_text().replace('"steps": 20', '"steps": "many"'))

    with caplog.at_level(logging.INFO, "fedseg.hub"):
        logging.getLogger("fedseg.hub").propagate = True
        assert journal.accepted(1) == {}

    assert {"round": 1, "site": "A"} in [record.fields for record in caplog.records]


def test_a_closed_round_keeps_two_models_and_lets_its_updates_go(journal):
    journal.model(0).write_bytes(b"initial")
    for number in (1, 2, 3):
        close(journal, number, accept(journal, number=number))
    accept(journal, number=4)

    names = sorted(str(p.relative_to(journal.folder)) for p in journal.folder.rglob("*.*"))

    assert names == [
        "initial.safetensors",
        "journal/round-0001.json",
        "journal/round-0002.json",
        "journal/round-0003.json",
        "journal/round-0004/A.json",
        "journal/round-0004/A.safetensors",
        "models/round-0002.safetensors",
        "models/round-0003.safetensors",
    ]


def test_a_crash_between_closing_and_tidying_is_mended_by_tidying_again(journal):
    close(journal, 1, accept(journal))
    accept(journal)

    journal.tidy(1)
    journal.tidy(1)

    assert journal.accepted(1) == {}
    assert journal.model(1).exists()


def test_closed_rounds_come_back_as_they_were(journal):
    closed = [close(journal, n, accept(journal, number=n)) for n in (1, 2)]

    assert Journal(journal.folder).closed_rounds() == closed


def test_rounds_of_more_than_four_digits_keep_their_order(journal, monkeypatch):
    closed = close(journal, 1)
    for number in range(2, 12):
        name = f"round-{number if number > 9 else f'000{number}'}.json"
        record = (journal.folder / "journal" / "round-0001.json").read_text()
        changed = json.loads(record) | {"number": number}
        (journal.folder / "journal" / name).write_text(json.dumps(changed))

    assert [r.number for r in journal.closed_rounds()] == list(range(1, 12))
    assert journal.closed_rounds()[0] == closed


def test_a_gap_between_rounds_is_told(journal):
    for number in (1, 2, 3):
        close(journal, number)
    (journal.folder / "journal" / "round-0002.json").unlink()

    with pytest.raises(RunError, match=r"rounds are missing; found \[1, 3\]"):
        journal.closed_rounds()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "cannot be read"),
        ('{"number": 1', "cannot be read"),
        ("{}", "is damaged"),
        ("[]", "is damaged"),
        ("\udcff", "cannot be read"),
    ],
    ids=["empty", "cut", "without fields", "a list", "no text"],
)
def test_a_damaged_round_is_told_with_its_file(journal, text, what):
    path = journal.folder / "journal" / "round-0001.json"
    path.write_bytes(text.encode(errors="surrogateescape"))

    with pytest.raises(RunError, match=rf"round-0001\.json: {what}"):
        journal.closed_rounds()


def test_weights_that_were_changed_are_told(journal):
    closed = close(journal, 1)
    journal.check_model(closed)

    flip_a_byte(journal.model(1), None)
    with pytest.raises(RunError, match="is not what round 1 wrote; restore it"):
        journal.check_model(closed)
    journal.model(1).unlink()
    with pytest.raises(RunError, match="is not what round 1 wrote"):
        journal.check_model(closed)


def test_the_best_weights_are_a_copy_that_outlives_its_round(journal):
    close(journal, 1)
    journal.keep_best(1)
    for number in (2, 3):
        close(journal, number)

    assert not journal.model(1).exists()
    np.testing.assert_array_equal(read_tensors(journal.best_model)["w"], np.full(3, 1.0))


def test_single_records_come_back_or_are_none(journal):
    chosen = Chosen(best=Best(round=3, value=0.5), history={"3": 0.5})

    assert journal.read("best", Chosen) is None
    journal.write("best", chosen)
    assert journal.read("best", Chosen) == chosen


TRY_TO_OWN = """
import sys
from pathlib import Path
from common.errors import RunInUseError
from server.journal import owning
try:
    with owning(Path(sys.argv[1])):
        print("owned")
except RunInUseError as error:
    print(error)
"""


def owner_elsewhere(folder):
    command = [sys.executable, "-c", TRY_TO_OWN, str(folder)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_a_second_process_is_kept_out_until_the_first_is_done(tmp_path):
    with owning(tmp_path):
        assert "another process works on this run" in owner_elsewhere(tmp_path)
    assert owner_elsewhere(tmp_path) == "owned\n"


def test_an_error_gives_the_folder_free(tmp_path):
    with pytest.raises(ValueError, match="x"), owning(tmp_path):
        raise ValueError("x")

    with owning(tmp_path), pytest.raises(RunInUseError), owning(tmp_path):
        pass


def info():
    study = small_study()
    return RunInfo(
        run="run-1",
        study=as_plain(study),
        hash=study_hash(study),
        created="2026-01-01T00:00:00+00:00",
        versions={"fedseg": "0.1.0"},
    )


def test_a_run_comes_back_with_its_study(tmp_path):
    write_run(tmp_path, info())

    assert read_run(tmp_path) == info()
    assert read_run(tmp_path).typed_study == small_study()


def test_a_study_changed_after_the_run_began_is_refused(tmp_path):
    changed = as_plain(small_study(seed=2))
    write_run(tmp_path, replace(info(), study=changed))

    with pytest.raises(RunError, match="the study was changed after the run began"):
        read_run(tmp_path)


def test_a_folder_that_is_no_run_and_a_damaged_one_are_told_apart(tmp_path):
    with pytest.raises(InputError, match=r"is not a run; it has no readable run\.json"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunError, match="is not valid JSON"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text('{"run": 1}')
    with pytest.raises(RunError, match=r"run\.json: "):
        read_run(tmp_path)
