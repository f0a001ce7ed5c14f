import copy

import pytest
import torch
from torch import nn

from common.modality.bank import (
    ModalityNorm,
    fold,
    norm_layers,
    put_banks,
    replace_norms,
    set_modality,
)
from common.networks import build_network
from common.study.networks import DynUNet
from tests.support.studies import small_study

NORMS = ["batch", "instance", "group", "layer"]
ROUTE = ("mr", "ct", "mr", "ct", "mr")
CT, MR = [1, 3], [0, 2, 4]


def network_of(norm):
    """Return a small network whose two banks differ, as after some training."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1)
    )
    replace_norms(network, norm)
    put_banks(network, ("ct", "mr"))
    with torch.no_grad():
        for _, layer in norm_layers(network):
            for tensor in (layer.weight, layer.bias):
                tensor.copy_(torch.randn_like(tensor))
    return network


def batch(size=5):
    return torch.randn(size, 1, 12, 10, generator=torch.Generator().manual_seed(1)) * 3 + 1


def state(network, modality):
    return {
        name: tensor.clone()
        for name, tensor in network.state_dict().items()
        if f".bank.{modality}." in name
    }


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_mixed_batch_is_what_separate_batches_are(norm, mode):
    network = network_of(norm).train(mode == "train")
    apart, x = copy.deepcopy(network), batch()

    set_modality(network, ROUTE)
    mixed = network(x)

    for modality, rows in (("ct", CT), ("mr", MR)):
        set_modality(apart, modality)
        torch.testing.assert_close(mixed[rows], apart(x[rows]))
        assert same(state(network, modality), state(apart, modality))


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_of_a_mixed_batch_are_those_of_separate_ones(norm):
    network = network_of(norm)
    apart, x = copy.deepcopy(network), batch()

    set_modality(network, ROUTE)
    network(x).square().sum().backward()
    for modality, rows in (("ct", CT), ("mr", MR)):
        set_modality(apart, modality)
        apart(x[rows]).square().sum().backward()

    for mine, theirs in zip(network.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-3)


def test_batch_statistics_of_a_modality_come_from_its_own_samples_only():
    network = network_of("batch")
    before = state(network, "ct")

    set_modality(network, "mr")
    network(batch() * 100)

    assert same(state(network, "ct"), before)
    mr = network[1].bank["mr"]
    expected = network[0](batch() * 100).mean(dim=(0, 2, 3))
    torch.testing.assert_close(mr.running_mean, 0.1 * expected)
    assert mr.num_batches_tracked == 1


@pytest.mark.parametrize("norm", NORMS)
def test_a_modality_that_is_not_in_the_batch_gets_no_gradient(norm):
    network = network_of(norm)

    set_modality(network, "mr")
    network(batch()).sum().backward()

    assert network[1].bank["ct"].weight.grad is None
    assert network[1].bank["mr"].weight.grad is not None


def test_a_route_of_one_modality_is_the_whole_batchs():
    network = network_of("group")

    set_modality(network, ["mr"] * 5)

    assert network[1].route == "mr"


def test_a_network_without_banks_is_left_as_it_is():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))

    set_modality(network, "ct")

    assert [type(layer) for layer in network] == [nn.Conv2d, nn.BatchNorm2d]


def test_an_unknown_modality_is_an_error_and_not_another_ones_norm():
    network = network_of("group")
    set_modality(network, "pet")

    with pytest.raises(KeyError):
        network(batch())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_a_folded_network_answers_as_the_routed_one_and_holds_no_bank(norm, modality):
    network = network_of(norm).eval()
    set_modality(network, modality)

    plain = fold(network, modality)

    torch.testing.assert_close(plain(batch()), network(batch()), rtol=0, atol=0)
    assert not any(isinstance(module, ModalityNorm) for module in plain.modules())
    assert any(isinstance(module, ModalityNorm) for module in network.modules())
    assert not any("bank" in name for name in plain.state_dict())


def test_banks_begin_equal_and_share_nothing():
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4))
    put_banks(network, ("ct", "mr"))

    bank = network[1].bank
    assert torch.equal(bank["ct"].weight, bank["mr"].weight)
    assert bank["ct"].weight.data_ptr() != bank["mr"].weight.data_ptr()


def test_a_norm_registered_in_two_places_gets_one_bank():
    norm = nn.GroupNorm(2, 4)
    network = nn.ModuleList([nn.Sequential(norm), nn.Sequential(norm)])

    put_banks(network, ("ct", "mr"))

    assert isinstance(network[0][0], ModalityNorm)
    assert network[0][0] is network[1][0]


def test_norms_that_dynunet_reaches_on_two_ways_are_one():
    network = build_network(small_study(network=DynUNet(filters=(4, 8, 8), strides=(2, 2))))
    reached = [
        module
        for _, module in network.named_modules(remove_duplicate=False)
        if isinstance(module, ModalityNorm)
    ]

    # 2 norms in each of 2 + 1 levels down and 2 levels up
    assert len({id(module) for module in reached}) == 10 < len(reached)
    assert len(list(norm_layers(network))) == 20


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(
    ("norm", "kinds"),
    [
        ("group", (nn.GroupNorm, nn.GroupNorm)),
        ("layer", (nn.GroupNorm, nn.GroupNorm)),
        ("batch", (nn.BatchNorm2d, nn.BatchNorm3d)),
        ("instance", (nn.InstanceNorm2d, nn.InstanceNorm3d)),
    ],
)
def test_every_norm_becomes_the_chosen_one_with_parameters(norm, kinds, dimensions):
    before = (nn.InstanceNorm2d if dimensions == 2 else nn.InstanceNorm3d)(12, affine=False)
    network = nn.Sequential(before)

    replace_norms(network, norm)

    assert type(network[0]) is kinds[dimensions - 2]
    assert network[0].weight.shape == (12,)


@pytest.mark.parametrize(
    ("channels", "groups"), [(16, 8), (12, 6), (7, 7), (13, 1), (9, 3), (1, 1)]
)
def test_group_norm_takes_the_most_groups_up_to_eight_that_divide_the_channels(
    channels, groups
):
    network = nn.Sequential(nn.BatchNorm2d(channels))

    replace_norms(network, "group")

    assert network[0].num_groups == groups


def test_layer_norm_is_over_channels_and_space():
    network = nn.Sequential(nn.BatchNorm3d(4))
    replace_norms(network, "layer")
    x = torch.randn(2, 4, 3, 5, 6)

    expected = nn.functional.layer_norm(x, x.shape[1:])
    torch.testing.assert_close(network(x), expected)
