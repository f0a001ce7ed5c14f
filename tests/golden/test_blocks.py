from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate, maximum_filter
from torch import nn

from common.networks.blocks.attention import (
    CBAM,
    SCSE,
    AttentionGate,
    ChannelWeights,
    SqueezeExcitation,
)
from common.networks.blocks.bottoms import (
    ASPP,
    ASPP_RATES,
    DenseAtrous,
    GraphReasoning,
    HybridDilation,
    MultiKernelPooling,
    NonLocal,
    PyramidPooling,
)
from common.networks.blocks.convolutions import BLOCKS, RecurrentConvolution
from common.networks.blocks.cross_attention import GlobalLocalCrossAttention, SelfAttention
from common.networks.blocks.parts import Parts
from common.networks.blocks.upsampling import PixelShuffle, Unpooling
from common.networks.composable import BOTTOMS, Composed
from common.study.composable import ComposableUNet, holes

pytestmark = pytest.mark.usefixtures("in_double_precision")

CONFIG = ComposableUNet()
EACH = pytest.mark.parametrize("dimensions", [2, 3], ids=["2-D", "3-D"])
PARTS = {d: Parts(dimensions=d) for d in (2, 3)}
PLAIN_WITHOUT = (nn.InstanceNorm2d, nn.InstanceNorm3d, nn.ReLU, nn.LeakyReLU)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(tensor):
    return tensor.detach().double().numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def matrix(layer):
    """Return a kernel-1 convolution as a function of (channels, places)."""
    weight, bias = plain(layer.weight), plain(layer.bias) if layer.bias is not None else 0.0
    weight = weight.reshape(weight.shape[0], -1)
    return lambda x: weight @ x + (bias[:, None] if layer.bias is not None else 0.0)


def same(found, expected):
    np.testing.assert_allclose(plain(found), expected)


