"""``fedseg site``: what the people at a hospital type."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.console import wide_console
from deploy.cli.permissions import site_permissions

app = typer.Typer(no_args_is_help=True, help="Run a site: join, decide, take part.")
app.command("permissions")(site_permissions)
Folder = Annotated[
    Path, typer.Option("--folder", help="The site's folder.", envvar="FEDSEG_SITE")
]
HERE = Path("site")
Study = Annotated[str, typer.Argument(help="The study's hash, or the start of it.")]


@app.command()
def join(
    invitation: Annotated[str, typer.Argument(help="The line that the coordinator sent.")],
    profile: Annotated[Path, typer.Option(help="The site's profile.")],
    folder: Folder = HERE,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the coordinator.")] = 3600.0,
) -> None:
    """Make the site's keys, ask to be admitted, show the code to read to the coordinator."""
    from deploy.supervise.join import join_hub

    site = join_hub(invitation, folder, profile, wait_seconds=wait, tell=_say)
    _say(f"admitted as {site.settings.site}, certificate until {site.keys.expires():%Y-%m-%d}")
    _say(f"start it with: fedseg site run --folder {folder}")


@app.command()
def run(folder: Folder = HERE) -> None:
    """Run everything of the site until told to end."""
    from deploy.supervise.site import prepare_site, renewal_chore, site_programs
    from deploy.supervise.site_folder import SiteFolder
    from deploy.supervise.supervisor import Supervisor, log_to

    site = SiteFolder.open(folder)
    log_to(site.path / "log" / "site.log")
    prepare_site(site)
    supervisor = Supervisor(list(site_programs(site).values()), site.path / "run")
    supervisor.add_chore(renewal_chore(site, supervisor))
    supervisor.run()


@app.command()
def part(
    name: Annotated[str, typer.Argument(help="worker, node, executor or agent.")],
    folder: Folder = HERE,
) -> None:
    """Become one process of the site, for systemd or a container with its own user."""
    from deploy.supervise.part import become
    from deploy.supervise.site import site_programs
    from deploy.supervise.site_folder import SiteFolder

    become(site_programs(SiteFolder.open(folder)), name)


@app.command()
def studies(
    folder: Folder = HERE,
    study: Annotated[str, typer.Argument(help="One of them, in full.")] = "",
) -> None:
    """Show the studies on offer in words: what is trained, what leaves, how many bytes."""
    from deploy.cli.offers import offer_in_words, offers_table
    from deploy.supervise.decisions import refresh
    from deploy.supervise.site_folder import SiteFolder

    site = SiteFolder.open(folder)
    offers, trouble = refresh(site)
    if trouble:
        _say(f"{trouble}; these are the offers as last heard")
    if study:
        _say(offer_in_words(offers.find(study), site))
        return
    wide_console().print(offers_table(offers, site))


@app.command()
def approve(
    study: Study,
    folder: Folder = HERE,
    rounds: Annotated[int | None, typer.Option(help="At most so many rounds.")] = None,
    until: Annotated[str | None, typer.Option(help="Last day, such as 2027-03-31.")] = None,
    minimum_cases: Annotated[int, typer.Option(help="Only with so many training cases.")] = 5,
    outputs: Annotated[
        str, typer.Option(help="What may leave the site, separated by commas.")
    ] = "updates,metrics,affinities,statistics",
    by: Annotated[str, typer.Option(help="Who decides; by default who is logged in.")] = "",
) -> None:
    """Let a study, and this study only, be trained here."""
    from client.consent import Limits
    from deploy.supervise.decisions import decide

    limits = Limits(
        rounds=rounds, until=until, minimum_cases=minimum_cases,
        outputs=tuple(part.strip() for part in outputs.split(",") if part.strip()),
    )  # fmt: skip
    _say(decide(folder, study, "approve", limits=limits, by=by))


@app.command()
def deny(study: Study, folder: Folder = HERE, by: str = "") -> None:
    """Refuse a study."""
    from deploy.supervise.decisions import decide

    _say(decide(folder, study, "deny", by=by))


@app.command()
def pause(study: Study, folder: Folder = HERE, by: str = "") -> None:
    """Take no further part for now; approve again to go on."""
    from deploy.supervise.decisions import decide

    _say(decide(folder, study, "pause", by=by))


@app.command()
def withdraw(study: Study, folder: Folder = HERE, by: str = "") -> None:
    """Take no further part, for good."""
    from deploy.supervise.decisions import decide

    _say(decide(folder, study, "withdraw", by=by))


@app.command()
def runs(folder: Folder = HERE) -> None:
    """Show the runs that the site takes or took part in."""
    from deploy.cli.offers import runs_table
    from deploy.supervise.site_folder import SiteFolder

    with SiteFolder.open(folder).hub() as hub:
        wide_console().print(runs_table(hub.runs()))


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="The run, or the start of its name.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")],
    folder: Folder = HERE,
) -> None:
    """Fetch the site's own results of a run, and the model's parameters that it uses."""
    from deploy.supervise.decisions import fetch_run
    from deploy.supervise.site_folder import SiteFolder

    for path, size in fetch_run(SiteFolder.open(folder), name, out):
        _say(f"{path}: {size:,} bytes")


@app.command()
def status(folder: Folder = HERE) -> None:
    """Show what runs at the site, and whether the hub is reached."""
    from deploy.cli.offers import site_status
    from deploy.supervise.site_folder import SiteFolder

    wide_console().print(site_status(SiteFolder.open(folder)))


def _say(line: str) -> None:
    print(line, flush=True)
