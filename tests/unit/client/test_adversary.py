"""The critic of SegAN: what it measures, what it learns, and that it never leaves its site."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from client.adversary import Adversary, masked
from client.schemes import SCHEMES
from client.session import bytes_of_arrays
from client.training import build_optimizer, fit
from common.networks import build_network
from common.study import Training, canonical_json, parse_study
from common.study.schemes import SchemeConfig, SegAN, Supervised
from tests.support.federations import same_bits
from tests.support.federations import small_study as trainable
from tests.support.jobs import Jobs, moved, worker_of
from tests.support.studies import small_study
from tests.unit.client.test_training import case_of, plan_of

SMALL = SegAN(width=4, layers=2)
TRAINING = Training(steps=4, batch=2, patch=(16, 16), scheme=SMALL)
STUDY = small_study(training=TRAINING)
CPU = torch.device("cpu")


def adversary_of(config=SMALL, study=STUDY, seed=7):
    return Adversary(config, study=study, device=CPU, seed=seed)


def batch_of(seed=0, size=16):
    """Return images, logits of three classes, true classes, and that all are known."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 1, size, size, generator=random)
    logits = torch.randn(2, 3, size, size, generator=random)
    classes = torch.randint(0, 3, (2, size, size), generator=random)
    return x, logits, classes, torch.ones(2, 3, dtype=torch.bool)


def certain(classes):
    """Return logits whose softmax is the truth."""
    return 200.0 * torch.nn.functional.one_hot(classes, 3).movedim(-1, 1).float()


# --- what it measures ----------------------------------------------------------------------------


def test_an_answer_that_is_the_truth_has_no_distance():
    x, _, classes, known = batch_of()

    assert adversary_of().penalty(x, certain(classes), classes, known) == 0


def test_an_image_is_masked_class_by_class():
    x = torch.tensor([[[2.0, -4.0]]])
    shares = torch.tensor([[[0.5, 0.0], [0.25, 0.0], [0.25, 1.0]]])
    known = torch.tensor([[False, True, True]])

    assert masked(x, shares, known).tolist() == [[[0.5, 0.0], [0.5, -4.0]]]
    known[0, 2] = False
    assert masked(x, shares, known).tolist() == [[[0.5, 0.0], [0.0, 0.0]]]


def test_the_distance_is_the_mean_over_scales_of_the_mean_absolute_difference():
    adversary = adversary_of()
    adversary.critic = lambda z: [2 * z[..., :1], z.sum(dim=(1, 2, 3)).reshape(-1, 1)]
    one, other = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, -3.0]]]])

    # (1 + 3) / 2 of the input, 2 of the first map, |1 - 3| of the last
    assert adversary.distance(one, other).item() == pytest.approx((2 + 2 + 2) / 3)
    assert adversary.distance(one, other / 2).item() == pytest.approx((1 + 1 + 1) / 3)


def test_the_penalty_is_the_distance_times_its_weight():
    light = adversary_of().penalty(*batch_of())
    heavy = adversary_of(replace(SMALL, weight=2.5)).penalty(*batch_of())

    assert heavy.item() == pytest.approx(2.5 * light.item())


@pytest.mark.parametrize("unknown", [1, 2])
def test_a_class_that_is_not_annotated_contributes_nothing(unknown):
    x, logits, classes, known = batch_of()
    known[:, unknown] = False
    classes[classes == unknown] = 0
    shares = logits.softmax(1)
    moved_mass = shares.clone()  # from the unknown class to the background
    moved_mass[:, 0] += moved_mass[:, unknown] * 0.9
    moved_mass[:, unknown] *= 0.1

    one = adversary_of().penalty(x, shares.log(), classes, known)
    two = adversary_of().penalty(x, moved_mass.log(), classes, known)

    torch.testing.assert_close(one, two)
    right = certain(classes)
    right[:, unknown] = right[:, 0]  # what is neither may be called either
    assert adversary_of().penalty(x, right, classes, known).item() == pytest.approx(0, abs=1e-6)
    right[:, 3 - unknown] = 300.0
    assert adversary_of().penalty(x, right, classes, known) > 0


