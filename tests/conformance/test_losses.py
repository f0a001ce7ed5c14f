import pytest
import torch

from common.losses import LOSSES, build_loss

BOTH = pytest.mark.parametrize("size", [(2, 8, 6), (2, 8, 6, 4)], ids=["2-D", "3-D"])
EACH = pytest.mark.parametrize("name", LOSSES)


def truth_of(size, classes=3):
    return torch.randint(0, classes, size, generator=torch.Generator().manual_seed(0))


def logits_for(truth, certainty, classes=3):
    """Return logits that favour the truth by so much."""
    one_hot = torch.nn.functional.one_hot(truth, classes).movedim(-1, 1)
    return (certainty * one_hot).float()


def loss_of(name):
    return build_loss(LOSSES[name].config())


@EACH
@BOTH
def test_a_loss_is_a_finite_scalar(name, size):
    truth = truth_of(size)

    value = loss_of(name)(logits_for(truth, 0.0), truth)

    assert value.shape == ()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)


@EACH
@BOTH
def test_a_loss_falls_as_predictions_get_better(name, size):
    truth = truth_of(size)

    values = [loss_of(name)(logits_for(truth, c), truth).item() for c in (-8, -1, 0, 1, 8)]

    assert values == sorted(values, reverse=True)
    assert len(set(values)) == len(values)


@EACH
@BOTH
def test_a_perfect_match_is_near_zero_with_a_finite_gradient(name, size):
    truth = truth_of(size)
    logits = logits_for(truth, 1000.0).requires_grad_()

    value = loss_of(name)(logits, truth)
    value.backward()

    assert value.item() == pytest.approx(0.0, abs=1e-4)
    assert torch.isfinite(logits.grad).all()


@EACH
def test_a_patch_of_background_alone_can_be_trained_on(name):
    truth = torch.zeros(2, 8, 6, dtype=torch.long)
    logits = torch.randn(
        2, 3, 8, 6, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()

    value = loss_of(name)(logits, truth)
    value.backward()

    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


@EACH
def test_a_step_against_the_gradient_lowers_the_loss(name):
    truth = truth_of((2, 8, 6))
    logits = torch.randn(
        2, 3, 8, 6, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()
    before = loss_of(name)(logits, truth)
    before.backward()

    after = loss_of(name)(logits - logits.grad, truth)

    assert after < before


@EACH
def test_an_entry_says_what_it_is_and_where_it_comes_from(name):
    entry = LOSSES[name]

    assert entry.name == name
    assert entry.summary
    assert any(mark in entry.source for mark in ("arXiv:", "doi:"))
