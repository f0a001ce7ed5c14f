"""``fedseg hub backup`` and ``restore``."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

HERE = Path("hub")


def backup(
    target: Annotated[Path, typer.Argument(help="The archive, or a folder for it.")],
    folder: Annotated[
        Path, typer.Option("--folder", help="The hub's folder.", envvar="FEDSEG_HUB")
    ] = HERE,
) -> None:
    """Write the whole hub into one archive; it may go on meanwhile."""
    from deploy.supervise.backup import back_up
    from deploy.supervise.hub_folder import HubFolder

    if target.is_dir():
        target /= f"hub-{datetime.now(UTC):%Y%m%d-%H%M%S}.tar"
    manifest = back_up(HubFolder.open(folder), target)
    size = target.stat().st_size
    print(f"wrote {target}: {len(manifest.files)} files, {size:,} bytes, mode 0600")
    print("it holds every key of the hub: encrypt it, and keep it where few can get it")


def restore(
    archive: Annotated[Path, typer.Argument(help="From fedseg hub backup.")],
    folder: Annotated[Path, typer.Option("--folder", help="Where to; must not exist yet.")],
) -> None:
    """Make a hub from an archive, after every digest in it was checked."""
    from deploy.supervise.backup import restore as restore_hub

    hub = restore_hub(archive, folder)
    print(f"restored {hub.path}; {hub.path / 'restored.json'} says from when")
    print("sites may have seen newer rounds than it has: tell their people before you start it")
    print(f"look it over with: fedseg doctor --folder {folder}")
    print(f"start it with: fedseg hub serve --folder {folder}")