def test_volumes_of_several_channels_have_a_distance_too():
    study = replace(STUDY, dimensions=3, channels=2)
    x, logits = torch.randn(1, 2, 12, 12, 12), torch.randn(1, 3, 12, 12, 12)
    classes, known = torch.randint(0, 3, (1, 12, 12, 12)), torch.ones(1, 3, dtype=torch.bool)
    adversary = adversary_of(study=study)

    assert adversary.penalty(x, logits, classes, known) > 0
    adversary.learn(1e-3)
    assert adversary.penalty(x, certain(classes), classes, known) == 0


def test_half_precision_logits_are_compared_in_single_precision():
    x, logits, classes, known = batch_of()
    adversary = adversary_of()

    penalty = adversary.penalty(x, logits.bfloat16(), classes, known)

    assert penalty.dtype == torch.float32
    assert all(z.dtype == torch.float32 for z in adversary._batch)


# --- what it learns ------------------------------------------------------------------------------


def test_the_critics_steps_increase_the_distance_of_a_batch():
    adversary, batch = adversary_of(), batch_of()
    found = []
    for _ in range(30):
        found.append(adversary.penalty(*batch).item())
        adversary.learn(1e-3)

    assert found[1] > found[0]
    assert found[-1] > 1.2 * found[0]


def test_the_critics_weights_are_clamped():
    config = replace(SMALL, clamp=0.01)
    adversary = adversary_of(config)
    adversary.penalty(*batch_of())
    assert max(p.abs().max() for p in adversary.critic.parameters()) > 0.01

    adversary.learn(1e-3)

    assert max(p.abs().max() for p in adversary.critic.parameters()) <= np.float32(0.01)


def test_the_critics_rate_is_a_factor_of_the_networks():
    adversary = adversary_of(replace(SMALL, learning_rate=0.5))
    adversary.penalty(*batch_of())
    adversary.learn(4e-3)
    assert [group["lr"] for group in adversary.optimizer.param_groups] == [2e-3]

    still = adversary_of(replace(SMALL, learning_rate=0.0, clamp=1.0))
    before = still.state(optimizer=False)
    still.penalty(*batch_of())
    still.learn(4e-3)
    assert same_bits(still.state(optimizer=False), before)


def test_each_side_leaves_the_other_without_gradients():
    adversary, (x, logits, classes, known) = adversary_of(), batch_of()
    logits.requires_grad_()

    adversary.penalty(x, logits, classes, known).backward()
    assert logits.grad.abs().sum() > 0
    assert all(p.grad is None for p in adversary.critic.parameters())

    seen = logits.grad.clone()
    adversary.learn(1e-3)
    assert (logits.grad == seen).all()
    assert all(p.grad is None for p in adversary.critic.parameters())
    assert not any(p.requires_grad for p in adversary.critic.parameters())


def test_it_learns_from_a_batch_once():
    adversary = adversary_of()
    before = adversary.state()
    adversary.learn(1e-3)

    assert same_bits(adversary.state(), before)


def test_its_beginning_is_a_function_of_its_seed_and_no_random_state_is_drawn():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = adversary_of(seed=1)

    assert torch.rand(1) == expected
    assert same_bits(first.state(), adversary_of(seed=1).state())
    assert not same_bits(first.state(), adversary_of(seed=2).state())


def test_it_goes_on_from_its_state_and_begins_anew():
    whole, batches = adversary_of(), [batch_of(seed) for seed in range(4)]
    initial = whole.state()
    for number, batch in enumerate(batches):
        if number == 2:
            saved = whole.state()
        whole.penalty(*batch)
        whole.learn(1e-3)

    again = adversary_of(seed=99)
    again.load(saved)
    for batch in batches[2:]:
        again.penalty(*batch)
        again.learn(1e-3)

    assert same_bits(again.state(), whole.state())
    whole.forget()
    assert same_bits(whole.state(), again.state(optimizer=False))
    whole.reset()
    assert same_bits(whole.state(), initial)


