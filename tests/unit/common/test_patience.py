"""How soon Flower looks again for bytes that are not there yet."""

import time

import pytest
from flwr.supercore import constant
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError, pull_objects

from common.patience import FIRST, LONGEST, TRIES, look_again_after

NAMES = ("pull_objects", "pull_and_inflate_object_from_tree")


@pytest.fixture(autouse=True)
def flower_as_it_comes(monkeypatch):
    usual = {FIRST: constant.PULL_INITIAL_BACKOFF, LONGEST: constant.PULL_BACKOFF_CAP,
             TRIES: constant.PULL_MAX_TRIES_PER_OBJECT}  # fmt: skip
    for name in NAMES:  # an earlier test may have begun a run, which changes it
        function = getattr(inflatable_utils, name)
        monkeypatch.setattr(function, "__kwdefaults__", function.__kwdefaults__ | usual)


def seconds_until_there(looks):
    asked = []

    def pull(_name):
        asked.append(1)
        if len(asked) < looks:
            raise ObjectUnavailableError("x")
        return b"bytes"

    began = time.monotonic()
    assert pull_objects(["x"], pull) == {"x": b"bytes"}
    return time.monotonic() - began


def test_bytes_that_come_a_little_later_are_not_waited_for_a_second():
    assert seconds_until_there(2) > 0.7  # Flower's own, or there is nothing to change
    assert look_again_after(0.01, 0.02)
    assert seconds_until_there(4) < 0.5


def test_more_looks_than_flower_counts_are_no_failure():
    assert look_again_after(1e-5, 1e-5)
    assert seconds_until_there(600) < 10


def test_another_flower_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(inflatable_utils, "pull_objects", lambda names, pull: {})
    assert not look_again_after(0.01, 0.02)
    defaults = inflatable_utils.pull_and_inflate_object_from_tree.__kwdefaults__
    assert defaults["initial_backoff"] == 1