def bare(module):
    """Leave of a block its convolutions: no norm, no activation."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, PLAIN_WITHOUT):
                setattr(parent, name, nn.Identity())
    return module


# --- how far a block sees ------------------------------------------------------------------------


def seen_by(block, channels, dimensions, side):
    """Return along each axis how many places the middle of the output depends on."""
    bare(block)
    x = draw(1, channels, *[side] * dimensions).requires_grad_()
    block(x)[(0, 0, *[side // 2] * dimensions)].backward()
    touched = x.grad[0].abs().sum(0) > 0
    places = touched.nonzero()
    return tuple((places.amax(0) - places.amin(0) + 1).tolist())


@pytest.mark.parametrize(
    ("name", "dimensions", "expected"),
    [
        ("plain", 2, 5),
        ("residual", 2, 5),
        ("dense", 2, 7),
        ("inception", 2, 5),
        ("depthwise", 2, 5),
        ("recurrent", 2, 13),  # two layers of three applications
        ("plain", 3, 5),
        ("residual", 3, 5),
        ("dense", 3, 7),
        ("inception", 3, 5),
        ("depthwise", 3, 5),
        ("separable", 3, 5),
        ("pseudo3d", 3, 5),
    ],
)
def test_a_block_sees_as_far_as_its_kernels_say(name, dimensions, expected):
    block = BLOCKS[name](PARTS[dimensions], CONFIG, 3, 4)

    assert seen_by(block, 3, dimensions, 17) == (expected,) * dimensions


def test_the_bottoms_see_as_far_as_their_dilations_say():
    rates = HybridDilation(PARTS[2], CONFIG, 2)
    atrous = DenseAtrous(PARTS[2], 2)

    assert seen_by(rates, 2, 2, 41) == (2 * sum(CONFIG.rates) + 1,) * 2
    assert seen_by(atrous, 2, 2, 41) == (2 * (1 + 3 + 5) + 1,) * 2


def test_the_factors_of_a_separable_convolution_are_those_of_the_paper():
    first, second, point = BLOCKS["separable"](PARTS[3], CONFIG, 4, 6)[0]

    assert (first.kernel_size, first.groups) == ((3, 3, 1), 4)
    assert (second.kernel_size, second.groups) == ((1, 1, 3), 4)
    assert (point.conv.kernel_size, point.conv.groups) == ((1, 1, 1), 1)


def test_a_depthwise_separable_convolution_has_the_weights_of_the_paper():
    depth, point = BLOCKS["depthwise"](PARTS[2], CONFIG, 8, 12)[:2]

    assert depth.weight.numel() == 3 * 3 * 8
    assert point.conv.weight.numel() == 8 * 12


@EACH
def test_a_recurrent_convolution_is_the_same_layer_unrolled(dimensions):
    layer, x = RecurrentConvolution(PARTS[dimensions], 3), draw(2, 3, *[4] * dimensions)
    f = layer.step

    assert torch.equal(layer(x), f(x + f(x + f(x))))


def test_each_layer_of_a_dense_block_sees_all_before_it():
    block = BLOCKS["dense"](PARTS[2], CONFIG, 5, 6)
    convolutions = [m for m in block[0].modules() if isinstance(m, nn.Conv2d)]

    assert [m.in_channels for m in convolutions] == [5, 5 + 2, 5 + 4]
    assert block[1].conv.in_channels == 5 + 6


def test_hybrid_dilation_adds_each_layer_to_what_it_saw():
    bottom, x = HybridDilation(PARTS[2], CONFIG, 2), draw(1, 2, 6, 6)
    expected = x
    for layer in bottom.layers:
        expected = expected + layer(expected)

    assert [layer.conv.dilation[0] for layer in bottom.layers] == [1, 2, 5, 1, 2, 5]
    assert torch.equal(bottom(x), expected)


# --- dilation rates ------------------------------------------------------------------------------

TEETH = [t for n in (1, 2, 3, 4) for t in combinations_with_replacement(range(1, 9), n)]


def every_place_is_seen(rates):
    """Count by brute force: which offsets do stacked kernels of three reach on a line?"""
    reached = {0}
    for rate in rates:
        reached = {offset + step * rate for offset in reached for step in (-1, 0, 1)}
    return reached == set(range(-sum(rates), sum(rates) + 1))


def test_the_rule_of_dilation_rates_is_the_brute_force_count_of_seen_places():
    said = {tooth: not holes(tooth) for tooth in TEETH}

    assert said == {tooth: every_place_is_seen(tooth) for tooth in TEETH}
    assert 0 < sum(said.values()) < len(said)


@pytest.mark.parametrize(
    ("rates", "fine"),
    [((1, 2, 5, 1, 2, 5), True), ((2, 2, 2), False), ((1, 2, 9), False), ((2, 3), False)],
    ids=["the paper's", "all even", "the paper's bad one", "no layer without dilation"],
)
def test_rates_that_leave_places_unseen_are_told(rates, fine):
    assert (holes(rates) == "") is fine


# --- attention -----------------------------------------------------------------------------------


def excited(layer, *descriptions):
    first, _, second = layer.layers
    total = sum(matrix(second)(np.maximum(matrix(first)(z), 0)) for z in descriptions)
    return sigmoid(total)


@EACH
def test_channels_are_weighed_as_in_numpy(dimensions):
    block, x = SqueezeExcitation(PARTS[dimensions], 6, 0), draw(1, 6, *[3] * dimensions)
    flat = plain(x)[0].reshape(6, -1)

    expected = flat * excited(block.channels, flat.mean(1, keepdims=True))

    same(block(x, x)[0].flatten(1), expected)


def test_two_descriptions_of_the_channels_share_their_layers():
    layer, a, b = ChannelWeights(PARTS[2], 4), draw(1, 4, 1, 1), draw(1, 4, 1, 1, seed=1)

    expected = excited(layer, plain(a)[0].reshape(4, 1), plain(b)[0].reshape(4, 1))

    same(layer(a, b)[0].flatten(1), expected)


@EACH
def test_scse_is_numpys_larger_of_channel_and_place(dimensions):
    block, x = SCSE(PARTS[dimensions], 4, 0), draw(1, 4, *[3] * dimensions)
    flat = plain(x)[0].reshape(4, -1)

    by_channel = flat * excited(block.channels, flat.mean(1, keepdims=True))
    by_place = flat * sigmoid(matrix(block.place)(flat))

    same(block(x, x)[0].flatten(1), np.maximum(by_channel, by_place))


@EACH
def test_cbam_is_numpys_channels_then_places(dimensions):
    sides = [5] * dimensions
    block, x = CBAM(PARTS[dimensions], 4, 0), draw(1, 4, *sides)
    flat = plain(x)[0].reshape(4, -1)
    weights = excited(block.channels, flat.mean(1, keepdims=True), flat.max(1, keepdims=True))
    weighed = (flat * weights).reshape(4, *sides)

    kernel = plain(block.place.weight)[0]
    seen = [weighed.mean(0), weighed.max(0)]
    places = sum(correlate(s, k, mode="constant") for s, k in zip(seen, kernel, strict=True))

    same(block(x, x)[0], weighed * sigmoid(places))


def test_a_gate_is_numpys_at_the_coarser_size():
    block = AttentionGate(PARTS[2], 4, 6)
    block.leave = nn.Identity()
    skip, coarse = draw(1, 4, 2, 2), draw(1, 6, 1, 1)
    weight = plain(block.of_skip.weight).reshape(2, -1)  # 2 x 2, stride 2, on 2 x 2
    asked = weight @ plain(skip)[0].reshape(-1, 1) + matrix(block.of_coarse)(
        plain(coarse)[0].reshape(6, 1)
    )

    alpha = sigmoid(matrix(block.psi)(np.maximum(asked, 0)))

    same(block(skip, coarse)[0], plain(skip)[0] * alpha.item())


# --- bottoms -------------------------------------------------------------------------------------


@EACH
def test_nonlocal_attention_is_numpys(dimensions):
    block, x = NonLocal(PARTS[dimensions], CONFIG, 4), draw(1, 4, *[3] * dimensions)
    nn.init.constant_(block.gamma, 0.7)
    flat = plain(x)[0].reshape(4, -1)
    q, k, v = np.split(matrix(block.project)(flat), 3)

    weights = softmax(q.T @ k / np.sqrt(2), axis=1)
    expected = flat + 0.7 * matrix(block.leave)(v @ weights.T)

    same(block(x)[0].flatten(1), expected)


@EACH
def test_graph_reasoning_is_numpys(dimensions):
    block, x = GraphReasoning(PARTS[dimensions], CONFIG, 4), draw(1, 4, *[3] * dimensions)
    nn.init.constant_(block.gamma, 0.7)
    flat = plain(x)[0].reshape(4, -1)
    assigned = softmax(matrix(block.assign)(flat), axis=0)

    nodes = assigned @ matrix(block.reduce)(flat).T / assigned.sum(1, keepdims=True)
    told = nodes - plain(block.adjacency) @ nodes
    nodes = np.maximum(told @ plain(block.state.weight).T + plain(block.state.bias), 0)
    expected = flat + 0.7 * matrix(block.leave)((assigned.T @ nodes).T)

    same(block(x)[0].flatten(1), expected)


def test_self_attention_is_pytorchs():
    layer, tokens = SelfAttention(4), draw(2, 5, 4)
    normed = layer.norm(tokens)
    q, k, v = layer.project(normed).chunk(3, -1)

    found, weights = layer(tokens)

    expected = tokens + layer.leave(nn.functional.scaled_dot_product_attention(q, k, v))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5))


def test_global_local_attention_asks_from_a_tenth_of_the_places_and_begins_as_nothing():
    block, x = GlobalLocalCrossAttention(PARTS[2], CONFIG, 4), draw(2, 4, 5, 6)
    asked = []
    block.leave.register_forward_pre_hook(lambda _m, inputs: asked.append(inputs[0].shape))

    found = block(x)

    assert torch.equal(found, x)
    assert asked == [(2, 3, 4)]


@EACH
def test_pyramid_pooling_sees_the_map_beside_its_means(dimensions):
    block, x = PyramidPooling(PARTS[dimensions], CONFIG, 4), draw(1, 4, *[6] * dimensions)
    for branch in block.branches:
        branch[1] = nn.Identity()
    block.join = nn.Identity()

    joined = block(x)[0]

    assert torch.equal(joined[:4], x[0])
    mean = x[0].flatten(1).mean(1).reshape(4, *[1] * dimensions)
    torch.testing.assert_close(joined[4:8], mean.expand_as(x[0]))
    torch.testing.assert_close(joined[-4:], x[0])  # as many parts as places


def test_multi_kernel_pooling_is_of_the_largest_in_each_window():
    block, x = MultiKernelPooling(PARTS[2], 1), draw(1, 1, 6, 6)
    block.one, block.join = nn.Identity(), nn.Identity()

    joined = block(x)[0]

    assert torch.equal(joined[0], x[0, 0])
    torch.testing.assert_close(joined[-1], x.amax().expand(6, 6))  # one window of 6
    assert joined.shape[0] == 1 + 4


def correlated(layer, x):
    """Return what SciPy makes of a convolution without bias on (channels, *space)."""
    weight = plain(layer.weight)
    dilation = layer.dilation[0]
    spread = np.zeros((*weight.shape[:2], *[(k - 1) * dilation + 1 for k in weight.shape[2:]]))
    spread[(..., *[slice(None, None, dilation)] * (weight.ndim - 2))] = weight
    return np.stack(
        [sum(correlate(x[i], row[i], mode="constant") for i in range(len(x))) for row in spread]
    )


def without_bias(module):
    """Set every bias to nothing."""
    for layer in module.modules():
        if getattr(layer, "bias", None) is not None:
            nn.init.zeros_(layer.bias)
    return module


@EACH
def test_atrous_pooling_is_scipys_with_kernels_spread_by_the_rates(dimensions):
    block = without_bias(bare(ASPP(PARTS[dimensions], CONFIG, 4)))
    side = max(ASPP_RATES[dimensions]) + 4  # every rate reaches other places
    block.join, x = nn.Identity(), draw(1, 4, *[side] * dimensions)

    joined = block(x)[0]

    rates = [branch.conv.dilation[0] for branch in block.branches]
    assert rates == [1, *ASPP_RATES[dimensions]]
    expected = [correlated(branch.conv, plain(x[0])) for branch in block.branches]
    mean = matrix(block.mean.conv)(plain(x[0]).reshape(4, -1).mean(1, keepdims=True))
    everywhere = np.broadcast_to(mean.reshape(2, *[1] * dimensions), expected[0].shape)
    same(joined, np.concatenate([*expected, everywhere]))


@EACH
def test_atrous_pooling_then_attention(dimensions):
    pooling, attention = BOTTOMS["aspp_nonlocal"](PARTS[dimensions], CONFIG, 4)
    nn.init.constant_(attention.gamma, 0.7)
    x = draw(1, 4, *[5] * dimensions)

    found = nn.Sequential(pooling, attention)(x)

    y = pooling(x)
    q, k, v = attention.project(y).flatten(2).transpose(1, 2).split(2, -1)
    seen = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    told = attention.leave(seen.reshape(1, 2, *x.shape[2:]))
    torch.testing.assert_close(found, y + 0.7 * told)


@EACH
def test_dense_atrous_convolution_is_scipys_along_four_paths(dimensions):
    block, x = without_bias(DenseAtrous(PARTS[dimensions], 2)), draw(1, 2, *[8] * dimensions)

    found = block(x)[0]

    def leave(y):
        return matrix(block.leave)(y.reshape(2, -1)).reshape(y.shape)

    a = plain(x[0])
    near = correlated(block.d1, a)
    middle = correlated(block.d3, near)
    far = correlated(block.d5, middle)
    paths = [near, leave(correlated(block.d3, a)), leave(middle), leave(far)]
    same(found, a + sum(np.maximum(path, 0) for path in paths))


# --- blocks of convolutions -----------------------------------------------------------------------


@EACH
def test_an_inception_block_is_its_four_branches_side_by_side(dimensions):
    block = without_bias(bare(BLOCKS["inception"](PARTS[dimensions], CONFIG, 3, 8)))
    block.join, x = nn.Identity(), draw(1, 3, *[6] * dimensions)

    joined = block(x)[0]

    a = plain(x[0])
    one, three, five, pooled = block.branches
    largest = np.stack([maximum_filter(c, 3, mode="constant", cval=-np.inf) for c in a])
    expected = [correlated(one.conv, a)]
    for branch in (three, five):
        y = a
        for step in branch:
            y = correlated(step.conv, y)
        expected.append(y)
    expected.append(correlated(pooled[1].conv, largest))
    same(joined, np.concatenate(expected))
    assert [len(branch) for branch in (three, five)] == [2, 3]


def test_a_pseudo_3d_pair_is_one_convolution_whose_kernel_is_the_product():
    within, across = without_bias(bare(BLOCKS["pseudo3d"](PARTS[3], CONFIG, 2, 3)))[:2]
    x = draw(1, 2, 6, 6, 6)

    found = across(within(x))

    flat, deep = within.conv.weight, across.conv.weight  # (3, 2, 3, 3, 1), (3, 3, 1, 1, 3)
    kernel = torch.einsum("omz,mixy->oixyz", deep[:, :, 0, 0], flat[..., 0])
    torch.testing.assert_close(found, nn.functional.conv3d(x, kernel, padding=1))


@EACH
def test_a_residual_block_adds_its_shortcut(dimensions):
    block = without_bias(bare(BLOCKS["residual"](PARTS[dimensions], CONFIG, 2, 3)))
    x = draw(1, 2, *[6] * dimensions)

    found = block(x)[0]

    a = plain(x[0])
    first, second = (unit.conv for unit in block.conv)
    expected = correlated(second, correlated(first, a)) + correlated(block.residual, a)
    same(found, expected)


# --- up-sampling, deep supervision ---------------------------------------------------------------


@EACH
def test_unpooling_puts_each_maximum_back_where_it_stood(dimensions):
    x = draw(2, 3, *[4] * dimensions)
    pooled, places = PARTS[dimensions].max_pool(indices=True)(x)
    block = Unpooling(PARTS[dimensions], 3, 3)
    block.layer = nn.Identity()

    risen = block(pooled, places)

    stood = nn.functional.interpolate(pooled, scale_factor=2, mode="nearest") == x
    assert torch.equal(risen, torch.where(stood, x, torch.zeros_like(x)))
    assert int((risen != 0).sum()) == pooled.numel()


@EACH
def test_a_pixel_shuffle_doubles_the_sides(dimensions):
    risen = PixelShuffle(PARTS[dimensions], 6, 4)(draw(1, 6, *[3] * dimensions))

    assert risen.shape == (1, 4, *[6] * dimensions)


def test_deep_supervision_answers_the_finest_first_each_of_half_the_sides():
    config = ComposableUNet(widths=(4, 4, 8, 8), deep_supervision=2)
    network = Composed(config, dimensions=2, channels=1, classes=3)

    answers = network(draw(1, 1, 16, 16))

    assert [tuple(a.shape[2:]) for a in answers] == [(16, 16), (8, 8), (4, 4)]
    assert torch.equal(answers[0], network.eval()(draw(1, 1, 16, 16)))
