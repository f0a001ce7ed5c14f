import json
import logging

import numpy as np
import pytest

from common.catalogue import nearest, unknown
from common.errors import FedsegError, InputError, RefusedError, RunError, StudyError
from common.events import HUB, JsonLines, emit
from common.files import write_json, write_text, writing
from common.seeds import generator, seed_of


def test_a_seed_is_a_function_of_its_purpose_alone():
    assert seed_of(1, "splits", 3) == seed_of(1, "splits", "3")
    assert seed_of(1, "a", "b") != seed_of(1, "ab")
    assert len({seed_of(s, p, n) for s in (1, 2) for p in ("x", "y") for n in (1, 2)}) == 8
    assert 0 <= seed_of(1, "x") < 2**63


def test_a_generator_draws_the_same_again():
    one, two = (generator(1, "patches", 2).normal(size=3) for _ in range(2))

    np.testing.assert_array_equal(one, two)


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "before")

    def fail():
        with writing(path) as file:
            file.write(b"after")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        fail()

    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(RunError, match="cannot be written: No such file or directory"):
        write_text(tmp_path / "none" / "a.txt", "text")


def test_json_is_written_sorted(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [1]})

    assert list(json.loads((tmp_path / "a.json").read_text())) == ["a", "b"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [("unett", "; did you mean unet?"), ("UNET", "; did you mean unet?"), ("transformer", "")],
)
def test_the_nearest_spelling_is_offered_where_there_is_one(word, expected):
    assert nearest(word, ("unet", "dynunet")) == expected
    assert unknown(word, ("unet", "dynunet")).endswith(f"known: dynunet, unet{expected}")


@pytest.mark.parametrize(("kind", "code"), [(InputError, 2), (RefusedError, 3), (RunError, 4)])
def test_every_error_ends_with_its_own_code(kind, code):
    assert kind("x").exit_code == code
    assert issubclass(kind, FedsegError)


def test_all_problems_of_a_file_are_in_the_message():
    error = StudyError(["one", "two"])

    assert (str(error), error.problems, error.exit_code) == ("one\ntwo", ("one", "two"), 2)


def test_events_become_json_lines_and_floods_are_left_out(tmp_path):
    handler = JsonLines(tmp_path / "log.jsonl")
    HUB.addHandler(handler)
    HUB.setLevel(logging.INFO)
    try:
        emit(HUB, "round_closed", round=3, where=tmp_path)
        emit(HUB, "step", loss=1.0)
    finally:
        HUB.removeHandler(handler)
        handler.close()

    (line,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert (line["event"], line["who"], line["round"]) == ("round_closed", "fedseg.hub", 3)
