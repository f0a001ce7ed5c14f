"""When reports of one site come from two machines, and when it only looks so."""

from types import SimpleNamespace

import pytest

from server.control.machines import WINDOW_SECONDS, Machines


@pytest.fixture
def clock():
    return SimpleNamespace(now=1000.0)


@pytest.fixture
def said(clock):
    machines = Machines(lambda: clock.now)

    def report(names, seconds=5.0, site="S"):
        found = False
        for name in names:
            clock.now += seconds
            found = machines.are_two(site, name.strip("-"))
        return found

    return report


def test_two_that_report_by_turns_are_two(said):
    assert not said("AAAAB")
    assert said("ABAB")


def test_a_working_one_and_an_idle_one_are_two(said):
    assert said("AAAAABAAAAABAAAAAB", seconds=1.0)


@pytest.mark.parametrize(
    "names", ["AAABBBCCC", "ABCDEFGH", "AAABABBBB", "-A-A-A", "------"],
    ids=["two restarts", "a crash loop", "an overtaken report", "an older one", "older ones"],
)  # fmt: skip
def test_one_that_starts_again_is_one(said, names):
    assert not said(names)


def test_when_one_of_two_is_stopped_it_is_one_again(said):
    assert said("ABABABAB")
    assert not said("A" * int(WINDOW_SECONDS / 5 + 1))


def test_reports_of_different_sites_are_not_mixed(said):
    for _ in range(6):
        assert not said("A", site="S")
        assert not said("B", site="T")


def test_a_clock_that_jumps_forgets_rather_than_accuses(said, clock):
    said("ABA")
    clock.now -= 86_400.0
    assert not said("BA")
