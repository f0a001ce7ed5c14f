"""Local steps: the one loop that every federated method shares."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from client.adversary import Adversary
from client.data.patches import draw_batch
from client.data.preprocessing import PreparedCase
from common.events import SITE, emit
from common.losses import Loss
from common.losses.deep import answers_of, deep_loss
from common.losses.edges import Drawn, edge_loss
from common.losses.partial import merge_unannotated
from common.modality.affinity import ClassSums, class_sums, distillation_loss
from common.modality.bank import set_modality
from common.networks.dints import SearchedNetwork, architecture_parameters
from common.networks.transfer import encoder_parameters
from common.study.study import Study, Training

Augment = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
POLYNOMIAL_EXPONENT = 0.9
SGD_MOMENTUM = 0.99
PART, ENCODER, PATHS = "part", "encoder", "paths"  # groups of an optimiser with their own rate


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What one stretch of local steps needs.

    Attributes:
        study: Loss, batch, schedule and the rest.
        cases: Training cases, ready.
        loss: Of logits, class indices and the share of the training that is done.
        augment: Changes one patch.
        device: Where the network is.
        steps: How many.
        first_step: Steps done before, in all rounds.
        total_steps: Steps of all rounds together, for the schedule.
        rng: Draws patches and their changes.
        others: Class affinity of each modality, from the hub.
        distillation: Factor of the distillation loss in this stretch.
        anchor: Weights that the proximal term pulls towards, or none.
        encoder_rate: Factor of the learning rate of an encoder that has its own; at 0 it stands
            still.
        path_rate: The same of the paths and operations of a network that is searched; at 0
            they stand still.
        path_cases: Cases that move these; not the training cases, where there are others.
        progress: Fields of the progress events: site, round.
        adversary: Learns after each step from the same batch, or none.
    """

    study: Study
    cases: Sequence[PreparedCase]
    loss: Loss
    augment: Augment
    device: torch.device
    steps: int
    first_step: int
    total_steps: int
    rng: np.random.Generator
    others: Mapping[str, ClassSums]
    distillation: float
    anchor: Sequence[Tensor] | None
    progress: Mapping[str, Any]
    encoder_rate: float = 1.0
    path_rate: float = 0.0
    path_cases: Sequence[PreparedCase] = ()
    adversary: Adversary | None = None


@dataclass
class Fitted:
    """What came of it.

    Attributes:
        steps: Steps that are done.
        loss: Sum over these steps, divided by all of them: in the end, the mean.
        used: Names of the cases that were drawn, by modality.
        sums: Class sums of the unchanged logits, by modality.
    """

    steps: int = 0
    loss: float = 0.0
    used: dict[str, set[str]] = field(default_factory=dict)
    sums: dict[str, ClassSums] = field(default_factory=dict)


