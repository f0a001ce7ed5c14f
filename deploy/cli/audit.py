"""``fedseg audit``: is a hub's or a site's log as it was written?"""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Look whether audit logs were changed.")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A hub's or a site's folder.")],
    key: Annotated[
        str, typer.Option(help="The public key, hexadecimal, if you do not trust the folder's.")
    ] = "",
) -> None:
    """Find edits, deletions, reorderings, insertions and truncations, each with its line."""
    from common.audit import public_key_of
    from deploy.supervise.audits import verify_folder

    public = public_key_of(key) if key else None
    wrong = False
    for path, records, findings in verify_folder(folder, public):
        print(f"{path}: {records} records, " + ("in order" if not findings else "CHANGED"))
        for found in findings:
            wrong = True
            print(f"  line {found.line}: {found.what}")
    if wrong:
        raise typer.Exit(4)
