"""From a point of the space to a trial: refused, known already, or trained."""

from collections.abc import Sequence
from dataclasses import replace

from common.errors import FedsegError, StorageError
from common.study.study import Study
from deploy.search.evaluate import outcome_of, parameters_of, proxy
from deploy.search.pruning import RULES, Curve, comparable
from deploy.search.search import Heard, Hopeless, Search
from deploy.search.space import Point, in_words, refusal, study_at
from deploy.search.trial import Trial


def attempt(search: Search, number: int, point: Point, trials: Sequence[Trial]) -> Trial:
    """Train a point as a federation, unless it cannot be trained or has been.

    Args:
        search: What it is a trial of.
        number: Of the trial; names its run's folder.
        point: What was chosen.
        trials: The earlier ones.

    Raises:
        StorageError: If the disk is full: no fault of the point's.
    """
    study = study_at(proxy(search.study, search.plan.rounds), point)
    words = in_words(study, search.plan.over)
    trial = Trial(number=number, state="failed", point=dict(point), words=words)
    if why := refusal(study):
        return replace(trial, state="infeasible", why=why)
    for old in trials:
        if old.point == point and old.state in ("complete", "pruned"):
            why = f"the choice of trial {old.number}, which was {old.state}"
            return replace(
                trial, state="repeated", why=why, outcome=old.outcome, stopped=old.stopped
            )
    try:
        return _trained(search, study, trial, trials)
    except StorageError:
        raise
    except (FedsegError, RuntimeError, ValueError, MemoryError) as error:
        return replace(trial, why=_in_a_line(error))


def _trained(search: Search, study: Study, trial: Trial, trials: Sequence[Trial]) -> Trial:
    parameters = parameters_of(study)
    heard = _judge(search, trial, comparable(trials, parameters))
    why = ""
    try:
        search.trainer.train(study, trial.number, heard)
    except Hopeless as hopeless:
        why = str(hopeless)
    folder = search.trainer.folder(study, trial.number)
    return replace(
        trial,
        state="pruned" if why else "complete",
        why=why,
        outcome=outcome_of(folder, study, parameters),
        stopped=bool(why),
    )


def _judge(search: Search, trial: Trial, others: Sequence[Curve]) -> Heard:
    """Return what hears a federation's rounds and ends it where the rule says so."""
    rule = RULES[search.plan.prune]
    head = f"trial {trial.number}: {trial.words}"
    search.notice.doing(head)

    def heard(curve: Curve) -> None:
        search.notice.doing(f"{head}: Dice {max(curve.values()):.3f} in round {len(curve)}")
        if why := rule(curve, others):
            raise Hopeless(why)

    return heard


def _in_a_line(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0]
    return first if isinstance(error, FedsegError) else f"{type(error).__name__}: {first}"
