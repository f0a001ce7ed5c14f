"""``fedseg``: every command, and how each ends.

Exit codes: 0 done, 2 wrong input, 3 refused by policy, 4 failed while running, 130 interrupted.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from common.errors import FedsegError
from deploy.cli.audit import app as audit_app
from deploy.cli.console import wide_console
from deploy.cli.doctor import doctor
from deploy.cli.hub import EncoderWeights
from deploy.cli.hub import app as hub_app
from deploy.cli.own_packages import check_own_packages
from deploy.cli.search_options import Choose, Given, Out, Over, Prune, Rounds, Strategy, Trials
from deploy.cli.site import app as site_app

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train one medical-image segmentation network across hospitals that differ.",
)
study_app = typer.Typer(no_args_is_help=True, help="Write, check and build studies.")
app.add_typer(study_app, name="study")
app.command()(doctor)
app.add_typer(audit_app, name="audit")
app.add_typer(hub_app, name="hub")
app.add_typer(site_app, name="site")

INTERRUPTED = 130
GO_ON = "interrupted; a run goes on with: fedseg simulate --resume RUN; a search as it began"
Processes = Annotated[int, typer.Option(min=1, help="Spread the sites over so many processes.")]
Sites = Annotated[
    list[Path] | None, typer.Option("--site", help="A site's profile; once for each site.")
]
RunFolder = Annotated[Path, typer.Argument(help="A run's folder.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the result only.")]


def run() -> None:
    """Run the command line; the installed ``fedseg``."""
    try:
        check_own_packages()
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        _fail(GO_ON, INTERRUPTED)
    except FedsegError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}", FedsegError.exit_code)
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if code is None or not hasattr(error, "format_message"):
            raise
        _fail(error.format_message(), int(code))
    if code == INTERRUPTED:  # typer turns Ctrl-C into a return value
        _fail(GO_ON, INTERRUPTED)
    sys.exit(code)


def _fail(message: str, code: int) -> None:
    for line in message.splitlines():
        print(f"fedseg: {line}", file=sys.stderr)
    sys.exit(code)


# --- studies -------------------------------------------------------------------------------


@study_app.command("new")
def study_new(target: Annotated[Path, typer.Argument(help="File to write.")]) -> None:
    """Write a commented study to start from."""
    from common.errors import InputError
    from common.files import write_text
    from deploy.cli.starter import STARTER

    if target.exists():
        raise InputError(f"{target}: exists already; choose another name")
    write_text(target, STARTER)
    print(f"wrote {target}; check it with: fedseg study check {target}")


@study_app.command("check")
def study_check(
    file: Annotated[Path, typer.Argument(help="A study.")], site: Sites = None
) -> None:
    """Check a study (with --site, against those sites too) and say what would be trained."""
    from common.study.load import load_study
    from deploy.cli.describe import cost_of, in_words

    study = load_study(file)
    if site:
        from deploy.simulation.checks import load_sites

        load_sites(site, study, str(file))
    print(in_words(study, cost_of(study)))


@study_app.command("build")
def study_build(
    file: Annotated[Path, typer.Argument(help="A study.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The run's folder.")],
    encoder_weights: EncoderWeights = None,
) -> None:
    """Make a run's folder with the initial weights, for a hub that has no torch."""
    from common.study.load import load_study
    from deploy.simulation.build import build_run

    info = build_run(load_study(file), out, {}, encoder=encoder_weights, told=print)
    print(f"built {out}: run {info.run}, study {info.hash}")


# --- runs ----------------------------------------------------------------------------------


@app.command()
def simulate(
    study: Annotated[Path | None, typer.Argument(help="A study.")] = None,
    site: Sites = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run's folder.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run.")] = None,
    encoder_weights: EncoderWeights = None,
    processes: Processes = 1,
    quiet: Quiet = False,
) -> None:
    """Run a whole federation on this machine."""
    from deploy.cli.running import go_on, start

    if resume is not None:
        if study is not None or site or out is not None or encoder_weights is not None:
            raise typer.BadParameter(
                "--resume takes study and sites from the run; give it alone"
            )
        go_on(resume, processes=processes, quiet=quiet)
        return
    if study is None:
        raise typer.BadParameter("give a study, or --resume RUN")
    start(study, site or [], out, encoder=encoder_weights, processes=processes, quiet=quiet)


@app.command()
def search(
    study: Given,
    site: Sites = None,
    out: Out = None,
    over: Over = "network",
    strategy: Strategy = "tpe",
    trials: Trials = None,
    rounds: Rounds = 4,
    prune: Prune = "median",
    pick: Choose = "dice",
    processes: Processes = 1,
    quiet: Quiet = False,
) -> None:
    """Search for a network or a loss, each trial a short federation."""
    from deploy.cli.search import Options
    from deploy.cli.search import search as search_for

    options = Options(over, strategy, prune, pick, trials, rounds)
    search_for(study, site or [], out, options, processes=processes, quiet=quiet)


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder; by default a new one.")
    ] = None,
    processes: Processes = 2,
    quiet: Quiet = False,
) -> None:
    """Make phantoms and train four sites on them, 2 CT and 2 MRI, in a few minutes."""
    from deploy.cli.running import run_demo

    run_demo(out, processes=processes, quiet=quiet)


