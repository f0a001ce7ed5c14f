"""``fedseg search``: from a command to a search, its table and its best study."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, cast, final, get_args

from rich.console import Console
from rich.table import Table

from common.catalogue import unknown
from common.errors import InputError, RunError
from common.study.load import load_study
from common.study.study import Over, SearchTerms, Study
from deploy.cli.console import wide_console
from deploy.cli.running import DEMO_CASES, DEMO_DIFFICULTY, DEMO_SEED, make_phantoms
from deploy.search.at_hub import AtHub
from deploy.search.evaluate import Simulated, proxy
from deploy.search.files import cells, counts, headings, write_best, write_tables
from deploy.search.front import Pick, front, picked
from deploy.search.plan import DATA, PART, Plan, Sites, check_folder, plan_hash, plan_of
from deploy.search.pruning import RULES
from deploy.search.search import Search
from deploy.search.strategies import STRATEGIES, run_search
from deploy.search.trial import Trial
from deploy.simulation.checks import load_sites
from deploy.supervise.hub_folder import HubFolder

SITES_OF_A_MODALITY = 2
USUAL_TRIALS, TRIALS = 20, {"dints": 3}  # a trial of dints trains two federations
RUNS, SEARCHES = "trials", "searches"
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

    def say(self, words: str) -> None:
        """Say something that stays on the screen."""
        self._console.print(words, highlight=False, markup=False, soft_wrap=True)

    def done(self, trial: Trial) -> None:
        """Say how a trial ended."""
        self.say(f"trial {trial.number}: {trial.words}: {_ended(trial)}")


def _ended(trial: Trial) -> str:
    found = trial.outcome
    if found is None or trial.state == "repeated":
        return f"{trial.state}: {trial.why}"
    by = ", ".join(f"{name} {dice:.3f}" for name, dice in found.by_modality.items())
    text = (
        f"Dice {found.dice:.3f} ({by}), {found.parameters:,} parameters, {found.seconds:.0f} s"
    )
    return text if trial.state == "complete" else f"{text}; {trial.state}: {trial.why}"


@dataclass(frozen=True)
class Options:
    """What both commands that search are told.

    Raises:
        InputError: If a choice is none.
    """

    over: str
    strategy: str
    prune: str
    pick: str
    trials: int | None
    rounds: int

    def __post_init__(self) -> None:
        """Hold every choice against what there is."""
        for name, known in (
            ("over", OVER), ("strategy", STRATEGIES), ("prune", RULES), ("pick", PICKS)
        ):  # fmt: skip
            value = getattr(self, name)
            if value not in known:
                raise InputError(f"--{name}: {value!r} {unknown(value, known)}")

    @property
    def wanted_trials(self) -> int:
        """Trials in all."""
        return self.trials or TRIALS.get(self.strategy, USUAL_TRIALS)

    @property
    def terms(self) -> SearchTerms:
        """What the sites of a hub agree to."""
        federations = 2 if self.strategy == "dints" else 1  # the space, and what was found
        return SearchTerms(
            over=cast("Over", self.over), trials=federations * self.wanted_trials
        )

    def plan(self, study: Study, sites: Sites) -> Plan:
        """Return the plan of the search."""
        return plan_of(
            study, sites, over=cast("Over", self.over), strategy=self.strategy,
            prune=self.prune, rounds=self.rounds,
        )  # fmt: skip


def search(
    study_path: Path,
    site: Sequence[Path],
    out: Path | None,
    options: Options,
    *,
    processes: int,
    quiet: bool,
) -> None:
    """Check everything, search from where it stands, write and show what was found."""
    study = study_to_search(study_path)
    folder = new_folder(out or Path("runs") / f"search-{study.name}")
    sites = sites_of(study, str(study_path), site, folder)
    given = " ".join(f"--site {at}" for _, at in sites)
    with SearchProgress(Console(quiet=quiet)) as progress:
        wanted = Search(
            folder=folder, study=study, plan=options.plan(study, sites),
            trials=options.wanted_trials, notice=progress,
            trainer=Simulated(folder / RUNS, sites, processes),
        )  # fmt: skip
        found = run_search(wanted)
    show(wanted, found, cast("Pick", options.pick), f"fedseg simulate {{study}} {given}")


def search_at_hub(
    hub: HubFolder, path: Path, out: Path | None, options: Options, *, note: str, quiet: bool
) -> None:
    """The same with the sites of a hub: each trial is a run of theirs."""
    study = study_to_search(path)
    with SearchProgress(Console(quiet=quiet)) as progress:
        trainer = AtHub(
            hub, proxy(study, options.rounds), options.terms, note=note, notice=progress
        )
        wanted = Search(
            folder=new_folder(out or hub.path / SEARCHES / study.name), study=study,
            plan=options.plan(study, ()), trials=options.wanted_trials, notice=progress,
            trainer=trainer,
        )  # fmt: skip
        found = run_search(wanted)
    trainer.close()
    command = f"fedseg hub start {{study}} --folder {hub.path}"
    show(wanted, found, cast("Pick", options.pick), command)


def study_to_search(path: Path) -> Study:
    """Load a study that can be searched.

    Raises:
        InputError: If nobody is kept for validation.
    """
    study = load_study(path)
    if not study.evaluation.validation:
        what = "is 0: nobody is kept for the validation that a search goes by"
        raise InputError(f"{path}: evaluation.validation: {what}")
    return replace(study, search=None)


def new_folder(folder: Path) -> Path:
    """Make a search's folder where it is missing.

    Raises:
        InputError: If it holds something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_folder(folder)
    return folder


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


def show(search: Search, trials: Sequence[Trial], pick: Pick, command: str) -> None:
    """Write the tables and the best study, and print the front.

    Args:
        search: What was searched.
        trials: All of them.
        pick: Which is the best.
        command: That trains the best ``{study}`` in full.

    Raises:
        RunError: If no trial was trained to the end; the tables say why.
    """
    folder, study, plan = search.folder, search.study, search.plan
    sites = f"{len(plan.sites)} sites" if plan.sites else "the sites of a hub"
    head = (
        f"fedseg search over {plan.over}: strategy {plan.strategy}, prune {plan.prune}, "
        f"{plan.rounds} rounds a trial, {sites}, seed {study.seed}, plan "
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
    print(f"trial {best.number} is the best by {pick}; train it in full with:")
    print(f"  {command.format(study=path)}")
