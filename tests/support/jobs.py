"""Jobs for one phantom site, as a hub would ask them, without a hub."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from client.profile import load_profile
from client.worker import SiteWorker
from common.messages import AloneJob, ClassAffinity, Context, EvaluateJob, Pooled, TrainJob
from common.networks import build_network
from common.networks.view import NamedArrays
from common.parameters import is_used_by
from common.study.study import Study, canonical_json, study_hash
from common.tensors import Weights
from tests.support.federations import small_study

STATISTICS = {"ct": ((80.0, 40.0),)}
AFFINITY = ClassAffinity(
    sums=((90.0, 5.0, -3.0), (1.0, 30.0, 2.0), (-1.0, 0.5, 9.0)), counts=(50.0, 20.0, 10.0)
)


@dataclass(frozen=True)
class Jobs:
    """What a hub asks of a site that has ``modality``."""

    study: Study
    modality: str = "ct"
    run: str = "run-1"

    @property
    def hash(self) -> str:
        return study_hash(self.study)

    def context(self, number: int) -> Context:
        return Context(run=self.run, study=canonical_json(self.study), round=number)

    @property
    def weights(self) -> Weights:
        arrays = NamedArrays(build_network(self.study), self.study)
        return arrays.read(lambda kind: is_used_by(kind, [self.modality]))

    def _asked(self, number: int, weights: Weights | None) -> dict:
        arrays = NamedArrays(build_network(self.study), self.study)
        weights = self.weights if weights is None else weights
        other = "mr" if self.modality == "ct" else "ct"
        return {
            "context": self.context(number),
            "pooled": Pooled(statistics=STATISTICS, affinities={other: AFFINITY}),
            "kinds": {name: arrays.table[name].kind for name in weights},
            "weights": weights,
        }

    def train(
        self, number: int, weights: Weights | None = None, *, validate: bool = True
    ) -> TrainJob:
        return TrainJob(validate=validate, **self._asked(number, weights))

    def evaluate(self, number: int, part: str = "validation") -> EvaluateJob:
        return EvaluateJob(part=part, **self._asked(number, None))

    def alone(self) -> AloneJob:
        return AloneJob(**self._asked(0, None))


def jobs_of(**changes: object) -> Jobs:
    """Return the jobs of a small study; see ``tests.support.federations.SMALL``."""
    return Jobs(small_study(**changes))


def worker_of(profile: Path, folder: Path, *, seconds: float = 60.0, **options) -> SiteWorker:
    """Open the worker of a site; ``seconds`` lie between its checkpoints."""
    loaded = replace(load_profile(profile), checkpoint_seconds=seconds)
    return SiteWorker(loaded, str(profile), folder, **options)


def moved(weights: Weights, by: float) -> Weights:
    """Return weights that differ a little, as the next round's do."""
    return {name: (array + np.float32(by)) for name, array in weights.items()}
