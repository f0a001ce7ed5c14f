"""A classifier's weights in a U-Net's encoder, against the classifier itself."""

import pytest
import torch
from monai.networks.nets.flexible_unet import FlexibleUNet

from common.errors import InputError
from common.modality.bank import set_modality
from common.networks import NETWORKS, build_network
from common.networks.transfer import averaged, inflated, take_encoder
from common.study import Sharing, Training
from common.study.transfer import PretrainedUNet
from tests.support.classifiers import classifier
from tests.support.studies import small_study

pytestmark = pytest.mark.usefixtures("in_double_precision")

# a ResNet-18 of MONAI has no weights in the three shortcuts that change channels: kernels of 1
# and two numbers a channel of their norms
SHORTCUTS = 64 * 128 + 128 * 256 + 256 * 512 + 2 * (128 + 256 + 512)


def study_of(encoder="resnet10", dimensions=2, norm="batch", **changes):
    network = PretrainedUNet(encoder=encoder, decoder=(8, 8, 8, 8, 8), norm=norm)
    changes = {"sharing": Sharing(norm="everything"), **changes}
    training = Training(patch=(64,) * dimensions)
    return small_study(network=network, dimensions=dimensions, training=training, **changes)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def count(network):
    return sum(p.numel() for p in network.parameters())


# --- numbers of parameters ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "dimensions", "millions", "more"),
    [("resnet18", 2, 13.54, SHORTCUTS), ("resnet10", 2, 7.44, 0), ("resnet10", 3, 21.63, 0)],
)
def test_it_has_as_many_parameters_as_monais_and_shortcuts(encoder, dimensions, millions, more):
    monai = FlexibleUNet(1, 3, encoder, pretrained=False, spatial_dims=dimensions)
    config = PretrainedUNet(encoder=encoder)

    mine = NETWORKS.build(config, dimensions=dimensions, channels=1, classes=3)

    assert count(monai) / 1e6 == pytest.approx(millions, abs=0.005)
    assert count(mine) == count(monai) + more


@pytest.mark.parametrize("encoder", ["resnet10", "resnet18", "resnet34"])
def test_an_encoder_has_as_many_parameters_as_the_classifier_without_its_last_layer(encoder):
    other = classifier(encoder)
    mine = NETWORKS.build(
        PretrainedUNet(encoder=encoder), dimensions=2, channels=3, classes=3
    ).encoder

    assert count(mine) == count(other) - count(other.fc)


# --- the same answers --------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["resnet10", "resnet18"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_grey_picture_has_the_classifiers_maps_at_every_level(encoder, channels):
    other = classifier(encoder)
    network = build_network(study_of(encoder, channels=channels), other.state_dict()).eval()
    grey = draw(2, 1, 64, 64)

    mine = network.encoder(grey.repeat(1, channels, 1, 1))

    for one, expected in zip(mine, other(grey.repeat(1, 3, 1, 1)), strict=True):
        assert expected.std() > 0.1
        torch.testing.assert_close(one, expected)


def test_a_volume_that_repeats_a_slice_has_the_slices_maps_away_from_its_ends():
    # of a place in layer 1, at every fourth voxel, are seen the 21 voxels around it: 3 + 2 x 1
    # for the first convolution and the pooling, 4 x 4 for two convolutions
    other = classifier()
    network = build_network(study_of(dimensions=3), other.state_dict()).eval()
    picture = draw(1, 1, 32, 32)
    volume = picture[..., None].repeat(1, 1, 1, 1, 96)

    stem, level = network.encoder(volume)[:2]
    expected_stem, expected = other(picture.repeat(1, 3, 1, 1))[:2]

    for i in range(2, 46):
        torch.testing.assert_close(stem[..., i], expected_stem)
    for i in range(6, 18):
        torch.testing.assert_close(level[..., i], expected)
    assert not torch.allclose(level[..., 0], expected, rtol=1e-2, atol=1e-2)


