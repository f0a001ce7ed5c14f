"""Tables of a hub and a site for the terminal."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from common.errors import InputError
from server.deadlines import in_words
from server.matrix import GLOBAL, read_matrix
from server.registry import (
    ADMITTED,
    FAILED,
    FINISHED,
    SEEN_SECONDS,
    STOPPED,
    DecisionRow,
    ProgressRow,
    Registry,
    RunRow,
    SiteRow,
    StudyRow,
)
from server.selection import site_metric

SHORT = 12


def hub_tables(registry: Registry) -> Iterator[Table]:
    """Yield what there is of sites, studies and runs."""
    yield _sites(registry)
    yield _studies(registry)
    yield _runs(registry)


def _sites(registry: Registry) -> Table:
    table = Table("site", "state", "code", "seen", "ready", "certificate until", title="Sites")
    for site in registry.rows(SiteRow):
        ends = (
            datetime.fromtimestamp(site.certificate_ends, UTC)
            if site.certificate_ends
            else None
        )
        table.add_row(
            site.name, site.state, site.code, _ago(site.seen),
            _readiness(site) if site.state == ADMITTED else "",
            f"{ends:%Y-%m-%d}" if ends else "",
        )  # fmt: skip
    return table


def _readiness(site: SiteRow) -> str:
    if time.time() - site.doubled < SEEN_SECONDS:
        return "two machines report as this site; ask its people, revoke it if in doubt"
    return "yes" if site.ready else site.reason or ("no" if site.seen else "")


def _studies(registry: Registry) -> Table:
    table = Table("study", "name", "bytes a round", "approved by", "others", title="Studies")
    for study in registry.rows(StudyRow):
        decisions = registry.rows(DecisionRow, hash=study.hash)
        yes = [d.site for d in decisions if d.decision == "approve"]
        others = [f"{d.site}: {d.decision}" for d in decisions if d.decision != "approve"]
        table.add_row(
            study.hash[:SHORT], study.name + ("" if study.open else " (closed)"),
            f"{study.round_bytes:,}" if study.round_bytes else "differ",
            ", ".join(sorted(yes)), ", ".join(sorted(others)),
        )  # fmt: skip
    return table


def _runs(registry: Registry) -> Table:
    table = Table("run", "state", "rounds closed", "sites", "waits for", title="Runs")
    for run in registry.rows(RunRow):
        sites = registry.rows(ProgressRow, run=run.run)
        if run.state in (STOPPED, FINISHED, FAILED):  # where they were then is not news
            progress = [row.site for row in sites]
        else:
            progress = [f"{row.site}: {in_words(row, 0.0, time.time())}" for row in sites]
        table.add_row(
            run.run, run.state, str(run.round), "\n".join(sorted(progress)), run.sentence
        )
    return table


def matrix_table(run: Path) -> Table:
    """Return the mean Dice of each model at each site.

    Raises:
        InputError: If nothing was scored yet.
    """
    held = read_matrix(run)
    if not held:
        raise InputError(f"{run.name}: no matrix yet; ask for one with: fedseg hub evaluate")
    sites = sorted({site for row in held.values() for site in row})
    table = Table("model", *sites, title="Mean Dice on the test cases of each site")
    for model, row in sorted(held.items(), key=lambda item: (item[0] != GLOBAL, item[0])):
        values = [site_metric(row[site].federated) if site in row else None for site in sites]
        name = model if model == GLOBAL else f"{model}, alone"
        table.add_row(name, *("" if v is None else f"{v:.3f}" for v in values))
    return table


def _ago(seen: float) -> str:
    if not seen:
        return "never"
    seconds = time.time() - seen
    return "now" if seconds < SEEN_SECONDS else f"{seconds / 60:.0f} minutes ago"
