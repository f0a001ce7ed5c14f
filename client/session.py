"""One study at one site: cases, network, optimiser and their places on disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import final

import torch

from client.cases import SiteCases
from client.data.augmentation import build_augmentation
from client.data.guard import ReadingGuard
from client.device import in_fast_layout
from client.memory import check_memory
from client.profile import Profile
from client.schemes import build_adversary
from client.state import StateFolder
from client.training import Fit, build_optimizer, steps_per_round
from common.errors import RefusedError
from common.losses import build_loss
from common.messages import ClassAffinity, Context
from common.modality.affinity import from_message
from common.networks import build_network
from common.networks.view import NamedArrays
from common.parameters import SITE_ONLY, check_kinds, check_weights, is_used_by
from common.seeds import generator, seed_of
from common.study.study import Study
from common.tensors import Weights, read_tensors, write_tensors


@final
class Session:
    """Everything a worker holds while a study runs.

    Attributes:
        cases: The site's cases.
        network: With banks where the study keeps norms per modality.
        arrays: The network's arrays by their names on the wire.
        optimizer: Of all parameters.
        adversary: What trains against the network; None where nothing does.
        state: State files of the federated rounds.
        first_own: Weights that never leave the site, before the first round.
        kept: Weights that never leave the site, after the newest round.
        warm_round: Round whose optimiser state is in memory; None if it must be read.
    """

    def __init__(
        self,
        profile: Profile,
        study: Study,
        context: Context,
        folder: Path,
        device: torch.device,
    ) -> None:
        self.profile, self.study, self.folder, self.device = profile, study, folder, device
        self._of = (context.run, context.study)
        self.state = StateFolder(folder / "federated")
        check_memory(study, device)
        self.cases = SiteCases(profile, study, ReadingGuard(folder.parent))
        network = build_network(study).to(device)
        self.network = in_fast_layout(network)
        self.arrays = NamedArrays(self.network, study)
        self.optimizer = build_optimizer(self.network, study.training)
        self.adversary = build_adversary(study, device=device, seed=self.seed("critic"))
        self.first_own: Weights = self.arrays.read(lambda kind: kind == SITE_ONLY)
        self.kept = self.first_own
        self.warm_round: int | None = None
        self._loss = build_loss(study.loss)
        self._augment = build_augmentation(study.augmentation, study)

    def is_of(self, context: Context) -> bool:
        """Whether this is the session of a job's run and study."""
        return (context.run, context.study) == self._of

    @property
    def name(self) -> str:
        """The site's name."""
        return self.profile.name

    @property
    def trained_modalities(self) -> tuple[str, ...]:
        """Modalities of which the site has training cases."""
        return tuple(m for m in self.cases.modalities if self.cases.count("train", m))

    @property
    def annotated(self) -> tuple[str, ...]:
        """Labels that the site annotates."""
        return tuple(self.study.classes[i] for i in self.cases.annotated)

    @property
    def steps(self) -> int:
        """Optimiser steps of a round."""
        return steps_per_round(self.study.training, len(self.cases.parts["train"]))

    @property
    def declared(self) -> dict[str, int]:
        """Cases in the site's datasets, by modality."""
        return {m: account.declared for m, account in self.cases.accounting().items()}

    @property
    def training_cases(self) -> dict[str, int]:
        """Training cases by modality, of those that have any."""
        return {m: self.cases.count("train", m) for m in self.trained_modalities}

    def not_needed(self, used: Mapping[str, int]) -> dict[str, int]:
        """Return the usable cases that training left alone, by modality: held out, not drawn.

        Args:
            used: Training cases that were drawn, by modality.
        """
        return {
            m: account.validation + account.test + account.train - used.get(m, 0)
            for m, account in self.cases.accounting().items()
        }

    def seed(self, *purpose: str | int) -> int:
        """Return a seed of this site for one purpose."""
        return seed_of(self.study.seed, self.name, *purpose)

    def check(self, kinds: Mapping[str, str], weights: Weights) -> None:
        """Refuse weights that are not exactly those which this site's network uses.

        Raises:
            IncompatibleWeightsError: Naming the first that differs.
            RefusedError: If nothing here can be trained.
        """
        if not self.cases.parts["train"]:
            raise RefusedError(f"{self.name}: has no usable training case")
        modalities = self.cases.modalities
        expected = {
            n: p for n, p in self.arrays.table.items() if is_used_by(p.kind, modalities)
        }
        check_weights(weights, expected)
        check_kinds(kinds, expected)

    def reset_optimizer(self) -> None:
        """Forget the optimiser's state, and that of the critic's."""
        self.optimizer.state.clear()
        if self.adversary is not None:
            self.adversary.forget()

    def reset_critic(self) -> None:
        """Begin again with the initial critic."""
        if self.adversary is not None:
            self.adversary.reset()

    def critic_arrays(self, *, optimizer: bool = True) -> Weights:
        """Copy the critic out, and its optimiser if asked; nothing where there is none."""
        if self.adversary is None:
            return {}
        return self.adversary.state(optimizer=optimizer)

    def load_critic(self, arrays: Weights) -> None:
        """Put back what :meth:`critic_arrays` copied out."""
        if self.adversary is not None:
            self.adversary.load(arrays)

    def plan(self, number: int, *, affinities: Mapping[str, ClassAffinity]) -> Fit:
        """Return one round's local steps; those of the model alone are the same ones."""
        study = self.study
        ramp = study.distillation.ramp_rounds
        grown = min((number - 1) / ramp, 1.0) if ramp else 1.0
        proximal = study.federation.method.proximal_mu > 0
        anchor = [p.detach().clone() for p in self.network.parameters()] if proximal else None
        return Fit(
            study=study,
            cases=self.cases.parts["train"],
            loss=self._loss,
            augment=self._augment,
            device=self.device,
            steps=self.steps,
            first_step=(number - 1) * self.steps,
            total_steps=study.federation.rounds * self.steps,
            rng=generator(study.seed, "batches", self.name, number),
            others={m: from_message(a, self.device) for m, a in sorted(affinities.items())},
            distillation=study.distillation.weight * grown,
            anchor=anchor,
            encoder_rate=study.network.encoder_factor(number),
            path_rate=study.network.path_factor(number),
            path_cases=self.cases.parts["validation"] or self.cases.parts["train"],
            adversary=self.adversary,
            progress={"site": self.name, "round": number, "rounds": study.federation.rounds},
        )

    # --- weights that never leave the site ----------------------------------------------------

    def keep_weights(self, number: int) -> None:
        """Keep the site's own weights of a round, which its best model may need later."""
        if self.kept:
            write_tensors(self._kept_file(number), self.kept, {})

    def kept_weights(self, number: int) -> Weights:
        """Return the site's own weights of a round; none where the study shares everything."""
        path = self._kept_file(number)
        return read_tensors(path) if path.exists() else {}

    def _kept_file(self, number: int) -> Path:
        return self.folder / "federated" / own_name(number)


def own_name(number: int) -> str:
    """Name the file of the weights that never leave a site, after a round."""
    return f"own-{number:05d}.safetensors"


def bytes_of_arrays(study: Study) -> int:
    """Return the bytes of all arrays of a study's network, none of which is allocated."""
    with torch.device("meta"):
        network = build_network(study)
    return sum(p.size_bytes for p in NamedArrays(network, study).table.values())
