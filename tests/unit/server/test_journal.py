import json
import logging
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DamagedError, RunError, RunInUseError
from common.sealed import read_sealed, write_sealed
from common.tensors import check_digest, digest_of, read_tensors, write_tensors
from server.journal import Best, Chosen, Journal, owning
from server.run import read_run, write_run
from tests.support.journals import accept, close, run_info
from tests.support.studies import ROOT, update


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path)


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
    report.write_text(report.read_text().replace('"steps": 20', '"steps": 21'))

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


def test_rounds_of_more_than_four_digits_keep_their_order(journal):
    numbers = [9998, 9999, 10000, 10001]
    for number in numbers:
        close(journal, number)

    assert journal.recorded() == numbers
    assert journal.folded() == numbers[-2:]


def test_a_missing_record_between_rounds_is_told(journal):
    for number in (1, 2, 3):
        close(journal, number)
    journal.round_record(2).unlink()

    with pytest.raises(DamagedError, match=r"round-0002\.json: is missing; restore it"):
        journal.closed_rounds()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is empty"),
        ('{"number": 1', "cannot be read: it is half written"),
        ("{}", "carries no checksum"),
        ("[]", "carries no checksum"),
        ("\udcff", "cannot be read"),
        ("[" * 10_000, "cannot be read"),
    ],
    ids=["empty", "cut", "without fields", "a list", "no text", "deep"],
)
def test_a_damaged_round_is_told_with_its_file(journal, text, what):
    path = journal.round_record(1)
    path.write_bytes(text.encode(errors="surrogateescape"))

    with pytest.raises(DamagedError, match=rf"round-0001\.json: {what}"):
        journal.closed_rounds()


def test_a_record_of_another_run_is_told(tmp_path):
    for name in ("run-1", "run-2"):
        (tmp_path / name).mkdir()
        write_run(tmp_path / name, run_info(run=name))
    close(Journal(tmp_path / "run-1"), 1)
    journal = Journal(tmp_path / "run-2")
    shutil.copy(Journal(tmp_path / "run-1").round_record(1), journal.round_record(1))

    with pytest.raises(DamagedError, match="is not what belongs there: it is of run run-1"):
        journal.closed_rounds()


def test_a_record_of_another_round_is_told(journal):
    close(journal, 1)
    shutil.copy(journal.round_record(1), journal.round_record(2))

    with pytest.raises(DamagedError, match=r"it was journal/round-0001\.json"):
        journal.closed_rounds()


def test_a_record_of_another_form_is_no_damage_but_of_another_release(journal):
    journal.seal(journal.round_record(1), {"number": 1, "colour": "red"})

    with pytest.raises(RunError, match="go on with the release that wrote it") as caught:
        journal.closed_rounds()
    assert not isinstance(caught.value, DamagedError)


def written_run(folder):
    """Write one of each kind of file that a run has, and return their readers by file."""
    write_tensors(folder / "initial.safetensors", {"w": np.zeros(2, np.float32)}, {})
    write_run(folder, run_info(initial=digest_of(folder / "initial.safetensors")))
    journal = Journal(folder)
    close(journal, 1, accept(journal))
    journal.keep_best(1)
    accept(journal, number=2, loss=math.nan)
    journal.write("best", Chosen(best=Best(round=3, value=0.1), history={"3": 0.1}))
    journal.write("pooled", {"statistics": {"ct": [[-0.1, 1e300]]}})
    return {
        "initial.safetensors": lambda: check_digest(journal.model(0), read_run(folder).initial),
        "run.json": lambda: read_run(folder),
        "journal/round-0001.json": lambda: journal.closed_round(1),
        "journal/best.json": lambda: journal.read("best", Chosen),
        "journal/pooled.json": lambda: journal.read("pooled", dict),
        "journal/round-0002/A.json": lambda: raise_damage(journal.updates(2)),
        "journal/round-0002/A.safetensors": lambda: raise_damage(journal.updates(2)),
        "models/round-0001.safetensors": lambda: journal.whole_model(1),
        "models/best.safetensors": journal.whole_best_model,
    }


def raise_damage(updates):
    for error in updates[1].values():
        raise error


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    readers = written_run(folder)
    files = {name: (folder / name).read_bytes() for name in readers}
    held = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert held == set(files)
    return folder, readers, files


@given(where=st.data(), share=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
@settings(deadline=None, max_examples=400)
def test_a_change_of_any_one_byte_of_any_file_is_found(whole_run, where, share, change):
    folder, readers, files = whole_run
    name = where.draw(st.sampled_from(sorted(files)))
    data = bytearray(files[name])
    data[int(share * len(data))] ^= change
    try:
        (folder / name).write_bytes(data)
        with pytest.raises(DamagedError) as caught:
            readers[name]()
    finally:
        (folder / name).write_bytes(files[name])
    assert caught.value.path == folder / name
    readers[name]()


@given(where=st.data(), share=st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=200)
def test_a_file_cut_short_anywhere_is_found(whole_run, where, share):
    folder, readers, files = whole_run
    name = where.draw(st.sampled_from(sorted(files)))
    try:
        (folder / name).write_bytes(files[name][: int(share * len(files[name]))])
        with pytest.raises(DamagedError):
            readers[name]()
    finally:
        (folder / name).write_bytes(files[name])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(record=JSON)
@settings(deadline=None)
def test_whatever_is_sealed_comes_back(tmp_path_factory, record):
    path = tmp_path_factory.getbasetemp() / "any.json"

    write_sealed(path, record, file="any.json", run="r")

    assert repr(read_sealed(path, file="any.json", run="r")) == repr(
        json.loads(json.dumps(record, sort_keys=True))
    )


def test_a_file_that_may_not_be_read_is_no_damage(journal, monkeypatch):
    close(journal, 1)

    def denied(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", denied)
    with pytest.raises(RunError, match="cannot be read: Permission denied") as caught:
        journal.closed_rounds()
    assert not isinstance(caught.value, DamagedError)


def test_what_is_set_aside_keeps_its_place_and_never_covers_what_was_there(journal):
    for _ in range(2):
        close(journal, 1)
        journal.set_aside([journal.round_record(1)])

    found = sorted(journal.place(path) for path in journal.folder.rglob("damaged/*/*/*"))
    assert found == [f"damaged/000{n}/journal/round-0001.json" for n in (1, 2)]


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