@app.command()
def federation(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder; by default a new one.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Of the demo study.")] = 20,
) -> None:
    """Bring up a real hub and three sites here, as each person would type it, and train."""
    from deploy.cli.running import run_federation

    run_federation(out, rounds=rounds)


@app.command()
def report(
    folder: RunFolder,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML file.")] = None,
) -> None:
    """Write a run's report: one HTML file that needs no network."""
    from deploy.cli.running import write_report

    print(write_report(folder, out))


@app.command()
def evaluate(
    folder: RunFolder,
    site: Annotated[
        Path, typer.Option("--site", help="Profile of the site whose cases are scored.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the case table.")
    ] = None,
) -> None:
    """Score a run's best weights on a site's held-out cases, at the site."""
    from deploy.cli.scoring import evaluate_run

    table, cases = evaluate_run(folder, site, out or folder / "evaluations")
    wide_console().print(table)
    print(cases)


@app.command()
def predict(
    folder: RunFolder,
    image: Annotated[list[Path], typer.Argument(help="NIfTI image, one file a channel.")],
    modality: Annotated[str, typer.Option(help="One of the study's modalities.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Label map to write, .nii.gz.")],
    site: Annotated[
        str, typer.Option(help="Site whose own norms to use, where they stay local.")
    ] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Segment one image with a run's best weights, on the image's own grid."""
    from deploy.cli.scoring import predict_image

    voxels = predict_image(folder, image, modality, out, site=site, device=device)
    print(f"{out}: " + ", ".join(f"{name} {count} voxels" for name, count in voxels.items()))


@app.command()
def explain(
    folder: RunFolder,
    case: Annotated[str, typer.Argument(help="A case of the site's.")],
    site: Annotated[Path, typer.Option("--site", help="Profile of the site that has it.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder; by default the site's own.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Once for each; by default all that are found.")
    ] = None,
) -> None:
    """Write pictures of why the network draws what it draws in a case, at the site."""
    from deploy.cli.scoring import explain_files

    for path in explain_files(folder, case, site, out, label or []):
        print(path)


# --- data and choices ----------------------------------------------------------------------


@app.command()
def phantoms(
    out: Annotated[Path, typer.Argument(help="Folder for the data sets and profiles.")],
    study: Annotated[Path, typer.Option(help="Gives dimensions and labels.")],
    sites: Annotated[str, typer.Option(help="Such as 2ct,2mri.")] = "2ct,2mri",
    cases: Annotated[int, typer.Option(min=1, help="Of each site.")] = 12,
    seed: Annotated[int, typer.Option(help="Another seed, other people.")] = 1,
    difficulty: Annotated[str, typer.Option(help="easy, default or hard.")] = "default",
) -> None:
    """Make CT and MRI data sets of made-up people, and a profile for each site."""
    from common.study.load import load_study
    from deploy.cli.running import make_phantoms

    for path in make_phantoms(
        load_study(study), out, sites=sites, cases=cases, seed=seed, difficulty=difficulty
    ):
        print(path)


@app.command()
def networks(
    cost: Annotated[
        bool, typer.Option("--cost", help="Measure a training step of each.")
    ] = False,
    patch: Annotated[int, typer.Option(min=1, help="Side of the patch for --cost.")] = 96,
    dimensions: Annotated[int, typer.Option(min=2, max=3, help="For --cost.")] = 2,
    batch: Annotated[int, typer.Option(min=1, help="Images a step for --cost.")] = 2,
    only: Annotated[
        list[str] | None, typer.Option(help="Networks for --cost; by default all.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write --cost as Markdown.")
    ] = None,
) -> None:
    """List the networks that a study can name, or what each costs on this machine."""
    from common.networks import NETWORKS
    from deploy.cli.choices import table_of

    if not cost:
        wide_console().print(table_of(NETWORKS))
        return
    from common.files import write_text
    from deploy.cli.costs import cost_page, cost_table, costs

    chosen = [NETWORKS[name].config() for name in only or NETWORKS]
    measured = []
    volume = dimensions == 3  # noqa: PLR2004
    for found in costs(chosen, patch=patch, batch=batch, dimensions=3 if volume else 2):
        measured.append(found)
        print(f"measured {found.name}", file=sys.stderr)
    wide_console().print(cost_table(measured, patch=patch, batch=batch))
    if out is not None:
        write_text(out, cost_page(measured, patch=patch, batch=batch))


@app.command()
def losses() -> None:
    """List the losses that a study can name."""
    from common.losses import LOSSES
    from deploy.cli.choices import table_of

    wide_console().print(table_of(LOSSES))


@app.command()
def methods() -> None:
    """List the federated methods and the schemes of training, and what sharing can be."""
    from client.schemes import SCHEMES
    from deploy.cli.choices import methods_table, sharing_table, table_of

    console = wide_console()
    console.print(methods_table())
    console.print(sharing_table())
    console.print(table_of(SCHEMES))


if __name__ == "__main__":
    run()
