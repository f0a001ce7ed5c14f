"""Class affinities: what a network answers, on average, where each class truly is.

Source: Dou et al. Unpaired Multi-modal Segmentation via Knowledge Distillation. IEEE TMI 39(7),
2020. arXiv:2001.03111, the distillation loss. Theirs lets both sides move and has no mask; here
the other modality's affinity comes through the hub (C x C sums and C counts), is held constant,
and classes without voxels on either side are left out, which would otherwise pull a row of the
affinity towards uniform.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.messages import ClassAffinity


@dataclass(frozen=True)
class ClassSums:
    """Logits summed by true class.

    Attributes:
        sums: Row k: sum over the voxels of true class k of their C logits.
        counts: Voxels of each class.
    """

    sums: Float[Tensor, "C C"]
    counts: Float[Tensor, " C"]

    def __add__(self, other: "ClassSums") -> "ClassSums":
        return ClassSums(self.sums + other.sums, self.counts + other.counts)


def class_sums(
    logits: Float[Tensor, "B C *space"], labels: Int[Tensor, "B *space"]
) -> ClassSums:
    """Sum the logits of a batch by true class; gradients flow into the sums."""
    classes = logits.shape[1]
    flat = logits.float().movedim(1, -1).reshape(-1, classes)
    truth = labels.reshape(-1)
    sums = flat.new_zeros(classes, classes).index_add(0, truth, flat)
    counts = torch.bincount(truth, minlength=classes).to(flat.dtype)
    return ClassSums(sums, counts)


def log_affinity(sums: ClassSums, temperature: float) -> Float[Tensor, "C C"]:
    r"""Return the logarithm of the affinity.

    .. math:: q_k = \mathrm{softmax}\left(\frac{1}{T} \frac{\sum_{i: y_i = k} z_i}{n_k}\right)
    """
    means = sums.sums / sums.counts.clamp(min=1)[:, None]
    return torch.log_softmax(means / temperature, dim=1)


def distillation_loss(
    own: ClassSums, other: ClassSums, known: Bool[Tensor, " C"], temperature: float
) -> Float[Tensor, ""]:
    r"""Symmetric KL divergence between two affinities, over the classes that both have.

    .. math:: L = \frac{1}{|V|} \sum_{k \in V} \frac{1}{2}
        \left[ KL(q_k \| \hat q_k) + KL(\hat q_k \| q_k) \right]

    Args:
        own: Of this batch; gradients flow through it.
        other: Of the other modality, pooled over sites; held constant.
        known: Classes whose voxels are truly known here (annotated at this site).
        temperature: T of the softmax; 2 in the paper.

    Returns:
        The loss, 0 where no class is shared.
    """
    valid = known & (own.counts > 0) & (other.counts > 0)
    if not bool(valid.any()):
        return own.sums.sum() * 0
    mine = log_affinity(own, temperature)[valid]
    theirs = log_affinity(other, temperature)[valid].detach()
    divergence = ((mine.exp() - theirs.exp()) * (mine - theirs)).sum(dim=1)
    return 0.5 * divergence.mean()


def as_message(sums: ClassSums) -> ClassAffinity:
    """Turn sums into what crosses the wire."""
    return ClassAffinity(
        sums=tuple(tuple(row) for row in sums.sums.double().tolist()),
        counts=tuple(sums.counts.double().tolist()),
    )


def from_message(message: ClassAffinity, device: torch.device) -> ClassSums:
    """Turn what crossed the wire into sums, scaled to means so that float32 holds them."""
    sums = torch.tensor(message.sums, dtype=torch.float64)
    counts = torch.tensor(message.counts, dtype=torch.float64)
    means = sums / counts.clamp(min=1)[:, None]
    return ClassSums(means.float().to(device), (counts > 0).float().to(device))
