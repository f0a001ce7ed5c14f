import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from monai.networks.nets.basic_unet import BasicUNet as MonaiBasicUNet
from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus
from monai.networks.nets.dynunet import DynUNet as MonaiDynUNet
from monai.networks.nets.mednext import create_mednext
from monai.networks.nets.swin_unetr import SwinUNETR as MonaiSwinUNETR
from monai.networks.nets.unet import UNet as MonaiUNet
from monai.networks.nets.vnet import VNet as MonaiVNet
from scipy.ndimage import correlate
from torch import nn

from common.errors import InputError
from common.modality.bank import set_modality
from common.networks import NETWORKS, build_network
from common.networks.blocks.parts import Parts
from common.networks.blocks.recurrent import BidirectionalConvLSTM, ConvLSTM
from common.networks.cascades import with_neighbours
from common.networks.mednext import upkern
from common.networks.nested import NestedUNet, prune
from common.networks.recurrent import slices_of, volume_of
from common.networks.shape_attentive import FLAT, gradient_of
from common.networks.view import NamedArrays
from common.study import Sharing
from common.study import backbones as whole
from common.study.composable import SurveyUNet, UNet3D
from common.study.networks import DynUNet
from tests.support.studies import TINY, small_study

pytestmark = pytest.mark.usefixtures("in_double_precision")

FLAT_PARTS = Parts(dimensions=2)
AFFINE = ("instance", {"affine": True})


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def count(network):
    return sum(p.numel() for p in network.parameters())


def built(config, dimensions):
    """Return the network as its builder makes it: one channel, three classes, own norms."""
    torch.manual_seed(0)
    sizes = {"dimensions": dimensions, "channels": 1, "classes": 3}
    return NETWORKS.build(config, **sizes)


# --- numbers of parameters ---------------------------------------------------------------------


def test_the_surveys_baseline_has_as_many_parameters_as_its_listing():
    # the listing as code at depth 2, with one channel and three classes
    study = small_study(network=SurveyUNet(), sharing=Sharing(norm="everything"))

    assert count(build_network(study)) == 22_720_640


