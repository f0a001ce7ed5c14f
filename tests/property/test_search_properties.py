"""The space of a search, its front and its rules, for any point."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.study.composable import ComposableUNet
from common.study.load import parse_study
from common.study.study import canonical_json
from deploy.cli.describe import cost_of
from deploy.search.front import front, picked
from deploy.search.pruning import RULES
from deploy.search.space import PARTS, TERMS, OneOf, axes, in_words, refusal, study_at
from tests.support.searches import trial
from tests.support.strategies import checked
from tests.support.studies import small_study

DICE = st.integers(0, 10).map(lambda tenths: tenths / 10)
CURVES = st.lists(DICE, min_size=1, max_size=9).map(
    lambda values: {str(number): dice for number, dice in enumerate(values, 1)}
)
SMALL = {"width": st.just(4), "levels": st.integers(2, 3)}


def points(over, **fixed):
    """Return points of a search's space."""
    drawn = {
        name: st.sampled_from(axis.options)
        if isinstance(axis, OneOf)
        else st.floats(axis.low, axis.high)
        for name, axis in axes(over).items()
    }
    return st.fixed_dictionaries(drawn | fixed)


def study_in(dimensions):
    study = small_study(dimensions=dimensions, network=ComposableUNet(widths=(4, 8)))
    return replace(study, training=replace(study.training, patch=(16,) * dimensions))


@checked
@given(points("both"), st.sampled_from([2, 3]))
def test_every_point_is_a_study_that_can_be_written_and_read_or_says_why_not(point, dimensions):
    study = study_at(study_in(dimensions), point)

    if why := refusal(study):
        assert "training.patch" in why or "network.name" in why
        return
    assert parse_study(canonical_json(study)) == study
    assert in_words(study, "both")


@settings(deadline=None, max_examples=12, derandomize=True)
@given(points("network", **SMALL), st.sampled_from([2, 3]))
def test_every_study_that_is_not_refused_builds_a_network_that_answers(point, dimensions):
    study = study_at(study_in(dimensions), point)

    if not refusal(study):
        assert isinstance(study.network, ComposableUNet)
        assert cost_of(study).parameters > 0


@checked
@given(points("loss"))
def test_the_weights_of_a_loss_are_shares(point):
    loss = study_at(small_study(), point).loss

    assert math.isclose(sum(term.weight for term in loss.terms), 1, abs_tol=0.06)
    assert {term.loss.name for term in loss.terms} <= set(TERMS)
    assert not loss.problems()


@pytest.mark.parametrize("part", PARTS)
def test_the_choices_are_those_that_a_study_can_name(part):
    assert axes("network")[part].options == get_args(get_type_hints(ComposableUNet)[part])


@checked
@given(st.lists(st.tuples(DICE, st.integers(1, 9)), max_size=12))
def test_the_front_is_what_no_other_trial_beats(pairs):
    trials = [trial(n, dice, size) for n, (dice, size) in enumerate(pairs, 1)]

    def beaten(dice, size):
        return any(d >= dice and s <= size and (d, s) != (dice, size) for d, s in pairs)

    found = front(trials)

    assert {t.number for t in found} == {
        n for n, pair in enumerate(pairs, 1) if not beaten(*pair)
    }
    assert all(one.outcome.dice >= two.outcome.dice for one, two in pairwise(found))
    for pick in ("dice", "knee"):
        assert picked(trials, pick) in [*found, *([] if found else [None])]


@checked
@given(CURVES, st.lists(CURVES, max_size=8), st.sampled_from(sorted(RULES)))
def test_no_rule_stops_a_trial_that_is_better_than_all_others(curve, others, name):
    best = {number: dice + 2 for number, dice in curve.items()}

    assert RULES[name](best, others) == ""
    assert RULES[name](curve, []) == ""
