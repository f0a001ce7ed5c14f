import math

import pytest
import torch

from common.modality.affinity import (
    ClassSums,
    as_message,
    class_sums,
    distillation_loss,
    from_message,
    log_affinity,
)
from server.enrolment import pool_affinities

# Two classes, four voxels of one row at the CT site. Logits (of class 0, of class 1) and truth:
#   voxel     0        1        2        3
#   logits  4 | 0    2 | 2    0 | 6    1 | 3
#   truth     0        0        1        1
CT = torch.tensor([[4.0, 2.0, 0.0, 1.0], [0.0, 2.0, 6.0, 3.0]])[None, :, None]
CT_TRUTH = torch.tensor([0, 0, 1, 1])[None, None]
# Summed by true class, class 0 has (4 + 2, 0 + 2) = (6, 2) of 2 voxels, class 1 (1, 9) of 2;
# so the means are (3, 1) and (0.5, 4.5), and over T = 2 they are (1.5, 0.5) and (0.25, 2.25).
# Affinity: q_0 = (s(1), s(-1)), q_1 = (s(-2), s(2)) with the logistic function s, because a
# softmax of two depends on their difference alone: 1.5 - 0.5 = 1 and 0.25 - 2.25 = -2.
S1, S2, S0 = 0.7310585786300049, 0.8807970779778823, 0.5
# The MR side: one voxel a class, logits (0, 0) where class 0 is and (0, 2) where class 1 is;
# over T: differences 0 and -1, so q_0 = (1/2, 1/2), q_1 = (s(-1), s(1)).
MR = ClassSums(torch.tensor([[0.0, 0.0], [0.0, 2.0]]), torch.tensor([1.0, 1.0]))
# Symmetric KL of two pairs (p, 1 - p) and (r, 1 - r) of log-odds a and b:
#   1/2 [KL + KL back] = 1/2 (p - r)(a - b).
# Class 0: a = 1, b = 0: 1/2 (0.7310586 - 0.5) 1 = 0.1155293.
# Class 1: a = -2, b = -1: 1/2 (0.1192029 - 0.2689414) (-1) = 0.0748692.
# Mean: 0.0951993.
CLASS_0, CLASS_1 = 0.11552928931500245, 0.07486924967393861
BOTH = torch.tensor([True, True])


def own(logits=CT, truth=CT_TRUTH):
    return class_sums(logits, truth)


def loss(one, other, known=BOTH, temperature=2.0):
    return distillation_loss(one, other, known, temperature)


def test_logits_are_summed_by_true_class():
    found = own()

    assert found.sums.tolist() == [[6.0, 2.0], [1.0, 9.0]]
    assert found.counts.tolist() == [2.0, 2.0]


def test_the_affinity_is_that_worked_by_hand():
    expected = torch.tensor([[S1, 1 - S1], [1 - S2, S2]])

    torch.testing.assert_close(log_affinity(own(), 2.0).exp(), expected)


def test_the_loss_is_that_worked_by_hand():
    assert loss(own(), MR).item() == pytest.approx((CLASS_0 + CLASS_1) / 2, rel=1e-6)


def test_the_loss_is_pytorchs_kl_in_both_directions():
    one, other = log_affinity(own(), 2.0), log_affinity(MR, 2.0)
    kl = torch.nn.functional.kl_div

    there = kl(other, one, reduction="batchmean", log_target=True)
    back = kl(one, other, reduction="batchmean", log_target=True)

    torch.testing.assert_close(loss(own(), MR), (there + back) / 2)


def test_the_loss_is_symmetric_and_zero_between_equals():
    torch.testing.assert_close(loss(own(), MR), loss(MR, own()))
    assert loss(own(), own()).item() == 0.0


@pytest.mark.parametrize(
    ("mine", "theirs", "known", "expected"),
    [
        ([2, 2], [1, 0], [1, 1], CLASS_0),
        ([2, 0], [1, 1], [1, 1], CLASS_0),
        ([2, 2], [1, 1], [0, 1], CLASS_1),
        ([2, 0], [0, 1], [1, 1], 0.0),
        ([2, 2], [1, 1], [0, 0], 0.0),
    ],
    ids=[
        "absent there",
        "absent here",
        "not annotated here",
        "nothing shared",
        "nothing known",
    ],
)
def test_a_class_without_voxels_or_annotation_is_left_out(mine, theirs, known, expected):
    masked = own()
    one = ClassSums(masked.sums, torch.tensor(mine, dtype=torch.float32))
    other = ClassSums(MR.sums, torch.tensor(theirs, dtype=torch.float32))

    found = loss(one, other, torch.tensor(known, dtype=torch.bool))

    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_a_loss_over_nothing_can_still_be_trained_on():
    logits = CT.clone().requires_grad_()

    loss(own(logits), MR, ~BOTH).backward()

    assert logits.grad.abs().max() == 0.0


def test_no_gradient_flows_into_the_other_side():
    logits, theirs = CT.clone().requires_grad_(), CT.flip(1).clone().requires_grad_()

    loss(own(logits), own(theirs)).backward()

    assert theirs.grad is None
    assert logits.grad.abs().max() > 0


def test_the_gradient_into_the_own_side_is_that_of_finite_differences():
    step = 1e-2
    logits = CT.clone().requires_grad_()
    loss(own(logits), MR).backward()

    for place in range(CT.numel()):
        nudge = torch.zeros(CT.numel())
        nudge[place] = step
        up, down = (loss(own(CT + s * nudge.view_as(CT)), MR).item() for s in (1, -1))
        slope = (up - down) / (2 * step)
        assert logits.grad.view(-1)[place].item() == pytest.approx(slope, abs=2e-4)


def test_affinities_pooled_over_sites_are_those_over_all_voxels():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, 8, 9, generator=generator)
    truth = torch.randint(0, 3, (6, 8, 9), generator=generator)
    sites = {"A": slice(0, 1), "B": slice(1, 3), "C": slice(3, 6)}

    sent = {s: {"ct": as_message(class_sums(logits[r], truth[r]))} for s, r in sites.items()}
    pooled = from_message(pool_affinities(sent)["ct"], torch.device("cpu"))

    everything = class_sums(logits, truth)
    torch.testing.assert_close(log_affinity(pooled, 2.0), log_affinity(everything, 2.0))


def test_sums_of_two_batches_are_the_sums_of_both():
    twice = own() + own()

    assert twice.sums.tolist() == [[12.0, 4.0], [2.0, 18.0]]
    torch.testing.assert_close(log_affinity(twice, 2.0), log_affinity(own(), 2.0))


def test_a_message_carries_the_sums_in_double_precision_and_an_absent_class():
    sums = ClassSums(torch.tensor([[1e12, 3e12], [0.0, 0.0]]).double(), torch.tensor([1e12, 0]))

    found = from_message(as_message(sums), torch.device("cpu"))

    assert found.sums.tolist() == [[1.0, 3.0], [0.0, 0.0]]
    assert found.counts.tolist() == [1.0, 0.0]


def test_volumes_are_summed_as_slices_are():
    volume = class_sums(CT[..., None], CT_TRUTH[..., None])

    assert volume.sums.tolist() == own().sums.tolist()


def test_the_numbers_by_hand_are_the_logistic_function():
    assert pytest.approx(1 / (1 + math.exp(-1))) == S1
    assert pytest.approx(1 / (1 + math.exp(-2))) == S2
    assert pytest.approx(0.5 * (S1 - S0)) == CLASS_0
    assert pytest.approx(0.5 * (S2 - S1)) == CLASS_1
