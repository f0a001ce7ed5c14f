"""A study in words: what would be trained, and what it costs."""

from collections.abc import Callable
from dataclasses import dataclass

from common.study.study import SearchTerms, Study, approval_hash

MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """What a study's network costs.

    Attributes:
        parameters: Trainable numbers, banks included.
        down_bytes: Bytes of weights to a site with one modality, a round.
        up_bytes: Bytes of weights back from it.
        step_bytes: What a training step needs at the least, see
            :func:`client.memory.least_bytes`; None where the network cannot tell.
    """

    parameters: int
    down_bytes: int
    up_bytes: int
    step_bytes: int | None


def cost_of(study: Study) -> Cost:
    """Build the network and count; nothing is trained."""
    from client.memory import least_bytes
    from common.networks import build_network
    from common.networks.view import NamedArrays
    from common.parameters import is_trained_by, is_used_by

    network = build_network(study)
    table = NamedArrays(network, study).table
    one = [min(study.modalities)]

    def size_of(wanted: Callable[[str], bool]) -> int:
        return sum(p.size_bytes for p in table.values() if wanted(p.kind))

    parameters = sum(p.numel() for p in network.parameters())
    return Cost(
        parameters=parameters,
        down_bytes=size_of(lambda kind: is_used_by(kind, one)),
        up_bytes=size_of(lambda kind: is_trained_by(kind, one, study.label_names)),
        step_bytes=least_bytes(study),
    )


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
        "a step": _step_in_words(cost.step_bytes),
    }
    kind = "Study" if study.search is None else "Search with study"
    head = f"{kind} {study.name}, hash {approval_hash(study)}"
    if study.search is not None:
        rows = {"search": _search_in_words(study, study.search), **rows}
    return "\n".join([head, *(f"  {name:<10} {text}" for name, text in rows.items())])


def _search_in_words(study: Study, terms: SearchTerms) -> str:
    over = {"network": "network", "loss": "loss", "both": "network and loss"}[terms.over]
    return (
        f"at most {terms.trials} trials of {study.federation.rounds} rounds, each with another "
        f"{over} of fedseg's own, of which one is shown here; all else is as shown"
    )


def _step_in_words(needed: int | None) -> str:
    if needed is None:
        return (
            "memory unknown: this network cannot be traced; fedseg networks --cost measures it"
        )
    told = f"at least {needed / MIB:.0f} MiB of memory, up to twice that"
    return f"{told}, beside weights and framework"


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
