"""How far one round's local steps are, on disk, so that a killed worker goes on from there.

A round's randomness is a function of the study's seed, the site and the round; within it, the
generators of batches and of dropout are kept as they are after a step. A worker that goes on
from a checkpoint ends with the bits of one that was never interrupted, on a processor that
repeats its sums in the same order.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
import torch

from client.session import Session
from client.state import load_optimizer, optimizer_arrays, part
from client.training import Fit, Fitted
from common.errors import FedsegError, RunError
from common.events import SITE, emit
from common.messages import Score
from common.modality.affinity import ClassSums
from common.tensors import TensorFile, Weights, write_tensors

NETWORK, OPTIMIZER, CRITIC = "network/", "optimizer/", "critic/"
SUMS, RANDOM = "sums/", "random/"


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a checkpoint belongs to; it is of no use to anything else.

    Attributes:
        run: Of the job.
        study: Hash of the study.
        round: Of the job.
        job: Digest of all that was asked, the weights that came among it.
    """

    run: str
    study: str
    round: int
    job: str


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """What a checkpoint brought back, beside the network and the optimiser.

    Attributes:
        fitted: What came of the steps that are done.
        scores: Of the weights that came, as they were validated before.
    """

    fitted: Fitted
    scores: tuple[Score, ...]


@final
class Checkpoint:
    """The checkpoint of one round.

    Args:
        session: Of the study; its network and optimiser are written and read.
        bound: What the checkpoint belongs to.
        seconds: Time between two of them.
    """

    def __init__(self, session: Session, bound: Bound, seconds: float) -> None:
        self._session, self._bound, self._seconds = session, bound, seconds
        self.path = session.state.folder / f"checkpoint-{bound.round:05d}.safetensors"
        self._written = time.monotonic()

    def resume(self, plan: Fit) -> Resumed | None:
        """Put the network, what trains it and the generators back to where they were.

        Returns:
            None if there is no checkpoint of this very job; then nothing was changed, and what
            other jobs left is gone.
        """
        for path in self._session.state.folder.glob("*checkpoint-*"):
            if path != self.path:
                path.unlink(missing_ok=True)
        found = self._read()
        if found is None:
            self.remove()
            return None
        arrays, texts = found
        try:
            resumed = self._apply(arrays, texts, plan)
        except BaseException:
            self.remove()  # or every new start would fail in the same way
            raise
        emit(SITE, "round_resumed", site=self._session.name, step=resumed.fitted.steps)
        return resumed

    def _read(self) -> tuple[Weights, dict[str, Any]] | None:
        try:
            with TensorFile(self.path) as file:
                texts = {key: json.loads(text) for key, text in file.metadata.items()}
                if texts.get("bound") == asdict(self._bound):
                    return {name: file.read(name) for name in file.slots}, texts
        except (OSError, ValueError, FedsegError):
            pass
        return None

    def _apply(self, arrays: Weights, texts: Mapping[str, Any], plan: Fit) -> Resumed:
        session = self._session
        session.arrays.write(part(arrays, NETWORK))
        session.reset_optimizer()
        load_optimizer(session.optimizer, session.network, part(arrays, OPTIMIZER))
        session.load_critic(part(arrays, CRITIC))
        plan.rng.bit_generator.state = texts["batches"]
        random = part(arrays, RANDOM)
        torch.set_rng_state(torch.from_numpy(random["cpu"]))
        if session.device.type == "cuda" and "cuda" in random:
            torch.cuda.set_rng_state(torch.from_numpy(random["cuda"]), session.device)
        return Resumed(
            fitted=Fitted(
                steps=texts["steps"],
                loss=texts["loss"],
                used={m: set(names) for m, names in texts["used"].items()},
                sums=_sums_of(part(arrays, SUMS), session.device),
            ),
            scores=tuple(Score(**score) for score in texts["scores"]),
        )

    def write_if_due(
        self, plan: Fit, fitted: Fitted, scores: Sequence[Score], *, at_once: bool = False
    ) -> None:
        """Write the checkpoint, if the last one is old enough or the worker is about to end.

        A full disk costs the checkpoint, not the round.
        """
        if time.monotonic() - self._written < self._seconds and not at_once:
            return
        try:
            self.write(plan, fitted, scores)
        except RunError as error:
            self._written = time.monotonic()
            emit(SITE, "checkpoint_failed", site=self._session.name, detail=str(error))

    def write(self, plan: Fit, fitted: Fitted, scores: Sequence[Score]) -> None:
        """Write the checkpoint, whole or not at all."""
        session = self._session
        optimizer = optimizer_arrays(session.optimizer, session.network)
        arrays = {NETWORK + k: v for k, v in session.arrays.read().items()}
        arrays |= {OPTIMIZER + k: v for k, v in optimizer.items()}
        arrays |= {CRITIC + k: v for k, v in session.critic_arrays().items()}
        for modality, sums in fitted.sums.items():
            arrays[f"{SUMS}{modality}/sums"] = sums.sums.cpu().numpy()
            arrays[f"{SUMS}{modality}/counts"] = sums.counts.cpu().numpy()
        arrays[RANDOM + "cpu"] = torch.get_rng_state().numpy()
        if session.device.type == "cuda":
            arrays[RANDOM + "cuda"] = torch.cuda.get_rng_state(session.device).numpy()
        texts = {
            "bound": asdict(self._bound),
            "batches": plan.rng.bit_generator.state,
            "steps": fitted.steps,
            "loss": fitted.loss,
            "used": {m: sorted(names) for m, names in fitted.used.items()},
            "scores": [asdict(score) for score in scores],
        }
        metadata = {key: json.dumps(value) for key, value in texts.items()}
        write_tensors(self.path, arrays, metadata)
        self._written = time.monotonic()

    def remove(self) -> None:
        """Remove the checkpoint, if there is one."""
        self.path.unlink(missing_ok=True)


def _sums_of(arrays: Mapping[str, np.ndarray], device: torch.device) -> dict[str, ClassSums]:
    modalities = {name.rpartition("/")[0] for name in arrays}
    return {
        m: ClassSums(
            torch.from_numpy(arrays[f"{m}/sums"]).to(device),
            torch.from_numpy(arrays[f"{m}/counts"]).to(device),
        )
        for m in sorted(modalities)
    }
