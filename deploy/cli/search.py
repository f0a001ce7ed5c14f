"""``fedseg search``: from a command to a search, its table and its best study."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Self, cast, final, get_args

from rich.console import Console
from rich.table import Table

from common.catalogue import unknown
from common.errors import InputError, RunError
from common.study.load import load_study
from common.study.study import Study
from deploy.cli.console import wide_console
from deploy.cli.running import DEMO_CASES, DEMO_DIFFICULTY, DEMO_SEED, make_phantoms
from deploy.search.evaluate import Sites
from deploy.search.files import cells, counts, headings, write_best, write_tables
from deploy.search.front import Pick, front, picked
from deploy.search.plan import DATA, PART, check_folder, plan_hash, plan_of
from deploy.search.pruning import RULES
from deploy.search.search import Search
from deploy.search.space import Over
from deploy.search.strategies import STRATEGIES, run_search
from deploy.search.trial import Trial
from deploy.simulation.checks import load_sites

SITES_OF_A_MODALITY = 2
USUAL_TRIALS, TRIALS = 20, {"dints": 3}  # a trial of dints trains two federations
OVER, PICKS = get_args(Over), get_args(Pick)


@final
class SearchProgress:
    """A line for each trial; on a terminal also what is under way."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("reading cases") if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def doing(self, words: str) -> None:
        """Show what is under way."""
        if self._status:
            self._status.update(words)

    def done(self, trial: Trial) -> None:
        """Say how a trial ended."""
        text = f"trial {trial.number}: {trial.words}: {_ended(trial)}"
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _ended(trial: Trial) -> str:
    found = trial.outcome
    if found is None or trial.state == "repeated":
        return f"{trial.state}: {trial.why}"
    by = ", ".join(f"{name} {dice:.3f}" for name, dice in found.by_modality.items())
    text = (
        f"Dice {found.dice:.3f} ({by}), {found.parameters:,} parameters, {found.seconds:.0f} s"
    )
    return text if trial.state == "complete" else f"{text}; {trial.state}: {trial.why}"


def search(
    study_path: Path,
    site: Sequence[Path],
    out: Path | None,
    *,
    over: str,
    strategy: str,
    prune: str,
    pick: str,
    trials: int | None,
    rounds: int,
    processes: int,
    quiet: bool,
) -> None:
    """Check everything, search from where it stands, write and show what was found."""
    for name, value, known in (
        ("over", over, OVER), ("strategy", strategy, STRATEGIES), ("prune", prune, RULES),
        ("pick", pick, PICKS),
    ):  # fmt: skip
        if value not in known:
            raise InputError(f"--{name}: {value!r} {unknown(value, known)}")
    study = load_study(study_path)
    if not study.evaluation.validation:
        what = "is 0: nobody is kept for the validation that a search goes by"
        raise InputError(f"{study_path}: evaluation.validation: {what}")
    folder = out or Path("runs") / f"search-{study.name}"
    folder.mkdir(parents=True, exist_ok=True)
    check_folder(folder)
    sites = sites_of(study, str(study_path), site, folder)
    plan = plan_of(
        study, sites, over=cast("Over", over), strategy=strategy, prune=prune, rounds=rounds
    )
    with SearchProgress(Console(quiet=quiet)) as progress:
        wanted = Search(
            folder=folder, study=study, sites=sites, plan=plan,
            trials=trials or TRIALS.get(strategy, USUAL_TRIALS), processes=processes,
            notice=progress,
        )  # fmt: skip
        found = run_search(wanted)
    show(wanted, found, cast("Pick", pick))


def sites_of(study: Study, name: str, given: Sequence[Path], folder: Path) -> Sites:
    """Load the sites; without any, make phantoms as the demo has them."""
    paths = list(given) or _phantoms(study, name, folder)
    return list(zip(load_sites(paths, study, name), paths, strict=True))


def _phantoms(study: Study, name: str, folder: Path) -> list[Path]:
    strange = [modality for modality in study.modalities if modality not in ("ct", "mr")]
    if strange:
        raise InputError(
            f"{name}: modalities.{strange[0]}: phantoms are ct or mr; give each site with "
            "--site PROFILE"
        )
    if not (folder / DATA).exists():
        shutil.rmtree(folder / PART, ignore_errors=True)
        wanted = ",".join(f"{SITES_OF_A_MODALITY}{modality}" for modality in study.modalities)
        make_phantoms(
            study, folder / PART, sites=wanted, cases=DEMO_CASES, seed=DEMO_SEED,
            difficulty=DEMO_DIFFICULTY,
        )  # fmt: skip
        (folder / PART).rename(folder / DATA)
    return sorted((folder / DATA).glob("*.yaml"))


def show(search: Search, trials: Sequence[Trial], pick: Pick) -> None:
    """Write the tables and the best study, and print the front.

    Raises:
        RunError: If no trial was trained to the end; the tables say why.
    """
    folder, study, plan = search.folder, search.study, search.plan
    head = (
        f"fedseg search over {plan.over}: strategy {plan.strategy}, prune {plan.prune}, "
        f"{plan.rounds} rounds a trial, {len(plan.sites)} sites, seed {study.seed}, plan "
        f"{plan_hash(plan)[:8]}."
    )
    write_tables(folder, study, trials, head)
    best = picked(trials, pick)
    if best is None:
        raise RunError(f"{folder}: no trial was trained to its end: {counts(trials)}")
    path = write_best(folder, study, best, head)
    modalities = list(study.modalities)
    table = Table(title=f"front of {counts(trials)} trials", title_justify="left")
    for name in headings(modalities):
        table.add_column(name, justify="left" if name == "choice" else "right", overflow="fold")
    for trial in front(trials):
        table.add_row(*cells(trial, modalities))
    wide_console().print(table)
    given = " ".join(f"--site {at}" for _, at in search.sites)
    print(f"trial {best.number} is the best by {pick}; train it in full with:")
    print(f"  fedseg simulate {path} {given}")