def test_the_3d_u_net_has_as_many_parameters_as_counted_by_hand():
    # down: i -> o / 2 -> o; up: a transposed convolution that keeps the channels, then two
    # convolutions of what it made and the skip; two numbers a channel of each norm
    widths = (32, 64, 128, 256)
    steps = pairwise((1, *widths))
    down = sum(27 * (a * b // 2 + b // 2 * b) + 2 * (b // 2 + b) for a, b in steps)
    steps = pairwise(widths)
    up = sum(8 * b * b + b + 27 * ((a + b) * a + a * a) + 4 * a for a, b in steps)
    study = small_study(dimensions=3, network=UNet3D(), sharing=Sharing(norm="everything"))

    assert count(build_network(study)) == down + up + 3 * 32 + 3
    assert count(build_network(study)) / 1e6 == pytest.approx(4.77, abs=0.005)


@pytest.mark.parametrize(("dimensions", "millions"), [(3, 45.60), (2, 9.36)])
def test_vnet_has_as_many_parameters_as_monais(dimensions, millions):
    monai = MonaiVNet(spatial_dims=dimensions, in_channels=1, out_channels=3)

    assert count(built(whole.VNet(), dimensions)) == count(monai)
    assert count(monai) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(
    ("size", "millions"), [("S", 5.6), ("B", 10.5), ("M", 17.6), ("L", 61.8)]
)
def test_mednext_has_as_many_parameters_as_published_and_as_monais(size, millions):
    monai = create_mednext(size, in_channels=1, out_channels=3, deep_supervision=True)

    mine = built(whole.MedNeXt(size=size), 3)

    assert count(mine) == count(monai)
    assert count(mine) / 1e6 == pytest.approx(millions, rel=0.01)


def test_swin_unetr_has_as_many_parameters_as_published():
    assert count(built(whole.SwinUNETR(features=48), 3)) / 1e6 == pytest.approx(61.98, rel=0.01)


# --- V-Net ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [2, 3])
def test_vnet_answers_what_monais_answers(dimensions):
    monai = MonaiVNet(spatial_dims=dimensions, in_channels=1, out_channels=3).eval()
    mine = built(whole.VNet(), dimensions).eval()
    mine.load_state_dict(dict(zip(mine.state_dict(), monai.state_dict().values(), strict=True)))
    x = draw(1, 1, *[32] * dimensions)

    assert torch.equal(mine(x), monai(x))


def test_vnet_takes_channels_that_do_not_divide_its_width():
    network = NETWORKS.build(whole.VNet(width=4), dimensions=2, channels=3, classes=2)

    assert network(draw(2, 3, 32, 32)).shape == (2, 2, 32, 32)


def test_vnet_without_dropout_drops_nothing_and_with_it_no_whole_sample():
    x = draw(2, 1, 32, 32)
    plain, dropping = (built(whole.VNet(width=4, dropout=p), 2) for p in (0.0, 0.5))

    assert torch.equal(plain(x), plain(x))
    assert not torch.equal(dropping(x), dropping(x))
    dims = {type(m) for m in dropping.modules() if "Dropout" in type(m).__name__}
    assert dims == {torch.nn.Dropout2d}


# --- U-Net++ -------------------------------------------------------------------------------------


def nested(dimensions, **changes):
    study = small_study(dimensions=dimensions, network=TINY["unet_plus_plus"], **changes)
    return build_network(study)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_unet_plus_plus_answers_what_monais_answers_the_deepest_first(dimensions):
    monai = BasicUNetPlusPlus(
        dimensions, 1, 3, features=(4, 4, 8, 8, 16, 4), deep_supervision=True
    )
    mine, x = NestedUNet(copy.deepcopy(monai), (1, 2, 3, 4)), draw(1, 1, *[32] * dimensions)

    pairs = zip(mine(x), reversed(monai(x)), strict=True)

    assert all(torch.equal(one, other) for one, other in pairs)
    assert count(mine) == count(monai)


def test_unet_plus_plus_has_as_many_parameters_as_monais():
    config = whole.UNetPlusPlus(features=(32, 32, 64, 128, 256, 32))
    monai = BasicUNetPlusPlus(2, 1, 3, features=config.features, deep_supervision=True)

    assert count(built(config, 2)) == count(monai) == pytest.approx(2.41e6, rel=0.005)


def test_without_deep_supervision_the_heads_of_shallower_depths_are_not_there():
    with_heads = whole.UNetPlusPlus()
    without = whole.UNetPlusPlus(deep_supervision=False)

    fewer = count(built(with_heads, 2)) - count(built(without, 2))

    assert fewer == 3 * (3 * with_heads.features[0] + 3)
    assert isinstance(built(without, 2)(draw(1, 1, 32, 32)), torch.Tensor)


@pytest.mark.parametrize(("dimensions", "depth"), [(2, 1), (2, 2), (2, 3), (2, 4), (3, 2)])
def test_a_pruned_network_answers_bit_for_bit_as_the_head_of_its_depth(dimensions, depth):
    network, x = nested(dimensions), draw(2, 1, *[32] * dimensions)
    set_modality(network, ("ct", "mr"))

    pruned = prune(network, depth)

    expected = network(x)[4 - depth]
    assert torch.equal(pruned(x), expected)
    assert torch.equal(pruned.eval()(x), expected)


def test_each_depth_less_has_fewer_parameters_and_the_network_stays_as_it_was():
    network = nested(2)
    before = {name: value.clone() for name, value in network.state_dict().items()}

    counts = [count(prune(network, depth)) for depth in (1, 2, 3, 4)]

    assert counts == sorted(counts)
    assert len({*counts, count(network)}) == 5
    assert max(counts) < count(network)
    assert network.state_dict().keys() == before.keys()


def test_a_depth_without_a_head_cannot_be_pruned_to():
    network = built(whole.UNetPlusPlus(deep_supervision=False), 2)

    with pytest.raises(InputError, match="no head at depth 2, expected one of: 4"):
        prune(network, 2)


# --- recurrent -----------------------------------------------------------------------------------


def test_on_a_map_of_one_place_a_convolutional_lstm_is_pytorchs_lstm():
    cell, sequence = ConvLSTM(FLAT_PARTS, 3, 4), draw(5, 2, 3)
    lstm = torch.nn.LSTM(3, 4)
    centre = cell.gates.weight[:, :, 1, 1].detach()
    i, f, o, g = centre.chunk(4)
    bi, bf, bo, bg = cell.gates.bias.detach().chunk(4)
    ours = torch.cat([i, f, g, o]), torch.cat([bi, bf, bg, bo])  # PyTorch's order of gates
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(ours[0][:, :3])
        lstm.weight_hh_l0.copy_(ours[0][:, 3:])
        lstm.bias_ih_l0.copy_(ours[1])
        lstm.bias_hh_l0.zero_()

    states = torch.stack(cell([x[..., None, None] for x in sequence]))

    torch.testing.assert_close(states[..., 0, 0], lstm(sequence)[0])


def test_a_convolutional_lstm_is_the_loop_worked_by_hand():
    cell, sequence = ConvLSTM(FLAT_PARTS, 1, 1), draw(3, 1, 1, 5, 6)
    kernels, biases = (t.detach().double().numpy() for t in cell.gates.parameters())
    h = c = np.zeros((5, 6))
    expected = []
    for x in sequence[:, 0, 0].double().numpy():
        seen = [
            correlate(x, k[0], mode="constant") + correlate(h, k[1], mode="constant") + b
            for k, b in zip(kernels, biases, strict=True)
        ]
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in seen[:3])
        c = f * c + i * np.tanh(seen[3])
        h = o * np.tanh(c)
        expected.append(h)

    found = torch.stack(cell(list(sequence)))[:, 0, 0]

    np.testing.assert_allclose(found.detach().numpy(), np.stack(expected), atol=1e-6)


def test_the_way_back_is_the_way_there_of_the_sequence_turned_round():
    both, sequence = BidirectionalConvLSTM(FLAT_PARTS, 2, 6), list(draw(4, 1, 2, 3, 3))
    both.back.load_state_dict(both.there.state_dict())

    there, back = both(sequence)

    turned, _ = both(sequence[::-1])
    assert all(torch.equal(a, b) for a, b in zip(back, turned[::-1], strict=True))
    assert not torch.equal(there[0], back[0])


def test_slices_of_one_sample_stand_together_and_come_back():
    x = draw(2, 3, 4, 5, 6)

    slices = slices_of(x)

    assert torch.equal(slices[6 + 2], x[1, ..., 2])
    assert torch.equal(volume_of(slices, 2), x)


def test_what_a_slice_holds_reaches_every_other_slice_through_the_lstm_alone():
    network = build_network(small_study(dimensions=3, network=TINY["slice_lstm"])).eval()
    x = draw(1, 1, 8, 8, 8)
    other = x.clone()
    other[..., 7] += 1

    differs = (network(x) != network(other)).flatten(0, 3).any(0)
    with torch.no_grad():
        for direction in (network.recur.there, network.recur.back):
            direction.gates.weight[:, -direction.hidden :] = 0
            direction.gates.bias[direction.hidden : 2 * direction.hidden] = -1e9  # forget all
    alone = (network(x) != network(other)).flatten(0, 3).any(0)

    assert differs.all()
    assert alone.tolist() == [False] * 7 + [True]


# --- cascades, over-complete, shape --------------------------------------------------------------


def test_a_slices_neighbours_are_the_one_before_and_the_one_after():
    x = draw(1, 2, 3, 3, 4)

    found = with_neighbours(x)

    for i, (before, after) in enumerate([(0, 1), (0, 2), (1, 3), (2, 3)]):
        expected = torch.cat([x[..., before], x[..., i], x[..., after]], 1)
        assert torch.equal(found[..., i], expected)


@pytest.mark.parametrize(("coarse", "side"), [(1, 16), (2, 8)])
def test_the_second_network_of_a_cascade_sees_what_the_first_thinks(coarse, side):
    network = built(whole.CoarseToFine(widths=(4, 8), coarse=coarse), 2)
    seen = []
    network.fine.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    x = draw(1, 1, 16, 16)

    fine, first = network(x)

    assert (fine.shape[-1], first.shape[-1]) == (16, side)
    assert torch.equal(seen[0][:, :1], x)
    thought = torch.nn.functional.interpolate(
        first.softmax(1), (16, 16), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(seen[0][:, 1:], thought)


def test_an_over_complete_network_looks_at_maps_that_are_larger_than_the_image():
    network, largest = built(whole.KiNet(widths=(2, 2, 2)), 2), []
    for stage in network.branch.out:
        stage.register_forward_hook(lambda _m, _i, output: largest.append(output.shape[-1]))

    network(draw(1, 1, 16, 16))

    assert largest == [32, 64, 128]


@pytest.mark.parametrize(("widths", "reach"), [((4, 4), 3), ((4, 4, 4), 4)])
def test_an_over_complete_network_sees_few_voxels_of_the_image(widths, reach):
    network = built(whole.KiNet(widths=widths), 2)
    for stage in [*network.branch.out, *network.branch.back]:
        stage.norm = nn.Identity()  # its statistics are of the whole image
    x = draw(4, 1, 32, 32).requires_grad_()

    network(x)[:, :, 16, 16].square().sum().backward()

    rows, columns = x.grad.abs().sum((0, 1)).nonzero().T
    for seen in (rows, columns):
        assert (16 - seen.min(), seen.max() - 16) == (reach, reach)


def test_the_images_gradient_is_numpys_inside_and_half_of_it_at_the_border():
    x = draw(1, 2, 6, 7).double()

    found = gradient_of(x)[0, 0]

    rows, columns = np.gradient(x[0].mean(0).numpy())
    rows[[0, -1]] /= 2
    columns[:, [0, -1]] /= 2
    expected = np.sqrt(rows**2 + columns**2 + FLAT**2)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_where_an_image_is_flat_its_gradient_has_a_derivative():
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)

    gradient_of(x).sum().backward()

    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_branches_of_kiu_net_tell_each_other_and_are_added(dimensions):
    network = built(whole.KiUNet(widths=(2, 3)), dimensions)
    x = draw(1, 1, *[8] * dimensions)

    found = network(x)

    def resized(y, like):
        mode = {2: "bilinear", 3: "trilinear"}[dimensions]
        return nn.functional.interpolate(y, like.shape[2:], mode=mode, align_corners=False)

    def told(exchange, u, k):
        return u + resized(exchange.to_u(k), u), k + resized(exchange.to_k(u), k)

    u1, k1 = told(network.out[0], network.u.out[0](x), network.k.out[0](x))
    u2, k2 = told(network.out[1], network.u.out[1](u1), network.k.out[1](k1))
    u3, k3 = told(network.back[0], network.u.back[0](u2), network.k.back[0](k2))
    u, k = network.u.back[1](u3 + u1), network.k.back[1](k3 + k1)
    torch.testing.assert_close(found, network.head(u + k))
    assert (u2.shape[-1], k2.shape[-1]) == (2, 32)


# --- MONAI's as they come ------------------------------------------------------------------------


MONAIS = {
    "unet": lambda d: MonaiUNet(
        d, 1, 3, channels=(4, 8, 8), strides=(2, 2), num_res_units=1, norm=AFFINE
    ),
    "basic_unet": lambda d: MonaiBasicUNet(d, 1, 3, features=(4, 4, 8, 8, 16, 4), norm=AFFINE),
    "dynunet": lambda d: MonaiDynUNet(d, 1, 3, [3] * 3, [1, 2, 2], [2, 2], filters=(4, 8, 8)),
    "swin_unetr": lambda d: MonaiSwinUNETR(
        1, 3, feature_size=12, depths=(1, 1, 1, 1), spatial_dims=d, norm_name=AFFINE
    ),
}


@pytest.mark.parametrize(
    ("name", "dimensions"),
    [(name, d) for name in MONAIS for d in (2, 3) if (name, d) != ("swin_unetr", 3)]
    + [pytest.param("swin_unetr", 3, marks=pytest.mark.slow)],
)
def test_what_monai_has_answers_what_monais_answers(name, dimensions):
    mine, monai = built(TINY[name], dimensions), MONAIS[name](dimensions)
    with torch.no_grad():
        for one, other in zip(mine.parameters(), monai.parameters(), strict=True):
            one.copy_(other)
    x = draw(2, 1, *[2 * TINY[name].divisor] * dimensions)

    torch.testing.assert_close(mine.eval()(x), monai.eval()(x))


# --- DynUNet -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("levels", [1, 2])
def test_a_deeply_supervised_dynunet_answers_what_monais_answers(dimensions, residual, levels):
    config = DynUNet(
        filters=(4, 6, 8, 10), strides=(2, 1, 2), residual=residual, deep_supervision=levels
    )
    mine = built(config, dimensions)
    monai = MonaiDynUNet(
        dimensions, 1, 3, [3] * 4, [1, 2, 1, 2], [2, 1, 2], filters=config.filters,
        res_block=residual, deep_supervision=True, deep_supr_num=levels,
    )  # fmt: skip
    with torch.no_grad():
        for name in ("input_block", "downsamples", "bottleneck", "upsamples"):
            getattr(mine.network, name).load_state_dict(getattr(monai, name).state_dict())
        heads = [monai.output_block, *monai.deep_supervision_heads]
        for one, other in zip(mine.heads, heads, strict=True):
            one.convolution.load_state_dict(other.conv.conv.state_dict())
    x = draw(2, 1, *[16] * dimensions)

    found, expected = mine(x), monai(x).unbind(1)

    assert [y.shape[-1] for y in found] == [16, 8, 8][: levels + 1]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(nn.functional.interpolate(one, x.shape[2:]), other)
    torch.testing.assert_close(mine.eval()(x), monai.eval()(x))


def test_every_array_of_a_deeply_supervised_dynunet_crosses_once_its_heads_by_label():
    study = small_study(network=replace(TINY["dynunet"], deep_supervision=1))
    network = build_network(study)

    table = NamedArrays(network, study).table

    sent = sum(np.prod(p.shape, dtype=int) for p in table.values())
    assert sent == count(network)
    assert len(network.state_dict()) == len(list(network.parameters()))
    assert sum(p.kind == "head:liver" for p in table.values()) == 2 * 2  # weights and biases


# --- MedNeXt -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [2, 3])
def test_mednext_answers_what_monais_answers(dimensions):
    monai = create_mednext("S", spatial_dims=dimensions, out_channels=3, deep_supervision=True)
    mine = built(whole.MedNeXt(), dimensions)
    with torch.no_grad():
        for target, source in zip(mine.parameters(), monai.parameters(), strict=True):
            # MONAI's heads are transposed convolutions of kernel 1
            same = source.shape == target.shape
            target.copy_(source if same else source.transpose(0, 1))
    x = draw(1, 1, *[32] * dimensions)

    for one, other in zip(mine(x), monai(x), strict=True):
        torch.testing.assert_close(one, other)


def mednext(kernel, **changes):
    return built(whole.MedNeXt(filters=2, kernel_size=kernel, **changes), 2)


def test_a_kernel_is_interpolated_as_worked_by_hand():
    small, large = mednext(3), mednext(5)
    row = torch.tensor([1.0, 2.0, 6.0])
    with torch.no_grad():
        small.enc_stages[0][0].conv1.weight.copy_(row.expand(2, 1, 3, 3))

    upkern(small, large)

    # centres of five in three: 0 (from -0.2), 0.4, 1, 1.6, 2 (from 2.2)
    expected = torch.tensor([1.0, 1.4, 2.0, 4.4, 6.0]).expand(2, 1, 5, 5)
    torch.testing.assert_close(large.enc_stages[0][0].conv1.weight.detach(), expected)


def test_all_but_kernels_is_copied_and_the_small_network_stays_as_it_was():
    small, large = mednext(3), mednext(5)
    before = copy.deepcopy(small.state_dict())

    upkern(small, large)

    for name, value in large.state_dict().items():
        assert torch.equal(small.state_dict()[name], before[name])
        if value.shape == before[name].shape:
            assert torch.equal(value, before[name])
        else:
            assert name.endswith("conv1.weight")


@pytest.mark.parametrize(
    ("other", "match"),
    [({"size": "B"}, "cannot become"), ({"deep_supervision": False}, "only one of the two")],
    ids=["other widths", "other heads"],
)
def test_networks_that_differ_in_more_than_kernels_are_refused_unchanged(other, match):
    small, large = mednext(3), mednext(5, **other)
    before = copy.deepcopy(large.state_dict())

    with pytest.raises(InputError, match=match):
        upkern(small, large)

    assert all(torch.equal(v, before[n]) for n, v in large.state_dict().items())
