"""A case that ends the process that reads it."""

import json
import os
import signal

import pytest

from client.data.dataset import CaseFiles
from client.data.guard import CRASHED, READING, SUSPECTS, ReadingGuard, identity_of
from common.errors import CaseError
from tests.support.studies import small_study


def read_or_die(case, study):
    """Stand for a reader: run by the child, where it does what the case is called."""
    if case.name == "deadly":
        os.kill(os.getpid(), signal.SIGSEGV)
    if case.name == "bad":
        raise CaseError("unreadable", "bad")


def case_of(folder, name):
    image = folder / f"{name}.nii"
    if not image.exists():
        image.write_bytes(name.encode())
    return CaseFiles(
        name=name, subject=name, modality="ct", images=(image,), label=None, ids=((0, 0),),
        annotated=(), split=None,
    )  # fmt: skip


@pytest.fixture
def study():
    return small_study()


@pytest.fixture
def ended_while_reading(tmp_path):
    """A process was ended while it read the deadly case."""

    def make():
        (tmp_path / READING).write_text(identity_of(case_of(tmp_path, "deadly")))
        return ReadingGuard(tmp_path, read_or_die)

    return make


def test_a_case_is_named_while_it_is_read_and_not_after(tmp_path, study):
    case = case_of(tmp_path, "sound")
    with ReadingGuard(tmp_path).reading(case, study):
        assert (tmp_path / READING).read_text() == identity_of(case)
    assert not (tmp_path / READING).exists()


def test_an_ordinary_error_leaves_no_suspicion(tmp_path, study):
    guard = ReadingGuard(tmp_path)
    with pytest.raises(CaseError), guard.reading(case_of(tmp_path, "bad"), study):
        raise CaseError("unreadable", "bad")
    assert not (tmp_path / READING).exists()
    assert not (tmp_path / SUSPECTS).exists()


def test_a_case_that_ended_its_reader_is_set_aside_and_the_others_are_read(
    tmp_path, study, ended_while_reading
):
    guard = ended_while_reading()
    try:
        with pytest.raises(CaseError) as caught:
            guard.reading(case_of(tmp_path, "deadly"), study).__enter__()
        for name in ("sound", "bad"):  # what is wrong with it is the parent's to find
            with guard.reading(case_of(tmp_path, name), study):
                pass
    finally:
        guard.close()
    assert caught.value.reason == CRASHED
    assert json.loads((tmp_path / SUSPECTS).read_text()) == [
        identity_of(case_of(tmp_path, "deadly"))
    ]


def test_a_process_ended_for_another_reason_costs_the_case_nothing(tmp_path, study):
    case = case_of(tmp_path, "sound")
    (tmp_path / READING).write_text(identity_of(case))
    guard = ReadingGuard(tmp_path, read_or_die)
    try:
        with guard.reading(case, study):
            pass
    finally:
        guard.close()
    assert json.loads((tmp_path / SUSPECTS).read_text()) == []


@pytest.mark.slow  # each child takes seconds to start
def test_a_suspect_is_tried_again_by_a_child_in_every_later_process(
    tmp_path, study, ended_while_reading
):
    ended_while_reading()
    guard = ReadingGuard(tmp_path, read_or_die)
    try:
        with pytest.raises(CaseError):
            guard.reading(case_of(tmp_path, "deadly"), study).__enter__()
    finally:
        guard.close()


def test_a_replaced_file_is_another_case(tmp_path):
    case = case_of(tmp_path, "deadly")
    before = identity_of(case)
    case.images[0].write_bytes(b"exported again")
    assert identity_of(case) != before
