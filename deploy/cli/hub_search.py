"""``fedseg hub search``: a search whose trials the sites of a hub train."""

from pathlib import Path
from typing import Annotated

import typer

from common.errors import InputError
from deploy.cli.search_options import Choose, Given, Out, Over, Prune, Rounds, Strategy, Trials
from deploy.supervise.hub_folder import HubFolder


def search(
    study: Given,
    folder: Annotated[
        Path, typer.Option("--folder", help="The hub's folder.", envvar="FEDSEG_HUB")
    ] = Path("hub"),
    out: Out = None,
    over: Over = "network",
    strategy: Strategy = "tpe",
    trials: Trials = None,
    rounds: Rounds = 4,
    prune: Prune = "median",
    pick: Choose = "dice",
    note: Annotated[str, typer.Option(help="For the people at the sites.")] = "",
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the result only.")] = False,
) -> None:
    """Search on the hub's sites: they approve once, each trial is a short run of theirs."""
    from server.auditing import audit

    try:
        from deploy.cli.search import Options, search_at_hub
    except ImportError as error:
        raise InputError(
            "fedseg hub search draws the first weights of each trial, which needs torch and "
            "MONAI; run it where they are installed and the hub's folder can be written"
        ) from error
    hub = HubFolder.open(folder)
    audit(hub.path)
    options = Options(over, strategy, prune, pick, trials, rounds)
    search_at_hub(hub, study, out, options, note=note, quiet=quiet)