def test_a_kernel_is_inflated_and_averaged_as_worked_by_hand():
    kernel = torch.tensor([[[[3.0, 6.0, 9.0]], [[0.0, 3.0, 0.0]], [[3.0, 0.0, 0.0]]]])

    # means of the colours (2, 3, 3); for one channel times 3, for two times 3 / 2
    assert averaged(kernel, 1).tolist() == [[[[6.0, 9.0, 9.0]]]]
    assert averaged(kernel, 2).tolist() == [[[[3.0, 4.5, 4.5]], [[3.0, 4.5, 4.5]]]]
    solid = inflated(kernel)
    assert solid.shape == (1, 3, 1, 3, 3)
    assert solid[0, 0, 0].tolist() == [[1.0] * 3, [2.0] * 3, [3.0] * 3]


# --- norms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["group", "instance", "layer"])
def test_scale_and_shift_are_taken_by_norms_that_keep_no_statistics(norm):
    other, said = classifier(), []

    network = build_network(study_of(norm=norm), other.state_dict(), said.append)

    state, own = other.state_dict(), network.encoder.state_dict()
    assert torch.equal(own["layer2.0.bn1.weight"], state["layer2.0.bn1.weight"])
    assert torch.equal(own["layer2.0.downsample.1.bias"], state["layer2.0.downsample.1.bias"])
    # 12 convolutions and as many norms of two tensors; of the file not used: 12 norms' two
    # statistics and a counter, and two of the last layer
    assert said == ["36 of 36 encoder tensors taken; 38 of the file not used"]


def test_statistics_are_taken_by_batch_norms():
    other, said = classifier(), []

    network = build_network(study_of(), other.state_dict(), said.append)

    taken = network.encoder.layer4[0].bn2.running_var
    assert torch.equal(taken, other.layer4[0].bn2.running_var)
    assert said == ["60 of 60 encoder tensors taken; 14 of the file not used"]


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_the_norms_of_every_modality_start_from_the_file(modality):
    other = classifier()
    study = study_of(sharing=Sharing(norm="per_modality"))
    network = build_network(study, other.state_dict()).eval()
    set_modality(network, modality)
    grey = draw(1, 1, 64, 64)

    mine = network.encoder(grey)[-1]

    torch.testing.assert_close(mine, other(grey.repeat(1, 3, 1, 1))[-1])


def test_the_decoder_is_what_the_seed_makes_it_with_a_file_or_without():
    with_file = build_network(study_of(), classifier().state_dict())
    without = build_network(study_of())

    pairs = zip(with_file.decoder.parameters(), without.decoder.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert torch.equal(with_file.head.weight, without.head.weight)
    assert not torch.equal(with_file.encoder.conv1.weight, without.encoder.conv1.weight)


# --- what does not fit ---------------------------------------------------------------------------


def changed(**tensors):
    state = classifier().state_dict() | {n.replace("__", "."): t for n, t in tensors.items()}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


WRONG = {
    "a tensor is missing": (
        changed(layer3__0__conv1__weight=None), "layer3.0.conv1.weight: is missing, with 0 other"),
    "statistics are missing": (changed(bn1__running_var=None), "bn1.running_var: is missing"),
    "one is too many": (
        changed(layer1__7__conv1__weight=torch.ones(1)), "layer1.7.conv1.weight: is not of this"),
    "statistics of no norm": (
        changed(layer9__running_mean=torch.ones(1)), "layer9.running_mean: is not of this"),
    "a shape": (
        changed(layer4__0__bn2__bias=torch.ones(511)),
        r"layer4.0.bn2.bias: has shape \(511,\), which does not become \(512,\)"),
    "a number": (
        changed(layer2__0__conv1__weight=torch.full((128, 64, 3, 3), torch.nan)),
        "layer2.0.conv1.weight: holds NaN"),
    "a larger classifier": (classifier("resnet18").state_dict(), "layer1.1.conv1.weight: is not"),
}  # fmt: skip


@pytest.mark.parametrize(("state", "told"), WRONG.values(), ids=WRONG)
def test_weights_that_do_not_fit_are_named_and_change_nothing(state, told):
    encoder = build_network(study_of()).encoder
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}

    with pytest.raises(InputError, match=told):
        take_encoder(encoder, state)

    assert all(torch.equal(before[n], t) for n, t in encoder.state_dict().items())
