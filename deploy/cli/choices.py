"""Tables of what a study can name, drawn from the types themselves."""

import inspect
from dataclasses import MISSING, fields
from typing import Any

from rich.table import Table

from common.catalogue import Catalogue, name_of
from common.study.methods import METHODS

SHARING = (
    (
        "per_modality",
        "one set of norms a modality, averaged over its sites",
        "FedNorm 2205.11096",
    ),
    ("everything", "one set of norms, averaged over all sites", "FedAvg 1602.05629"),
    ("statistics_local", "running statistics stay at the site", "SiloBN 2008.07424"),
    ("local", "all normalisation stays at the site", "FedBN 2102.07623"),
)


def table_of(catalogue: Catalogue) -> Table:
    """Return a table of a catalogue: name, what it is, parameters with defaults, source."""
    table = Table(title=f"{catalogue.kind}s", title_justify="left")
    for column in ("name", "what", "parameters and defaults", "source"):
        table.add_column(column, overflow="fold")
    for name, entry in catalogue.items():
        table.add_row(name, entry.summary, _parameters(entry.config), entry.source)
    return table


def methods_table() -> Table:
    """Return a table of the federated methods."""
    table = Table(title="federated methods (federation.method)", title_justify="left")
    for column in ("name", "what", "parameters and defaults", "source"):
        table.add_column(column, overflow="fold")
    for method in METHODS:
        text = inspect.getdoc(method) or ""
        source = text.partition("Source: ")[2].split("\n\n")[0].replace("\n", " ")
        table.add_row(name_of(method), text.splitlines()[0], _parameters(method), source)
    return table


def sharing_table() -> Table:
    """Return a table of what may be shared."""
    table = Table(title="what is shared (sharing.norm)", title_justify="left")
    for column in ("name", "what", "as in"):
        table.add_column(column)
    for row in SHARING:
        table.add_row(*row)
    return table


def _parameters(config: type[Any]) -> str:
    return "\n".join(
        f"{f.name}: {list(f.default) if isinstance(f.default, tuple) else f.default}"
        for f in fields(config)
        if f.name != "name" and f.default is not MISSING
    )
