"""From a command to a run and its report."""

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from rich.console import Console

from common.errors import InputError, TooLargeError
from common.study.load import load_study, parse_study
from common.study.study import Study, as_plain
from deploy.cli.console import wide_console
from deploy.cli.progress import Progress
from deploy.cli.results import summary
from deploy.simulation.checks import load_sites
from deploy.simulation.simulate import run_simulation, start_run

DEMO_SITES, DEMO_CASES, DEMO_SEED, DEMO_DIFFICULTY = "2ct,2mri", 30, 7, "default"
FEDERATION_SITES = "2ct,1mri"


def start(
    study_path: Path,
    sites: Sequence[Path],
    out: Path | None,
    *,
    encoder: Path | None,
    processes: int,
    quiet: bool,
) -> None:
    """Check everything, make the run's folder, run it, report."""
    study = load_study(study_path)
    profiles = load_sites(sites, study, str(study_path))
    check_fits(study, str(study_path), {profile.device for profile in profiles})
    folder = out or _new_folder(Path("runs"), study.name)
    told = Console(quiet=quiet).print
    start_run(
        study, list(zip(profiles, sites, strict=True)), folder, encoder=encoder, told=told
    )
    go_on(folder, processes=processes, quiet=quiet)


def check_fits(study: Study, name: str, devices: Collection[str]) -> None:
    """See that a training step fits the devices that sites on this machine name.

    Raises:
        InputError: With the largest patch that could fit.
    """
    from client.device import choose_device
    from client.memory import check_memory

    for device in sorted(devices):
        try:
            check_memory(study, choose_device(device))
        except TooLargeError as error:
            raise InputError(f"{name}: training.patch: {error}") from error
        except InputError:  # a device that is not there: its site is refused, with the reason
            continue


def go_on(folder: Path, *, processes: int, quiet: bool) -> None:
    """Take a run to its end and say what came of it."""
    console = Console(quiet=quiet)
    with Progress(console) as progress:
        run_simulation(folder, processes=processes, handlers=[progress])
    path = write_report(folder, None)
    wide_console().print(summary(folder))
    print(f"report: {path.resolve()}")


def write_report(folder: Path, out: Path | None) -> Path:
    """Write a run's report and return where it is."""
    from common.files import write_text
    from deploy.cli.site_files import collect_site_files
    from server.report.page import render_report
    from server.run import read_run

    read_run(folder)
    target = out or folder / "report.html"
    write_text(target, render_report(folder, collect_site_files(folder)))
    return target


def run_demo(out: Path | None, *, processes: int, quiet: bool) -> None:
    """Make phantoms, train four sites on them, report."""
    folder = out or _new_folder(Path("runs"), "demo")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty; choose another folder")
    text = files("deploy").joinpath("studies", "demo.yaml").read_text(encoding="utf-8")
    study = parse_study(text, "demo.yaml")
    data = folder / "data"
    paths = make_phantoms(
        study,
        data,
        sites=DEMO_SITES,
        cases=DEMO_CASES,
        seed=DEMO_SEED,
        difficulty=DEMO_DIFFICULTY,
    )
    if not quiet:
        print(f"phantoms: {data.resolve()}")
    profiles = load_sites(paths, study, "demo.yaml")
    start_run(study, list(zip(profiles, paths, strict=True)), folder / "run")
    go_on(folder / "run", processes=processes, quiet=quiet)


def run_federation(out: Path | None, *, rounds: int) -> None:
    """Bring up hub, proxy and three sites as separate processes, train the demo, report."""
    from deploy.local import local_federation, show

    folder = (out or _new_folder(Path("runs"), "federation")).resolve()
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty; choose another folder")
    text = files("deploy").joinpath("studies", "demo.yaml").read_text(encoding="utf-8")
    study = parse_study(text, "demo.yaml")
    study = replace(study, federation=replace(study.federation, rounds=rounds, minimum_sites=3))
    profiles = make_phantoms(
        study, folder / "data", sites=FEDERATION_SITES, cases=DEMO_CASES, seed=DEMO_SEED,
        difficulty=DEMO_DIFFICULTY,
    )  # fmt: skip
    file = folder / "study.yaml"
    file.write_text(json.dumps(as_plain(study), indent=1), encoding="utf-8")
    with local_federation(folder, profiles, show) as (federation, names):
        run = federation.start_study(file)
        for name in names:
            federation.approve(name, run)
        federation.follow(run, show)
        federation.run("coordinator", "hub", "status", "--folder", str(federation.hub))
        first = names[0]
        federation.run(
            first, "site", "fetch", run, "--out", str(folder / "fetched"),
            "--folder", str(federation.site(first)),
        )  # fmt: skip
        finished = Path(federation.registry.run(run).folder)
        federation.run("coordinator", "report", str(finished))
    wide_console().print(summary(finished))
    print(f"report: {finished / 'report.html'}")


def make_phantoms(
    study: Study, out: Path, *, sites: str, cases: int, seed: int, difficulty: str
) -> Sequence[Path]:
    """Write data sets of made-up people; return the profiles' paths."""
    from deploy.phantoms import DIFFICULTIES, PhantomPlan, parse_sites, write_phantoms

    level = next((name for name in DIFFICULTIES if name == difficulty), None)
    if level is None:
        raise InputError(f"difficulty {difficulty!r}: expected {', '.join(DIFFICULTIES)}")
    plan = PhantomPlan(
        sites=parse_sites(sites, cases),
        dimensions=study.dimensions,
        labels=study.label_names,
        difficulty=level,
        seed=seed,
    )
    return write_phantoms(out, plan)


def _new_folder(above: Path, name: str) -> Path:
    return above / f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
