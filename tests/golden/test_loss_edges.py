"""The loss of edges beside SciPy's morphology and a case worked by hand."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from common.losses.deep import answers_of
from common.losses.edges import Drawn, edge_loss, edges_of


@pytest.mark.parametrize("shape", [(2, 9, 7), (2, 5, 6, 7)])
def test_an_edge_is_where_the_neighbourhood_has_two_classes(shape):
    drawn = torch.Generator().manual_seed(3)
    classes = torch.randint(0, 3, shape, generator=drawn)
    cross = ndimage.generate_binary_structure(len(shape) - 1, 1)

    found = edges_of(classes)

    for one, of in zip(found.numpy(), classes.numpy(), strict=True):
        highest = ndimage.maximum_filter(of, footprint=cross, mode="nearest")
        lowest = ndimage.minimum_filter(of, footprint=cross, mode="nearest")
        np.testing.assert_array_equal(one, highest != lowest)


def test_nothing_is_an_edge_where_there_is_one_class():
    assert not edges_of(torch.ones(1, 4, 4, dtype=torch.long)).any()


def drawn_by_hand():
    """Return edges of a map whose last column is another class; its truth is two columns."""
    classes = torch.tensor([[[0, 0, 0, 1], [0, 0, 0, 1]]])
    logits = torch.tensor([[[[-1.0, -1.0, 2.0, 2.0], [-1.0, -1.0, 2.0, -3.0]]]])
    on, off = math.log1p(math.exp(-2)), math.log1p(math.exp(-1))
    return classes, logits, (3 * on + 4 * off + math.log1p(math.exp(3))) / 8


def test_the_loss_is_the_cross_entropy_of_the_edges():
    classes, logits, expected = drawn_by_hand()
    drawn = Drawn(torch.zeros(1, 2, 2, 4), logits, weight=0.5)

    assert float(edge_loss(drawn, classes, torch.tensor([True]))) == pytest.approx(
        0.5 * expected
    )
    assert answers_of(drawn)[0] is drawn.logits


def test_an_image_whose_labels_are_not_all_annotated_teaches_no_edges():
    classes, logits, expected = drawn_by_hand()
    both = Drawn(torch.zeros(2, 2, 2, 4), torch.cat([logits, -logits]), weight=1.0)
    classes = classes.expand(2, -1, -1)

    half = edge_loss(both, classes, torch.tensor([True, False]))

    assert float(half) == pytest.approx(expected / 2)
    assert float(edge_loss(both, classes, torch.tensor([False, False]))) == 0.0
