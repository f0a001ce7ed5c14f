"""Paths and operations that are learnt in turn with the weights, by other cases."""

from dataclasses import replace

import pytest
import torch

from client.state import load_optimizer, optimizer_arrays
from client.training import Fitted, build_optimizer, fit
from common.networks import build_network
from common.networks.view import NamedArrays
from common.parameters import SHARED
from common.study import Training
from common.study.dints import DintsSearch
from tests.support.studies import small_study
from tests.unit.client.test_training import case_of, plan_of

SPACE = DintsSearch(width=2, blocks=2, depths=2)
TRAINING = Training(steps=1, batch=1, patch=(16, 16), weight_decay=0.1, learning_rate=0.01)
CASE = case_of((1, 2))
OTHER = replace(CASE, image=-CASE.image)
PATHS = {"dints_space.log_alpha_a", "dints_space.log_alpha_c"}


def trained(*rates, optimizer="adamw", others=(OTHER,)):
    """Train a step for each rate of the paths."""
    study = small_study(network=SPACE, training=replace(TRAINING, optimizer=optimizer))
    network = build_network(study)
    arrays, steps = NamedArrays(network, study), build_optimizer(network, study.training)
    before, fitted = arrays.read(), Fitted()
    for number, rate in enumerate(rates):
        plan = plan_of(
            study, [CASE], path_rate=rate, path_cases=others, first_step=number, steps=1
        )
        fitted = fit(network, steps, plan)
    return before, arrays.read(), fitted, (network, steps)


def moved(before, after):
    return {name for name in before if (before[name] != after[name]).any()}


def test_the_hub_averages_paths_and_operations_like_weights():
    study = small_study(network=SPACE)

    table = NamedArrays(build_network(study), study).table

    assert {table[name].kind for name in PATHS} == {SHARED}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_paths_stand_still_until_their_round_and_then_move(optimizer):
    before, still, _, _ = trained(0.0, 0.0, optimizer=optimizer)
    _, then, _, _ = trained(0.0, 1.0, optimizer=optimizer)

    assert not moved(before, still) & PATHS
    assert moved(before, then) >= PATHS


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_step_of_the_paths_moves_nothing_else(optimizer):
    _, alone, _, _ = trained(0.0, optimizer=optimizer)
    _, both, _, _ = trained(1.0, optimizer=optimizer)

    assert moved(alone, both) == PATHS


def test_paths_go_by_the_other_cases():
    _, one, _, _ = trained(1.0, others=(OTHER,))
    _, two, _, _ = trained(1.0, others=(CASE,))

    assert moved(one, two) == PATHS


def test_the_other_cases_are_not_counted_as_trained_nor_in_the_class_sums():
    _, _, alone, _ = trained(0.0)
    _, _, both, _ = trained(1.0)

    assert both.used == alone.used
    assert both.loss == alone.loss
    for modality, sums in both.sums.items():
        assert torch.equal(sums.counts, alone.sums[modality].counts)


def test_the_rate_of_the_paths_is_a_factor():
    before, full, _, _ = trained(1.0, optimizer="sgd")
    _, tenth, _, _ = trained(0.1, optimizer="sgd")

    for name in PATHS:
        torch.testing.assert_close(
            torch.from_numpy(tenth[name] - before[name]),
            torch.from_numpy(0.1 * (full[name] - before[name])), rtol=1e-3, atol=1e-7,
        )  # fmt: skip


def test_an_optimiser_with_paths_goes_on_from_its_state_by_name():
    _, whole, _, _ = trained(1.0, 1.0)
    _, first, _, (network, steps) = trained(1.0)
    study = small_study(network=SPACE, training=TRAINING)
    again = build_network(study)
    NamedArrays(again, study).write(first)
    then = build_optimizer(again, TRAINING)
    load_optimizer(then, again, optimizer_arrays(steps, network))

    plan = plan_of(study, [CASE], path_rate=1.0, path_cases=(OTHER,), first_step=1, steps=1)
    fit(again, then, plan)

    assert not moved(whole, NamedArrays(again, study).read())


def test_a_study_says_from_which_round_on_paths_move():
    space = replace(SPACE, warmup_rounds=2, path_rate=3.0)

    assert [space.path_factor(number) for number in (1, 2, 3)] == [0.0, 0.0, 3.0]
    assert small_study().network.path_factor(3) == 0.0
