"""Detection, then segmentation, worked by hand: where the box stands and what is pasted."""

import pytest
import torch
from torch import nn

from common.networks import NETWORKS
from common.networks.detecting import corners, cut, paste, voxels
from common.study.backbones import DetectThenSegment

CONFIG = DetectThenSegment(widths=(4, 4, 8), locator=(4, 4), factor=2)
SIDE, BOX, SURE = 16, 8, 1e4
EACH = pytest.mark.parametrize("dimensions", [2, 3])


class Lit(nn.Module):
    """A locator that is sure of class 1 in one block of each image, of the background elsewhere."""

    def __init__(self, *blocks):
        super().__init__()
        self.blocks, self.sides = blocks, None

    def forward(self, x):
        self.sides = x.shape[2:]
        logits = x.new_zeros(x.shape[0], 3, *x.shape[2:])
        logits[:, 0] = SURE
        for sample, block in enumerate(self.blocks):
            if block is not None:
                logits[sample][0, *block], logits[sample][1, *block] = 0.0, SURE
        return logits


class Keeping(nn.Module):
    """A segmenter that keeps what it saw and answers with three times the image."""

    def forward(self, x):
        self.seen = x
        return 3 * x[:, :1].expand(-1, 3, *x.shape[2:])


def network_of(dimensions, *blocks, **changes):
    torch.manual_seed(0)
    config = DetectThenSegment(**{**vars(CONFIG), **changes})
    network = NETWORKS.build(config, dimensions=dimensions, channels=1, classes=3).eval()
    network.locator, network.segmenter = Lit(*blocks), Keeping()
    return network


def image(dimensions, samples=1):
    numbers = torch.arange(samples * SIDE**dimensions, dtype=torch.float32)
    return numbers.reshape(samples, 1, *[SIDE] * dimensions)


# A lit block of the locator's 8 cells a side, each of 2 voxels, and the first voxel of the box
# of 8 around it. Cells 0 and 1 are voxels 0 to 3: centre 2, minus 4, moved into the image: 0.
# Cells 6 and 7: centre 14, so 10, but 8 is the last place. Cells 4 and 5: centre 10, so 6.
PLACES = {"first": (slice(0, 2), 0), "last": (slice(6, 8), 8), "inner": (slice(4, 6), 6)}


@EACH
@pytest.mark.parametrize("names", [("first", "last", "inner"), ("inner", "first", "last")])
def test_the_box_is_the_region_that_the_locator_lit_and_is_pasted_there(dimensions, names):
    places = [PLACES[name] for name in names[:dimensions]]
    box = tuple(slice(first, first + BOX) for _, first in places)
    network, x = network_of(dimensions, tuple(cells for cells, _ in places)), image(dimensions)

    answer = network(x)

    assert network.locator.sides == torch.Size([SIDE // 2] * dimensions)
    assert torch.equal(network.segmenter.seen[:, :1], x[:, :, *box])
    assert torch.equal(answer[:, :, *box], 3 * x[:, :, *box].expand(-1, 3, *[BOX] * dimensions))
    outside = torch.ones(SIDE**dimensions, dtype=torch.bool).reshape([SIDE] * dimensions)
    outside[box] = False
    rough = nn.functional.interpolate(
        network.locator(x[..., *[slice(None, None, 2)] * dimensions]), scale_factor=2,
        mode={2: "bilinear", 3: "trilinear"}[dimensions],
    )  # fmt: skip
    assert torch.equal(answer[0][:, outside], rough[0][:, outside])
    assert torch.equal(network.segmenter.seen[0, 1:], rough[0][:, *box])


@EACH
def test_each_image_of_a_batch_has_its_own_box(dimensions):
    first, last = ((PLACES[name][0],) * dimensions for name in ("first", "last"))
    x = image(dimensions, samples=2)
    network = network_of(dimensions, first, last)

    answer = network(x)

    begin, end = ((slice(k, k + BOX),) * dimensions for k in (0, 8))
    assert torch.equal(network.segmenter.seen[0, 0], x[0, 0][begin])
    assert torch.equal(network.segmenter.seen[1, 0], x[1, 0][end])
    assert torch.equal(answer[0, 2][begin], 3 * x[0, 0][begin])
    assert torch.equal(answer[1, 2][end], 3 * x[1, 0][end])


@EACH
def test_where_nothing_is_foreground_the_box_stands_in_the_middle(dimensions):
    network, x = network_of(dimensions, None), image(dimensions)

    answer = network(x)

    middle = (slice(4, 12),) * dimensions
    assert torch.equal(network.segmenter.seen[0, 0], x[0, 0][middle])
    assert torch.isfinite(answer).all()


@EACH
def test_a_box_as_large_as_the_image_is_all_of_it(dimensions):
    network, x = network_of(dimensions, None, region=1.0), image(dimensions)

    assert torch.equal(network(x), 3 * x.expand(-1, 3, *x.shape[2:]))


def test_the_centre_is_weighted_with_the_probability():
    # probability 1/2 at voxel (1, 3), 1/4 at (12, 7); of voxel i the middle is i + 1/2. Rows:
    # (0.5 x 1.5 + 0.25 x 12.5) / 0.75 = 5.17, columns: (0.5 x 3.5 + 0.25 x 7.5) / 0.75 = 4.83,
    # each minus half of the box
    logits = torch.full((1, 2, 16, 16), -SURE)
    logits[:, 0] = 0.0
    logits[0, 1, 1, 3], logits[0, 1, 12, 7] = 0.0, torch.tensor(1 / 3).log()

    assert corners(logits, [16, 16], [4, 4]).tolist() == [[round(3.17), round(2.83)]]


def test_voxels_are_numbered_as_they_lie():
    x = torch.arange(2 * 60).reshape(2, 1, 3, 4, 5)
    index = voxels(torch.tensor([[0, 1, 2], [1, 2, 0]]), [2, 2, 3], [3, 4, 5])

    taken = cut(x, index, [2, 2, 3])

    assert torch.equal(taken[0], x[0, :, 0:2, 1:3, 2:5])
    assert torch.equal(taken[1], x[1, :, 1:3, 2:4, 0:3])
    assert torch.equal(paste(x, index, taken), x)
    assert (paste(x, index, -taken) != x).sum() == taken.numel() - int((taken == 0).sum())


@EACH
def test_the_locator_learns_from_its_logits_but_not_from_where_the_box_stands(dimensions):
    x = torch.randn(1, 1, *[SIDE] * dimensions)
    sizes = {"dimensions": dimensions, "channels": 1, "classes": 3}
    network = NETWORKS.build(CONFIG, **sizes)
    network.segmenter = Keeping()  # sees the image alone, at a place that is chosen

    logits, found = network(x)
    index = voxels(
        corners(found, x.shape[2:], [BOX] * dimensions), [BOX] * dimensions, x.shape[2:]
    )
    pasted, whole = cut(logits, index, [BOX] * dimensions).sum(), logits.sum()

    assert found.shape == (1, 3, *[SIDE // 2] * dimensions)
    assert not torch.autograd.grad(pasted, found, retain_graph=True)[0].any()
    assert torch.autograd.grad(whole, found)[0].any()


@pytest.mark.parametrize(
    ("region", "side", "box"),
    [(0.5, 16, 8), (0.5, 64, 32), (0.4, 64, 24), (0.1, 64, 8), (0.9, 16, 16), (1.0, 24, 24)],
)
def test_the_box_is_a_share_that_the_segmenter_can_take(region, side, box):
    assert DetectThenSegment(widths=(4, 4, 8), region=region).box(side) == box
