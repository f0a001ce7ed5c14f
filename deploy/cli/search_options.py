"""The options of both commands that search."""

from pathlib import Path
from typing import Annotated

import typer

Given = Annotated[Path, typer.Argument(help="A study; its choice is where others vary.")]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="The search's folder; goes on there.")
]
Over = Annotated[str, typer.Option(help="network, loss or both.")]
Strategy = Annotated[str, typer.Option(help="random, tpe, nsga2 or dints.")]
Trials = Annotated[
    int | None, typer.Option(min=1, help="Trained in all; by default 20, of dints 3.")
]
Rounds = Annotated[int, typer.Option(min=1, help="Of each trial.")]
Prune = Annotated[str, typer.Option(help="median, halving or none.")]
Choose = Annotated[str, typer.Option(help="The best study: dice or knee.")]