@pytest.mark.parametrize("annotated", [(1, 2), (1,)], ids=str)
def test_a_network_learns_against_its_critic(annotated):
    network, adversary = build_network(STUDY), adversary_of()
    before = adversary.state(optimizer=False)
    cases = [case_of(annotated), case_of((1, 2))]
    plan = plan_of(STUDY, cases, adversary=adversary)

    with_critic = fit(network, build_optimizer(network, TRAINING), plan)
    plain = build_network(STUDY)
    without = fit(plain, build_optimizer(plain, TRAINING), plan_of(STUDY, cases))

    assert with_critic.loss > without.loss
    after = adversary.state(optimizer=False)
    assert all((after[n] != before[n]).any() for n in before if n.endswith("weight"))


# --- what a study may say ------------------------------------------------------------------------


TEXT = """\
name: small
labels: [liver]
dimensions: 2
modalities: {{ct: {{intensity: arbitrary}}}}
network: {{name: unet, channels: [4, 8, 8], strides: [2, 2]}}
training: {{patch: {patch}, scheme: {scheme}}}
"""


def study_of(patch="[32, 32]", scheme="segan"):
    return parse_study(TEXT.format(patch=patch, scheme=scheme))


def test_every_scheme_is_chosen_by_its_name():
    assert {entry.config for entry in SCHEMES.values()} == set(SchemeConfig.__args__)
    assert {name: study_of(scheme=name).training.scheme for name in SCHEMES} == {
        name: entry.config() for name, entry in SCHEMES.items()
    }
    assert Training().scheme == Supervised()
    study = study_of(scheme="{name: segan, layers: 2, clamp: 0.1}")
    assert study.training.scheme == SegAN(layers=2, clamp=0.1)
    assert parse_study(canonical_json(study)) == study


@pytest.mark.parametrize(
    ("patch", "scheme", "problem"),
    [
        ("[16, 32]", "segan", "is [16, 32], but the critic of scheme segan needs sides of 24 "
         "at least; the nearest that works is [24, 32]"),
        ("[32, 32]", "{name: segan, layers: 4}", "the nearest that works is [48, 48]"),
        ("[32, 32]", "{name: segan, layers: 7}", "training.scheme.layers: is 7, expected 1 to 6"),
        ("[32, 32]", "{name: segan, clamp: 0}", "training.scheme.clamp: is 0.0, expected 0.0001"),
        ("[32, 32]", "{name: segan, wide: 4}", "unknown key; known here: name, weight, width"),
        ("[32, 32]", "segann", "did you mean segan?"),
    ],
)  # fmt: skip
def test_what_the_critic_cannot_do_is_refused(patch, scheme, problem):
    with pytest.raises(Exception, match="study") as refused:
        study_of(patch, scheme)

    assert problem in str(refused.value)


def test_a_patch_that_the_network_cannot_grow_to_asks_for_fewer_layers():
    text = TEXT.replace("network: {{name: unet, channels: [4, 8, 8], strides: [2, 2]}}",
                        "network: {{name: kiu_net}}")  # fmt: skip
    with pytest.raises(Exception, match="give it fewer layers"):
        parse_study(text.format(patch="[64, 64]", scheme="{name: segan, layers: 6}"))


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_smallest_side_is_what_the_critic_can_take(layers, dimensions):
    config = SegAN(width=2, layers=layers)
    study = replace(STUDY, dimensions=dimensions)
    critic = adversary_of(config, study).critic
    side = config.smallest_side

    maps = critic(torch.zeros(1, 2, *[side] * dimensions))

    assert len(maps) == layers + 1
    assert maps[-1].shape[2:] == (2,) * dimensions
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        critic(torch.zeros(1, 2, *[side - 1] * dimensions))


# --- at a site -----------------------------------------------------------------------------------


def jobs_with(**changes):
    study = trainable(rounds=3)
    training = replace(study.training, scheme=SMALL, **changes)
    return Jobs(replace(study, training=training))


