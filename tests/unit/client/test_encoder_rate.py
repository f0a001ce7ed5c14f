"""An encoder that learns at its own rate, or not yet; every other network as ever."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from client.state import load_optimizer, optimizer_arrays
from client.training import build_optimizer, fit
from common.networks import build_network
from common.networks.transfer import encoder_parameters
from common.networks.view import NamedArrays
from common.study import Training
from common.study.transfer import PretrainedUNet
from tests.support.federations import small_study as trainable
from tests.support.jobs import Jobs, worker_of
from tests.support.studies import TINY, small_study
from tests.unit.client.test_training import case_of, plan_of

# a rate at which a step of every weight is more than rounding
TRAINING = Training(
    steps=1, batch=1, patch=(64, 64), gradient_clip=0.0, weight_decay=0.0, learning_rate=0.1
)
SMALLEST = PretrainedUNet(encoder="resnet10", decoder=(8, 8, 8, 8, 8))


def trained(*rates, optimizer="sgd", state=None):
    """Train a step for each rate of the encoder; return start, end and the optimiser's state."""
    training = replace(TRAINING, optimizer=optimizer)
    study = small_study(network=SMALLEST, training=training)
    network = build_network(study)
    arrays, steps = NamedArrays(network, study), build_optimizer(network, training)
    before = arrays.read()
    for number, rate in enumerate(rates):
        plan = plan_of(study, [case_of((1, 2))], encoder_rate=rate, first_step=number, steps=1)
        fit(network, steps, plan)
    return before, arrays.read(), (network, steps)


def changes(before, after, *, encoder):
    other = {"ct": ".bank.mr.", "mr": ".bank.ct."}[case_of((1, 2)).files.modality]
    names = [n for n in before if n.startswith("encoder.") == encoder and other not in n]
    return {name: after[name] - before[name] for name in names}


def test_the_encoders_step_is_the_others_times_the_factor():
    before, full, _ = trained(1.0)
    _, tenth, _ = trained(0.1)

    for name, change in changes(before, full, encoder=True).items():
        assert change.any(), name
        np.testing.assert_allclose(
            tenth[name] - before[name], 0.1 * change, rtol=1e-3, atol=2e-7, err_msg=name
        )
    for name in changes(before, full, encoder=False):
        assert (tenth[name] == full[name]).all(), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_encoder_that_stands_still_moves_when_it_may(optimizer):
    before, after, (network, steps) = trained(0.0, optimizer=optimizer)

    assert not any(c.any() for c in changes(before, after, encoder=True).values())
    assert all(c.any() for c in changes(before, after, encoder=False).values())
    assert not any(name.startswith("encoder.") for name in optimizer_arrays(steps, network))

    before, after, (network, steps) = trained(0.0, 0.0, 1.0, optimizer=optimizer)
    assert all(c.any() for c in changes(before, after, encoder=True).values())
    assert any(name.startswith("encoder.") for name in optimizer_arrays(steps, network))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("first", [0.0, 0.5])
def test_an_optimiser_of_two_groups_goes_on_from_its_state_by_name(optimizer, first):
    _, whole, _ = trained(first, 0.5, optimizer=optimizer)
    _, _, (network, steps) = trained(first, optimizer=optimizer)
    saved = optimizer_arrays(steps, network)
    training = replace(TRAINING, optimizer=optimizer)
    study = small_study(network=SMALLEST, training=training)

    fresh = build_optimizer(network, training)
    load_optimizer(fresh, network, saved)
    fit(
        network,
        fresh,
        plan_of(study, [case_of((1, 2))], encoder_rate=0.5, first_step=1, steps=1),
    )

    again = NamedArrays(network, study).read()
    assert all((again[n] == whole[n]).all() for n in whole)


@pytest.mark.parametrize("name", ["unet", "swin_unetr", "detect_then_segment"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_other_networks_have_one_group_as_torch_makes_it(name, optimizer):
    network = build_network(small_study(network=TINY[name]))
    training = Training(optimizer=optimizer)
    mine = build_optimizer(network, training)
    plain = {
        "sgd": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.99, nesterov=True, weight_decay=1e-5),
        "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=1e-5, fused=True),
    }[optimizer](network.parameters())  # fmt: skip

    assert encoder_parameters(network) == []
    assert mine.state_dict() == plain.state_dict()
    pairs = zip(mine.param_groups[0]["params"], network.parameters(), strict=True)
    assert all(one is other for one, other in pairs)


@pytest.mark.parametrize("name", ["unet", "swin_unetr"])
def test_other_networks_have_no_rate_of_their_own(name):
    assert {TINY[name].encoder_factor(number) for number in (1, 2, 50)} == {1.0}


def test_rounds_are_counted_from_one():
    config = replace(SMALLEST, encoder_rate=0.1, frozen_rounds=2)

    assert [config.encoder_factor(number) for number in (1, 2, 3, 4)] == [0.0, 0.0, 0.1, 0.1]
    assert SMALLEST.encoder_factor(1) == 1.0


# --- at a site -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jobs():
    study = trainable(rounds=2)
    network = replace(SMALLEST, frozen_rounds=1)
    training = replace(study.training, patch=(64, 64), steps=1)
    return Jobs(replace(study, network=network, training=training))


def moved(before, after):
    """Return whether the encoder moved, and whether the rest did."""
    return [
        any((after[n] != before[n]).any() for n in before if n.startswith("encoder.") == part)
        for part in (True, False)
    ]


def test_a_site_keeps_the_encoder_in_the_first_rounds_and_moves_it_after(site, tmp_path, jobs):
    worker, start = worker_of(site, tmp_path), jobs.weights

    first = worker.train(jobs.train(1, validate=False)).weights
    second = worker.train(jobs.train(2, {**start, **first}, validate=False)).weights

    assert moved(first, start) == [False, True]
    assert moved(second, first) == [True, True]


def test_a_site_alone_starts_from_the_weights_that_came_and_keeps_the_encoder_as_long(
    site, tmp_path, jobs
):
    one = replace(jobs.study, federation=replace(jobs.study.federation, rounds=1))
    short, worker = Jobs(one), worker_of(site, tmp_path)
    start = {n: a + np.float32(0.25) if n.startswith("encoder.") else a
             for n, a in short.weights.items()}  # fmt: skip
    alone = replace(short.alone(), weights=start)

    worker.train_alone(alone)

    held = worker._session.arrays.read()
    assert all((held[n] == start[n]).all() for n in start if n.startswith("encoder."))
    assert any((held[n] != start[n]).any() for n in start if n.startswith("decoder."))
