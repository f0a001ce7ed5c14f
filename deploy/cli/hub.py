"""``fedseg hub``: what the coordinator types."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.console import wide_console
from deploy.cli.hub_backup import backup, restore
from deploy.cli.hub_search import search
from deploy.cli.permissions import hub_permissions
from deploy.supervise.hub_folder import HubFolder

app = typer.Typer(no_args_is_help=True, help="Run the hub: sites, studies, runs.")
app.command()(backup)
app.command()(restore)
app.command("permissions")(hub_permissions)
app.command()(search)
Folder = Annotated[
    Path, typer.Option("--folder", help="The hub's folder.", envvar="FEDSEG_HUB")
]
HERE = Path("hub")
SiteName = Annotated[str, typer.Argument(help="The site's name.")]
EncoderWeights = Annotated[
    Path | None,
    typer.Option("--encoder-weights", help="The file that the study names by its SHA-256."),
]
RunName = Annotated[str, typer.Argument(help="The run, or the start of its name.")]


@app.command()
def init(
    address: Annotated[str, typer.Option(help="host:port at which sites reach the hub.")],
    folder: Folder = HERE,
    listen: Annotated[str, typer.Option(help="Address to listen on.")] = "*",
    superlink_port: Annotated[int, typer.Option(help="Flower's, on loopback.")] = 9092,
    metrics_port: Annotated[int, typer.Option(help="For Prometheus, on loopback.")] = 9464,
    user: Annotated[str, typer.Option(help="Whom nginx becomes if root starts it.")] = "",
) -> None:
    """Make a hub: authorities, certificates, secrets, the proxy's configuration."""
    from deploy.supervise.desk import make_hub
    from deploy.supervise.hub_folder import HubSettings

    settings = HubSettings(
        address=address,
        listen=listen,
        superlink_port=superlink_port,
        metrics_port=metrics_port,
        user=user,
    )
    hub = make_hub(folder, settings)
    print(f"made {hub.path}")
    print(f"move {hub.pki / 'root' / 'root.key'} to a place without a network: it is needed")
    print("again only to renew an authority, in five years, and its revocation list, each year")
    print(f"start it with: fedseg hub serve --folder {folder}")


@app.command()
def serve(folder: Folder = HERE) -> None:
    """Run everything of the hub until told to end; runs go on where they stood."""
    from deploy.supervise.hub import hub_programs
    from deploy.supervise.supervisor import Supervisor, log_to

    hub = HubFolder.open(folder)
    log_to(hub.path / "log" / "hub.log")
    Supervisor(list(hub_programs(hub).values()), hub.path / "run").run()


@app.command()
def part(
    name: Annotated[
        str, typer.Argument(help="superlink, executor, control, proxy, registrar.")
    ],
    folder: Folder = HERE,
) -> None:
    """Become one process of the hub, for systemd or a container with its own user."""
    from deploy.supervise.hub import hub_programs
    from deploy.supervise.part import become

    become(hub_programs(HubFolder.open(folder)), name)


@app.command()
def invite(
    site: SiteName,
    folder: Folder = HERE,
    days: Annotated[int, typer.Option(min=1, help="How long the invitation holds.")] = 7,
) -> None:
    """Invite a site: prints the one line that its people need."""
    from deploy.supervise.desk import invite_site

    print(invite_site(_desk(folder), site, days))


@app.command()
def admit(
    site: SiteName,
    folder: Folder = HERE,
    code: Annotated[str, typer.Option(help="The code, as the site read it to you.")] = "",
) -> None:
    """Admit a site whose code you compared with its people, over the telephone."""
    from deploy.supervise.desk import admit_site

    hub = _desk(folder)
    if not code:
        shown = hub.registry.site(site).code
        typer.confirm(
            f"does {site} read the code {shown or '(it has not joined)'} to you?", abort=True
        )
        code = shown
    admit_site(hub, site, code)
    print(f"{site}: admitted")


@app.command()
def revoke(site: SiteName, folder: Folder = HERE) -> None:
    """Cut a site off; runs go on without it."""
    from deploy.supervise.desk import revoke_site

    revoke_site(_desk(folder), site)
    print(f"{site}: revoked")


@app.command()
def renew(
    folder: Folder = HERE,
    authorities: Annotated[
        bool, typer.Option("--authorities", help="The issuing authorities too; needs the root.")
    ] = False,
) -> None:
    """Renew the hub's certificates and lists; the root's list needs the root's key."""
    from deploy.supervise.desk import renew_hub

    for line in renew_hub(_desk(folder), authorities=authorities):
        print(line)


@app.command()
def start(
    study: Annotated[Path, typer.Argument(help="A study, or the folder of a built one.")],
    folder: Folder = HERE,
    note: Annotated[str, typer.Option(help="For the people at the sites.")] = "",
    encoder_weights: EncoderWeights = None,
) -> None:
    """Offer a study to the sites and queue a run of it; it starts when enough approved."""
    from deploy.supervise.desk import start_study

    row = start_study(_desk(folder), study, note, encoder=encoder_weights, told=print)
    print(f"run {row.run}: queued")
    print(f"study {row.hash}: offered")
    print("the sites see it with: fedseg site studies")


@app.command()
def status(folder: Folder = HERE) -> None:
    """Show sites, studies and runs."""
    from deploy.cli.federation import hub_tables

    console = wide_console()
    for table in hub_tables(HubFolder.open(folder).registry):
        console.print(table)


@app.command()
def pause(run: RunName, folder: Folder = HERE) -> None:
    """Pause a run; what was accepted is kept."""
    _want(folder, run, "paused")


@app.command()
def resume(run: RunName, folder: Folder = HERE) -> None:
    """Let a paused or stopped run go on at its round."""
    _want(folder, run, "running")


@app.command()
def stop(run: RunName, folder: Folder = HERE) -> None:
    """Stop a run for good; its weights are kept."""
    _want(folder, run, "stopped")


@app.command()
def evaluate(run: RunName, folder: Folder = HERE) -> None:
    """Have every model of a finished run scored at every site that approves."""
    from deploy.supervise.desk import queue_matrix

    row = queue_matrix(_desk(folder), run)
    print(f"run {row.run}: queued; see it with: fedseg hub matrix {run}")


@app.command()
def matrix(run: RunName, folder: Folder = HERE) -> None:
    """Show the Dice of every model of a run at every site, as far as it was scored."""
    from deploy.cli.federation import matrix_table

    row = HubFolder.open(folder).registry.run(run)
    wide_console().print(matrix_table(Path(row.folder)))


@app.command()
def close(
    study: Annotated[str, typer.Argument(help="Its hash, or the start of it.")],
    folder: Folder = HERE,
) -> None:
    """Take a study off the list that sites see."""
    from deploy.supervise.desk import close_study

    print(f"study {close_study(_desk(folder), study)}: no longer offered")


def _desk(folder: Path) -> HubFolder:
    """Open a hub for somebody whose doings are audited."""
    from server.auditing import audit

    hub = HubFolder.open(folder)
    audit(hub.path)
    return hub


def _want(folder: Path, run: str, wanted: str) -> None:
    from deploy.supervise.desk import want_run

    print(f"run {want_run(_desk(folder), run, wanted)}: {wanted}, as soon as it can be")