def rounds_of(worker, jobs, numbers=(1, 2)):
    """Train rounds one after another on what came of them."""
    weights, update = jobs.weights, None
    for number in numbers:
        update = worker.train(jobs.train(number, weights, validate=False))
        weights = moved({**jobs.weights, **update.weights}, 0.01)
    return update


def test_nothing_of_the_critic_leaves_the_site(site, tmp_path):
    jobs = jobs_with()
    worker = worker_of(site, tmp_path)
    plain = replace(jobs.study, training=replace(jobs.study.training, scheme=Supervised()))

    update = worker.train(jobs.train(1))

    assert set(update.weights) == set(jobs.weights)
    assert set(jobs.weights) == set(Jobs(plain).weights)
    assert bytes_of_arrays(jobs.study) == bytes_of_arrays(plain)
    assert "critic" not in repr(update.report)
    held = {id(p) for p in worker._session.adversary.critic.parameters()}
    assert not held & {id(p) for p in worker._session.network.parameters()}


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "forgotten"])
def test_a_worker_that_starts_again_has_its_critic_back(site, tmp_path, keep):
    jobs = jobs_with(keep_optimizer=keep)
    one, two = (worker_of(site, tmp_path / name) for name in ("whole", "again"))
    expected = rounds_of(one, jobs)
    first = two.train(jobs.train(1, validate=False))
    saved = two._session.state.load(1).critic
    assert any(name.startswith("optimizer/") for name in saved) == keep
    assert any(name.startswith("critic/") for name in saved)

    again = worker_of(site, tmp_path / "again")
    weights = moved({**jobs.weights, **first.weights}, 0.01)
    found = again.train(jobs.train(2, weights, validate=False))

    assert same_bits(found.weights, expected.weights)
    assert same_bits(again._session.adversary.state(), one._session.adversary.state())


def test_a_round_that_is_asked_again_starts_from_the_same_critic(site, tmp_path):
    jobs = jobs_with()
    worker = worker_of(site, tmp_path)
    first = worker.train(jobs.train(1, validate=False))

    assert same_bits(worker.train(jobs.train(1, validate=False)).weights, first.weights)


def test_the_critic_changes_what_is_learnt_and_supervised_has_none(site, tmp_path):
    jobs = jobs_with()
    plain = Jobs(
        replace(jobs.study, training=replace(jobs.study.training, scheme=Supervised()))
    )
    one, two = worker_of(site, tmp_path / "a"), worker_of(site, tmp_path / "b")

    against, alone = rounds_of(one, jobs), rounds_of(two, plain)

    assert not same_bits(against.weights, alone.weights)
    assert two._session.adversary is None
    assert two._session.state.load(2).critic == {}


def test_the_model_alone_has_a_critic_of_its_own(site, tmp_path):
    jobs = jobs_with()
    worker = worker_of(site, tmp_path / "together")
    rounds_of(worker, jobs)
    worker.train_alone(jobs.alone())
    only = worker_of(site, tmp_path / "only")
    only.train_alone(jobs.alone())

    alone = [
        (tmp_path / name / "run-1/alone/state-00003.safetensors").read_bytes()
        for name in ("together", "only")
    ]
    assert alone[0] == alone[1]
    third = rounds_of(worker, jobs, (3,))
    apart = worker_of(site, tmp_path / "apart")
    rounds_of(apart, jobs)
    assert same_bits(third.weights, rounds_of(apart, jobs, (3,)).weights)


def test_a_model_alone_that_was_interrupted_goes_on_with_its_critic(site, tmp_path):
    jobs = jobs_with()
    whole = worker_of(site, tmp_path / "whole")
    whole.train_alone(jobs.alone())
    cut = worker_of(site, tmp_path / "cut")
    cut.train_alone(jobs.alone())
    folder = tmp_path / "cut/run-1/alone"
    expected = (folder / "state-00003.safetensors").read_bytes()
    (folder / "state-00003.safetensors").unlink()

    worker_of(site, tmp_path / "cut").train_alone(jobs.alone())

    assert (folder / "state-00003.safetensors").read_bytes() == expected
