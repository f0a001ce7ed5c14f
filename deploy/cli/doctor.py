"""``fedseg doctor``: what is wrong with this machine, this hub or this site, and what to do."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from common.errors import InputError
from deploy.cli.console import wide_console
from deploy.doctor.finding import Finding, has_failed

FAILED = 4
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    folder: Annotated[
        Path | None, typer.Option("--folder", help="A hub's or a site's folder.")
    ] = None,
    invitation: Annotated[
        str, typer.Option(help="Before joining: check the way to the hub that invites.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine and the hub or site on it; exit code 4 if something does not work."""
    findings = list(_findings(_folder(folder), invitation))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        wide_console().print(findings_table(findings))
    if has_failed(findings):
        raise typer.Exit(FAILED)


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return what was found as a table."""
    table = Table("what", "state", "found", "what to do", title="fedseg doctor")
    for finding in findings:
        colour = COLOURS[finding.state]
        table.add_row(
            finding.what, f"[{colour}]{finding.state}[/]", _plain(finding.words),
            _plain(finding.do),
        )  # fmt: skip
    return table


def _plain(text: str) -> str:
    return text.replace("[", r"\[")  # rich would read it as a style


def _folder(given: Path | None) -> Path | None:
    """Return the hub's or site's folder: as given, else where the other commands look."""
    if given is not None:
        if not any((given / name).exists() for name in ("hub.json", "site.json")):
            raise InputError(f"{given}: holds neither a hub nor a site; give --folder of one")
        return given
    places = [os.environ.get("FEDSEG_HUB", "hub"), os.environ.get("FEDSEG_SITE", "site"), "."]
    for place in map(Path, places):
        if any((place / name).exists() for name in ("hub.json", "site.json")):
            return place
    return None


def _findings(folder: Path | None, invitation: str) -> Iterator[Finding]:
    now = datetime.now(UTC)
    if folder is not None and (folder / "hub.json").exists():
        from deploy.doctor.hub import hub_findings
        from deploy.supervise.hub_folder import HubFolder

        yield from hub_findings(HubFolder.open(folder), now)
    elif folder is not None:
        from deploy.doctor.site import site_findings
        from deploy.supervise.site_folder import SiteFolder

        yield from site_findings(SiteFolder.open(folder), now)
    else:
        from deploy.doctor.facts import everywhere

        yield from everywhere()
    if invitation:
        from deploy.doctor.reach import way_to_hub
        from deploy.provision.tokens import Invitation

        invited = Invitation.decode(invitation)
        yield way_to_hub(invited.address, invited.fingerprint)


if __name__ == "__main__":
    typer.run(doctor)
