"""Partial labels: a structure that nobody looked for is not background.

Source: Shi et al. Marginal loss and exclusion loss for partially supervised multi-organ
segmentation. Medical Image Analysis 70, 2021. arXiv:2007.03868, equation 3: the probabilities
of the background and of all classes without annotation are summed before the loss.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def merge_unannotated(
    logits: Float[Tensor, "B C *space"],
    labels: Int[Tensor, "B *space"],
    annotated: Sequence[int],
) -> tuple[Float[Tensor, "B A *space"], Int[Tensor, "B *space"]]:
    """Merge the classes that a site does not annotate into the background.

    A logarithm of summed exponentials, so that a softmax over what is returned gives the
    summed probabilities.

    Args:
        logits: Of all C classes.
        labels: True classes; unannotated ones do not occur.
        annotated: Classes above 0 that the site annotates, ascending.

    Returns:
        Logits of 1 + len(annotated) classes and labels renumbered to them; both as they came
        where every class is annotated.
    """
    classes = logits.shape[1]
    if len(annotated) == classes - 1:
        return logits, labels
    merged = [c for c in range(classes) if c not in annotated]
    background = torch.logsumexp(logits[:, merged].float(), dim=1, keepdim=True)
    kept = torch.cat([background, logits[:, list(annotated)].float()], dim=1)
    renumber = torch.zeros(classes, dtype=labels.dtype, device=labels.device)
    for i, c in enumerate(annotated):
        renumber[c] = i + 1
    return kept, renumber[labels]