def build_optimizer(network: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Build the study's optimiser over all parameters of a network.

    One group, and one for each part of the network that has a learning rate of its own: an
    encoder, the paths of a network that is searched.
    """
    rate, decay = training.learning_rate, training.weight_decay
    encoder, paths = encoder_parameters(network), architecture_parameters(network)
    held = {id(parameter) for parameter in (*encoder, *paths)}
    rest = [p for p in network.parameters() if id(p) not in held]
    groups: list[dict[str, Any]] = [{"params": rest}]
    if encoder:
        groups.append({"params": encoder, PART: ENCODER})
    if paths:  # decay would pull every path towards a chance of a half
        groups.append({"params": paths, PART: PATHS, "weight_decay": 0.0})
    if training.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=rate,
            momentum=SGD_MOMENTUM,
            nesterov=True,
            weight_decay=decay,
        )
    return torch.optim.AdamW(groups, lr=rate, weight_decay=decay, fused=True)


def schedule(training: Training, step: int, total: int) -> float:
    """Return the learning rate of a step, counted from 0 over all rounds."""
    done = min(step / max(total, 1), 1.0)
    if training.schedule == "polynomial":
        return training.learning_rate * float((1 - done) ** POLYNOMIAL_EXPONENT)
    if training.schedule == "cosine":
        return training.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return training.learning_rate


def steps_per_round(training: Training, cases: int) -> int:
    """Return the optimiser steps of a round at a site with this many training cases."""
    return training.steps or training.epochs * math.ceil(cases / training.batch)


def fit(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    plan: Fit,
    fitted: Fitted | None = None,
    after_step: Callable[[Fitted], None] = lambda _fitted: None,
) -> Fitted:
    """Do the local steps.

    Args:
        network: Changed in place.
        optimizer: Changed in place.
        plan: What to do; its generator is drawn from.
        fitted: What came of the steps that were done before an interruption; changed in place.
        after_step: Called with what came of the steps so far; it may end them by raising.
    """
    network.train()
    for parameter in encoder_parameters(network):
        parameter.requires_grad_(plan.encoder_rate > 0)
    fitted = Fitted() if fitted is None else fitted
    training = plan.study.training
    factors = {ENCODER: plan.encoder_rate, PATHS: plan.path_rate}
    started, first = time.monotonic(), fitted.steps
    for step in range(first, plan.steps):
        rate = schedule(training, plan.first_step + step, plan.total_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * factors.get(group.get(PART, ""), 1.0)
        optimizer.zero_grad(set_to_none=True)
        done = min((plan.first_step + step) / max(plan.total_steps, 1), 1.0)
        loss = _loss_of_batch(network, plan, fitted, done)
        loss.backward()
        for parameter in architecture_parameters(network):
            parameter.grad = None
        if plan.anchor is not None:
            _pull(network, plan.anchor, plan.study.federation.method.proximal_mu)
        if training.gradient_clip:
            nn.utils.clip_grad_norm_(network.parameters(), training.gradient_clip)
        optimizer.step()
        if plan.adversary is not None:
            plan.adversary.learn(rate)
        if plan.path_rate and isinstance(network, SearchedNetwork):
            _move_paths(network, optimizer, plan, done)
        fitted.loss += float(loss.detach()) / plan.steps
        fitted.steps = step + 1
        emit(
            SITE,
            "step",
            step=step + 1,
            steps=plan.steps,
            rate=round((step + 1 - first) / max(time.monotonic() - started, 1e-9), 2),
            **plan.progress,
        )
        after_step(fitted)
    return fitted


def _move_paths(
    network: SearchedNetwork, optimizer: torch.optim.Optimizer, plan: Fit, done: float
) -> None:
    """Move the paths and operations alone, by a batch of the cases that are kept for them."""
    optimizer.zero_grad(set_to_none=True)
    other = replace(plan, cases=plan.path_cases, adversary=None)
    loss = _loss_of_batch(network, other, Fitted(), done)
    training = plan.study.training
    shape = (training.batch, plan.study.channels, *training.patch)
    (loss + network.penalty(shape, done)).backward()
    own = {id(parameter) for parameter in network.architecture}
    for parameter in network.parameters():
        if id(parameter) not in own:
            parameter.grad = None
    optimizer.step()


def _loss_of_batch(network: nn.Module, plan: Fit, fitted: Fitted, done: float) -> Tensor:
    training = plan.study.training
    images, labels, cases = draw_batch(
        plan.cases,
        size=training.patch,
        batch=training.batch,
        foreground=training.foreground,
        rng=plan.rng,
    )
    changed = [plan.augment(x, y, plan.rng) for x, y in zip(images, labels, strict=True)]
    x = _to(np.stack([image for image, _ in changed]), plan.device)
    y = _to(np.stack([label for _, label in changed]).astype(np.int64), plan.device)
    for case in cases:
        fitted.used.setdefault(case.files.modality, set()).add(case.files.name)
    set_modality(network, [case.files.modality for case in cases])
    with torch.autocast(plan.device.type, torch.bfloat16, enabled=_is_mixed(plan)):
        output = network(x)
    answers = answers_of(output)
    groups = _groups([case.files.annotated for case in cases])

    def partial_loss(logits: Tensor, classes: Tensor) -> Tensor:
        total = x.new_zeros(())
        for annotated, rows in groups.items():
            merged = merge_unannotated(logits[rows], classes[rows], annotated)
            part = plan.loss(*merged, done, (0, *annotated))
            total = total + part * (len(rows) / len(cases))
        return total

    total = deep_loss(partial_loss, answers, y) + _distil(answers[0], y, cases, plan, fitted)
    known = torch.stack([_known([case], answers[0].shape[1], plan.device) for case in cases])
    if isinstance(output, Drawn):
        total = total + edge_loss(output, y, known.all(1))
    if plan.adversary is not None:
        total = total + plan.adversary.penalty(x, answers[0], y, known)
    return total


def _distil(
    logits: Tensor, y: Tensor, cases: Sequence[PreparedCase], plan: Fit, fitted: Fitted
) -> Tensor:
    """Add the batch to the site's class sums and return the weighted distillation loss."""
    loss = logits.new_zeros((), dtype=torch.float32)
    config = plan.study.distillation
    if not config.weight or len(plan.study.modalities) == 1:
        return loss
    for modality, rows in _groups([case.files.modality for case in cases]).items():
        known = _known([cases[row] for row in rows], logits.shape[1], logits.device)
        own = class_sums(logits[rows], y[rows])
        own = ClassSums(own.sums * known[:, None], own.counts * known)
        seen = ClassSums(own.sums.detach().double(), own.counts.double())
        fitted.sums[modality] = (
            fitted.sums[modality] + seen if modality in fitted.sums else seen
        )
        others = [s for m, s in sorted(plan.others.items()) if m != modality]
        for other in others if plan.distillation else ():
            part = distillation_loss(own, other, known, config.temperature)
            loss = loss + plan.distillation * part * (len(rows) / len(cases) / len(others))
    return loss


def _known(cases: Sequence[PreparedCase], classes: int, device: torch.device) -> Tensor:
    """Mark the classes whose voxels are certain: the background only if all are annotated."""
    known = torch.zeros(classes, dtype=torch.bool, device=device)
    for c in set.intersection(*(set(case.files.annotated) for case in cases)):
        known[c] = True
    known[0] = bool(known[1:].all())
    return known


def _groups(keys: Sequence[Any]) -> dict[Any, list[int]]:
    groups: dict[Any, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    return groups


def _pull(network: nn.Module, anchor: Sequence[Tensor], mu: float) -> None:
    """Add the gradient of mu / 2 times the squared distance to the anchor."""
    for parameter, origin in zip(network.parameters(), anchor, strict=True):
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - origin, alpha=mu)


def _is_mixed(plan: Fit) -> bool:
    return (
        plan.study.training.mixed_precision
        and plan.device.type == "cuda"
        and torch.cuda.is_bf16_supported()
    )


def _to(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
