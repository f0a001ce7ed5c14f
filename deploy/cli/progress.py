"""Progress of a run: a live table on a terminal, plain lines elsewhere."""

import logging
import time
from dataclasses import dataclass, field
from typing import Any, Self, final

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from common.events import fields_of


@dataclass
class _Site:
    doing: str = "waiting"
    rate: str = ""
    dice: str = ""
    cases: str = ""


@dataclass
class _State:
    rounds: int = 0
    round: int = 0
    phase: str = "reading cases"
    started: float = field(default_factory=time.monotonic)
    first_round: float | None = None
    done: int = 0
    before: int = 0
    metric: float | None = None
    sites: dict[str, _Site] = field(default_factory=dict)


@final
class Progress(logging.Handler):
    """Listens to hub and sites; use as a context manager around a run."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console, self._state = console, _State()
        self._live = (
            Live(
                console=console,
                refresh_per_second=4,
                transient=True,
                get_renderable=self._picture,
            )
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def emit(self, record: logging.LogRecord) -> None:
        """Take in one event."""
        event, fields = record.getMessage(), fields_of(record)
        take = getattr(self, f"_on_{event}", None)
        if take is not None:
            take(fields)

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _site(self, fields: dict[str, Any]) -> _Site:
        return self._state.sites.setdefault(str(fields.get("site")), _Site())

    def _on_run_started(self, fields: dict[str, Any]) -> None:
        self._state.rounds, self._state.done = int(fields["rounds"]), int(fields["closed"])
        self._state.before = self._state.done
        self._say(
            f"run {fields['run']}: study {fields['study']}, {fields['rounds']} rounds"
            + (f", {fields['closed']} already closed" if fields["closed"] else "")
        )

    def _on_reading(self, fields: dict[str, Any]) -> None:
        self._site(fields).doing = f"reading case {fields['done']} of {fields['of']}"

    def _on_case_set_aside(self, fields: dict[str, Any]) -> None:
        self._say(
            f"  {fields['site']}: case {fields['case']} set aside ({fields['reason']}): "
            f"{fields['detail']}"
        )

    def _on_site_enrolled(self, fields: dict[str, Any]) -> None:
        cases = ", ".join(f"{n} {m}" for m, n in fields["cases"].items())
        self._site(fields).cases = cases
        self._site(fields).doing = "ready"
        self._say(
            f"  {fields['site']}: {cases} training cases, labels "
            f"{', '.join(fields['annotated'])}"
        )

    def _on_site_refused(self, fields: dict[str, Any]) -> None:
        self._say(f"  node {fields['node']} refused: {fields['reason']}")

    def _on_journal_damaged(self, fields: dict[str, Any]) -> None:
        self._say(f"  {fields['file']}: {fields['reason']}; {fields['then']}")

    def _on_round_started(self, fields: dict[str, Any]) -> None:
        self._state.round = int(fields["round"])
        self._state.phase = "training"
        if self._state.first_round is None:
            self._state.first_round = time.monotonic()
        for site in self._state.sites.values():
            site.doing, site.rate = "waiting", ""

    def _on_step(self, fields: dict[str, Any]) -> None:
        site = self._site(fields)
        site.doing = f"step {fields['step']} of {fields['steps']}"
        site.rate = f"{fields['rate']:.1f}/s"

    def _on_update_accepted(self, fields: dict[str, Any]) -> None:
        site = self._site(fields)
        site.doing = f"done, loss {fields['loss']:.3f}"
        if fields["dice"] is not None:
            site.dice = f"{fields['dice']:.3f}"

    def _on_update_refused(self, fields: dict[str, Any]) -> None:
        self._site(fields).doing = "refused"
        self._say(f"  {fields['site']}: update refused: {fields['reason']}")

    def _on_round_closed(self, fields: dict[str, Any]) -> None:
        state = self._state
        state.done, state.metric = int(fields["round"]), fields["metric"]
        dice = "" if state.metric is None else f", Dice so far {state.metric:.3f}"
        refused = f", refused: {', '.join(fields['refused'])}" if fields["refused"] else ""
        if self._live is None:
            self._say(
                f"round {state.done}/{state.rounds}: {len(fields['accepted'])} updates"
                f"{refused}, {fields['seconds']:.1f} s{dice}{self._remaining()}"
            )

    def _on_best_chosen(self, fields: dict[str, Any]) -> None:
        self._state.phase = "training each site's model alone, for comparison"
        self._say(f"best round {fields['round']}: mean validation Dice {fields['value']:.3f}")

    def _on_alone_trained(self, fields: dict[str, Any]) -> None:
        self._site(fields).doing = f"alone: round {fields['round']} of {fields['rounds']}"

    def _on_answered(self, fields: dict[str, Any]) -> None:
        if fields["what"] == "AloneReport" and self._live is None:
            self._say(f"  {fields['site']}: trained alone, {fields['seconds']:.0f} s")

    def _on_case_scored(self, fields: dict[str, Any]) -> None:
        self._state.phase = "scoring held-out cases"
        self._site(fields).doing = f"{fields['model']}: case {fields['done']} of {fields['of']}"

    def _on_answer_refused(self, fields: dict[str, Any]) -> None:
        self._say(f"  {fields['site']}: no usable answer: {fields['reason']}")

    def _on_worker_crashed(self, _fields: dict[str, Any]) -> None:
        self._say("  a worker process ended; it is started again")

    def _remaining(self) -> str:
        state = self._state
        if state.first_round is None or not state.done or state.done >= state.rounds:
            return ""
        here = state.done - state.before
        if here < 1:
            return ""
        each = (time.monotonic() - state.first_round) / here
        return f", about {_clock(each * (state.rounds - state.done))} to go"

    def _picture(self) -> Group:
        state = self._state
        head = Text(
            f"round {state.round}/{state.rounds}: {state.phase}, "
            f"{_clock(time.monotonic() - state.started)} so far{self._remaining()}"
        )
        bar = ProgressBar(total=max(state.rounds, 1), completed=state.done, width=60)
        table = Table(box=None, pad_edge=False)
        for column in ("site", "training cases", "doing", "steps", "Dice"):
            table.add_column(column)
        for name, site in sorted(state.sites.items()):
            table.add_row(name, site.cases, site.doing, site.rate, site.dice)
        return Group(head, bar, table)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
