"""A study in words: what would be trained, and what it costs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.study.study import Study, study_hash

if TYPE_CHECKING:
    from torch import nn

MIB = 2**20
ADAM_BYTES = 16  # weight, gradient and two moments, 4 bytes each
SGD_BYTES = 12


@dataclass(frozen=True)
class Cost:
    """What a study's network costs.

    Attributes:
        parameters: Trainable numbers, banks included.
        down_bytes: Bytes of weights to a site with one modality, a round.
        up_bytes: Bytes of weights back from it.
        step_bytes: Estimated memory of a training step: weights, gradients, optimiser,
            activations, and the same of a critic.
    """

    parameters: int
    down_bytes: int
    up_bytes: int
    step_bytes: int


def cost_of(study: Study) -> Cost:
    """Build the network without data and count.

    The activations are the outputs of every layer for one batch, traced without computing.
    """
    from common.networks import build_network
    from common.networks.view import NamedArrays
    from common.parameters import is_trained_by, is_used_by

    network = build_network(study)
    table = NamedArrays(network, study).table
    one = [min(study.modalities)]

    def size_of(wanted: Callable[[str], bool]) -> int:
        return sum(p.size_bytes for p in table.values() if wanted(p.kind))

    parameters = sum(p.numel() for p in network.parameters())
    per_parameter = ADAM_BYTES if study.training.optimizer == "adamw" else SGD_BYTES
    return Cost(
        parameters=parameters,
        down_bytes=size_of(lambda kind: is_used_by(kind, one)),
        up_bytes=size_of(lambda kind: is_trained_by(kind, one, study.label_names)),
        step_bytes=parameters * per_parameter
        + _activation_bytes(network, study, study.channels)
        + _critic_bytes(study),
    )


def _critic_bytes(study: Study) -> int:
    """Return the memory of the critic, where a study has one, in the network's step."""
    import torch

    from client.schemes import build_adversary

    adversary = build_adversary(study, device=torch.device("cpu"), seed=study.seed)
    if adversary is None:
        return 0
    held = sum(p.numel() for p in adversary.critic.parameters()) * ADAM_BYTES
    channels = study.channels * len(study.labels)
    return held + _activation_bytes(adversary.critic, study, channels)


def _activation_bytes(network: "nn.Module", study: Study, channels: int) -> int:
    import torch
    from torch import Tensor

    total = 0

    def count(_module: object, _inputs: object, output: object) -> None:
        nonlocal total
        if isinstance(output, Tensor):
            total += output.numel() * output.element_size()

    traced = network.to("meta")
    for module in traced.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    shape = (study.training.batch, channels, *study.training.patch)
    traced(torch.empty(shape, device="meta"))
    return total


def in_words(study: Study, cost: Cost) -> str:
    """Return the study as lines of prose."""
    training, federation = study.training, study.federation
    amount = f"{training.steps} steps" if training.steps else f"{training.epochs} epochs"
    sharing = {
        "per_modality": "one set per modality, averaged over the sites that have it (FedNorm)",
        "everything": "one set, averaged over all sites",
        "statistics_local": "one set; running statistics stay at each site (SiloBN)",
        "local": "stay at each site (FedBN)",
    }[study.sharing.norm]
    rows = {
        "segments": ", ".join(study.label_names),
        "in": _inputs(study),
        "network": f"{study.network.name} with {study.network.norm} norm: "
        f"{cost.parameters:,} parameters",
        "norms": sharing,
        "loss": study.loss.name + _distilled(study) + _criticised(study),
        "locally": f"{amount} a round, batch {training.batch}, patch {list(training.patch)}, "
        f"{training.optimizer} at {training.learning_rate:g}, {training.schedule} schedule",
        "rounds": f"{federation.rounds} of {federation.method.name}, at least "
        f"{federation.minimum_sites} site(s), "
        f"{federation.minimum_sites_per_modality} a modality",
        "held out": f"{study.evaluation.validation:.0%} of the people to choose the best "
        f"round, {study.evaluation.test:.0%} for the final figures",
        "a round": f"{cost.down_bytes / MIB:.2f} MiB to a site with one modality, "
        f"{cost.up_bytes / MIB:.2f} MiB back",
        "a step": f"about {cost.step_bytes / MIB:.0f} MiB of memory, beside the framework's",
    }
    head = f"Study {study.name}, hash {study_hash(study)}"
    return "\n".join([head, *(f"  {name:<10} {text}" for name, text in rows.items())])


def _inputs(study: Study) -> str:
    modalities = ", ".join(f"{m} ({c.intensity})" for m, c in study.modalities.items())
    spacing = "as it comes" if study.spacing_mm is None else f"{list(study.spacing_mm)} mm"
    return f"{modalities}; {study.dimensions}-D, {study.channels} channel(s), spacing {spacing}"


def _distilled(study: Study) -> str:
    weight = study.distillation.weight
    if not weight or len(study.modalities) == 1:
        return ""
    return f", plus class affinities distilled across modalities (weight {weight:g})"


def _criticised(study: Study) -> str:
    scheme = study.training.scheme
    if scheme.name == "supervised":
        return ""
    return (
        f", plus what a critic tells apart, which stays at each site (weight {scheme.weight:g})"
    )
