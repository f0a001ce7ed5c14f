"""Strategies that ask for one point after another: Optuna's samplers.

Sources: random: Bergstra, Bengio. JMLR 13, 2012. TPE with several objectives: Ozaki et al.
JAIR 73, 2022. NSGA-II: Deb et al. IEEE TEVC 6(2), 2002. Optuna: Akiba et al. KDD 2019.

Each trial has a sampler of its own, seeded by the study's seed and the trial's number, so that
a search that was killed goes on as if it had not been: the next point depends on that number
and on the trials that are finished, which are on disk.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from common.errors import InputError, RunError
from common.study.typed import as_typed
from deploy.search.candidate import attempt
from deploy.search.search import Search
from deploy.search.space import Axis, OneOf, axes
from deploy.search.trial import TRAINED, Trial

if TYPE_CHECKING:
    import optuna


LOG = "trials.log"
Direction = Literal["maximize", "minimize"]
RECORD = "record"
STARTUP = 6  # random trials before TPE models anything
POPULATION = 8  # of a generation
MOST_IN_VAIN = 200  # points in a row that train nothing: the space is exhausted


def sampled(search: Search, *, sampler: str) -> list[Trial]:
    """Ask, train and tell until enough trials were trained; return all trials."""
    asked = open_study(search.folder / LOG, objectives(search))
    _give_up_unfinished(asked)
    trials = finished(asked)
    in_vain = 0
    while sum(trial.state in TRAINED for trial in trials) < search.trials:
        number = len(trials) + 1
        asked.sampler = _sampler(sampler, search.study.seed, number)
        draw = asked.ask()
        point = {
            name: _suggest(draw, name, axis) for name, axis in axes(search.plan.over).items()
        }
        trial = attempt(search, number, point, trials)
        _tell(asked, draw, trial)
        search.notice.done(trial)
        trials.append(trial)
        in_vain = 0 if trial.state in TRAINED else in_vain + 1
        if in_vain == MOST_IN_VAIN:
            break
    return trials


def objectives(search: Search) -> list[Direction]:
    """Return the directions: Dice up, and parameters down where the network is searched."""
    return ["maximize"] if search.plan.over == "loss" else ["maximize", "minimize"]


def open_study(log: Path, directions: list[Direction]) -> "optuna.Study":
    """Open Optuna's journal, without the line that a kill may have left half written.

    Raises:
        InputError: If Optuna is not installed.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    except ImportError as error:
        what = "is not installed; pip install 'fedseg[search]'"
        raise InputError(f"optuna: {what}") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if log.exists():
        with log.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
    # one process at a time works here (server.journal.owning), so a lock is a killed one's
    log.with_name(log.name + ".lock").unlink(missing_ok=True)
    backend = JournalFileBackend(str(log), lock_obj=JournalFileOpenLock(str(log)))
    return optuna.create_study(
        storage=JournalStorage(backend), study_name="search", directions=directions,
        load_if_exists=True, pruner=optuna.pruners.NopPruner(),
    )  # fmt: skip


def finished(asked: "optuna.Study") -> list[Trial]:
    """Read the trials that have ended, without those that were interrupted."""
    found = (t.user_attrs.get(RECORD) for t in asked.get_trials(deepcopy=False))
    return [_typed(record) for record in found if record is not None]


def _typed(record: Any) -> Trial:
    trial, problems = as_typed(Trial, record)
    if trial is None:
        raise RunError(f"{LOG}: {problems[0][1]}; go on with the release that wrote it")
    return trial


def _give_up_unfinished(asked: "optuna.Study") -> None:
    """Mark what was under way as failed; the next trial has its number, and so its point.

    Optuna's own queue is no help: NSGA-II leaves what comes from there out of its population.
    """
    from optuna.trial import TrialState

    for left in asked.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if RECORD in left.user_attrs:  # killed between writing its record and ending it
            _end(asked, left.number, _typed(left.user_attrs[RECORD]))
            continue
        asked.tell(left.number, state=TrialState.FAIL)


def _sampler(name: str, seed: int, number: int) -> "optuna.samplers.BaseSampler":
    from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler

    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    if name == "tpe":
        return TPESampler(seed=own, n_startup_trials=STARTUP)
    if name == "nsga2":
        return NSGAIISampler(seed=own, population_size=POPULATION)
    return RandomSampler(seed=own)


def _suggest(draw: "optuna.Trial", name: str, axis: Axis) -> str | int | float:
    if isinstance(axis, OneOf):
        return cast("str | int", draw.suggest_categorical(name, axis.options))
    return draw.suggest_float(name, axis.low, axis.high)


def _tell(asked: "optuna.Study", draw: "optuna.Trial", trial: Trial) -> None:
    """Write a trial down; its record first, so that a kill in between loses nothing."""
    if len(asked.directions) == 1 and trial.outcome is not None:
        for number, dice in trial.outcome.curve.items():
            draw.report(dice, int(number))  # with two objectives Optuna has no place for it
    draw.set_user_attr(RECORD, asdict(trial))
    _end(asked, draw.number, trial)


def _end(asked: "optuna.Study", number: int, trial: Trial) -> None:
    from optuna.trial import TrialState

    if trial.state == "failed":
        asked.tell(number, state=TrialState.FAIL)
    elif trial.outcome is None or trial.stopped:
        asked.tell(number, state=TrialState.PRUNED)
    else:
        values = [trial.outcome.dice, float(trial.outcome.parameters)]
        asked.tell(number, values[: len(asked.directions)])
