"""``fedseg hub permissions`` and ``fedseg site permissions``: a user for each process."""

from pathlib import Path
from typing import Annotated

import typer

FirstId = Annotated[
    int | None,
    typer.Option("--first-id", help="Number users from here on, as the containers do."),
]


def hub_permissions(
    folder: Annotated[
        Path, typer.Option("--folder", help="The hub's folder.", envvar="FEDSEG_HUB")
    ] = Path("hub"),
    first_id: FirstId = None,
) -> None:
    """Give each process of the hub what it needs, and nothing else; again after each start."""
    from deploy.supervise.hub_folder import HubFolder
    from deploy.supervise.permissions import give_hub, named, numbered

    people = named("hub") if first_id is None else numbered("hub", first_id)
    hub = HubFolder.open(folder)
    print(f"{hub.path}: owners and modes of {give_hub(hub, people)} files and folders set")


def site_permissions(
    folder: Annotated[
        Path, typer.Option("--folder", help="The site's folder.", envvar="FEDSEG_SITE")
    ] = Path("site"),
    first_id: FirstId = None,
) -> None:
    """Give each process of the site what it needs, and nothing else."""
    from deploy.supervise.permissions import give_site, named, numbered
    from deploy.supervise.site_folder import SiteFolder

    people = named("site") if first_id is None else numbered("site", first_id)
    site = SiteFolder.open(folder)
    print(f"{site.path}: owners and modes of {give_site(site, people)} files and folders set")
    user = people.users["worker"]
    print(f"cases and profile are yours to set: only user {user}, the worker, must read them")
