"""The model that a site would have had alone: same steps, same batches, nobody's help."""

import math
import time
from collections.abc import Callable

import torch

from client.evaluation import validate
from client.session import Session
from client.state import SiteState, StateFolder, load_optimizer, optimizer_arrays
from client.training import Fitted, fit
from common.events import SITE, emit
from common.messages import AloneReport, Score
from common.tensors import Weights, read_tensors, write_tensors

BEST = "best.safetensors"


def train_alone(
    session: Session,
    initial: Weights,
    after_step: Callable[[Fitted], None] = lambda _fitted: None,
) -> AloneReport:
    """Train from the initial weights for as many steps as the federation, kill-safe.

    After each round's worth of steps the state is written; the weights that score best on the
    site's own validation cases are kept, as the hub keeps the federation's.

    Args:
        session: Of the study.
        initial: The weights that the federation began with.
        after_step: Called after each step; it may end the training by raising.
    """
    started = time.monotonic()
    state = StateFolder(session.folder / "alone")
    rounds, every = session.study.federation.rounds, session.study.evaluation.every
    newest = state.newest_before(rounds + 1)
    best_round, best_value = 0, -math.inf
    session.reset_optimizer()
    session.reset_critic()
    session.arrays.write(initial)
    if newest is not None:
        held = state.load(newest)
        session.arrays.write(held.weights)
        load_optimizer(session.optimizer, session.network, held.optimizer)
        session.load_critic(held.critic)
        best_round = int(held.texts["best_round"])
        best_value = float(held.texts["best_value"])
    for number in range((newest or 0) + 1, rounds + 1):
        if not session.study.training.keep_optimizer:
            session.reset_optimizer()
        torch.manual_seed(session.seed("dropout", number))
        plan = session.plan(number, affinities={})
        fitted = fit(session.network, session.optimizer, plan, after_step=after_step)
        weights = session.arrays.read()
        if number % every == 0 or number == rounds:
            value = _metric(
                validate(
                    session.network,
                    session.cases.parts["validation"],
                    session.study,
                    session.device,
                )
            )
            if value > best_value or best_round == 0:
                best_round, best_value = number, value
                write_tensors(state.folder / BEST, weights, {"round": str(number)})
        state.save(
            number,
            SiteState(
                optimizer=optimizer_arrays(session.optimizer, session.network),
                weights=weights,
                critic=session.critic_arrays(),
                texts={"best_round": str(best_round), "best_value": repr(best_value)},
            ),
        )
        emit(
            SITE,
            "alone_trained",
            site=session.name,
            round=number,
            rounds=rounds,
            loss=fitted.loss,
            best=best_value,
        )
    return AloneReport(
        site=session.name,
        steps=rounds * session.steps,
        best_round=best_round,
        seconds=time.monotonic() - started,
    )


def _metric(scores: tuple[Score, ...]) -> float:
    """Return the mean Dice; without validation cases, later is better."""
    values = [s.value for s in scores if s.cases]
    return sum(values) / len(values) if values else math.inf


def load_alone(session: Session) -> bool:
    """Put the best weights that the site trained alone into its network, if there are any."""
    path = session.folder / "alone" / BEST
    if not path.exists():
        return False
    session.arrays.write(read_tensors(path))
    return True
