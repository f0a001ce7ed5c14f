"""The matrix of faults: each test says what it did and what had to happen, and writes down what did.

The table is ``matrix.md`` beside this file. A run of the whole folder writes it anew; a run of a
part puts its cases in the place of those with the same numbers.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILE = HERE / "matrix.md"
LONGEST = 260
COLUMNS = ("number", "what was done", "what had to happen", "what happened", "lost", "passed")
NOT_TRIED = (
    ("21", "poisoned updates against a robust rule", "the catalogue has no robust rule yet, only means"),
    ("22.client-app.own", "kill of a ClientApp that trains by itself", "ours hands the job to the worker; the kills of messenger and worker stand for it"),
    ("25.quota", "a quota on a user", "needs a file system mounted with quotas; the full disk raises the same kind of error"),
    ("26.memory", "a GPU runs out of memory", "needs a GPU"),
    ("26.bus", "a GPU falls off the bus", "needs a GPU that may be lost"),
    ("32.suspend", "suspend and resume of a laptop", "needs one; 32.frozen stops all processes instead"),
    ("f4.subprocess", "SuperLink killed in Flower's isolation `subprocess`", "a hub never runs so"),
    ("f4.memory", "SuperLink with its state in memory", "a hub never runs so"),
)  # fmt: skip


def pytest_configure(config):
    config.fault_cases = {}
    config.fault_part = any("::" in argument for argument in config.args)


def pytest_deselected(items):
    for item in items:
        item.config.fault_part = item.config.fault_part or "slow" in item.keywords


@dataclass
class Case:
    """One line of the table.

    Attributes:
        number: ``row.kind.phase``.
        done: What was done.
        expected: What had to happen.
        happened: What was measured.
        lost: What work was lost.
        passed: Whether it was as it had to be.
    """

    number: str
    done: str
    expected: str
    happened: str = ""
    lost: str = "nothing"
    passed: bool = False

    def line(self) -> str:
        """Return the line of the table."""
        cells = (self.number, self.done, self.expected, self.happened, self.lost)
        return "| " + " | ".join([*map(_cell, cells), "yes" if self.passed else "no"]) + " |"


def _cell(text: str) -> str:
    text = re.sub(rf"{re.escape(tempfile.gettempdir())}/[^\s:,'\"]*/", "…/", text)
    text = text.replace(f"{HERE.parents[1]}/", "")
    text = "".join(c if c.isprintable() else " " for c in text.replace("<", "&lt;"))
    text = re.sub(r"\s+", " ", text).replace("|", "\\|").strip()
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


@pytest.fixture(scope="session")
def matrix(request):
    """Return a context manager that writes one case down."""

    @contextmanager
    def case(number: str, done: str, expected: str) -> Iterator[Case]:
        found = Case(number, done, expected)
        request.config.fault_cases[number] = found
        try:
            yield found
        except BaseException as error:
            told = (str(error).splitlines() or [""])[0]
            reason = f"{type(error).__name__}: {told}".removeprefix("AssertionError: ")
            found.happened = "; ".join(
                filter(None, [found.happened, f"not as expected: {reason}"])
            )
            _tell(request.config, found)
            raise
        found.passed = True
        _tell(request.config, found)

    return case


def _tell(config, found):
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if reporter is not None and capture is not None:
        with capture.global_and_fixture_disabled():
            reporter.write_line(f"\n{found.line()}")


def pytest_sessionfinish(session):
    cases = session.config.fault_cases
    if not cases:
        return
    held = {} if _is_whole(session) else _read()
    held |= {number: found.line() for number, found in cases.items()}
    _write(held)


def _is_whole(session) -> bool:
    if session.config.fault_part:
        return False
    collected = {item.path.name for item in session.items if item.path.parent == HERE}
    return collected >= {path.name for path in HERE.glob("test_*.py")}


def _read() -> dict[str, str]:
    if not FILE.exists():
        return {}
    text = FILE.read_text(encoding="utf-8").split("## Not tried")[0]
    found = {}
    for line in text.splitlines():
        number = line.removeprefix("| ").split(" | ")[0]
        if line.startswith("| ") and re.match(r"f?\d", number):
            found[number] = line
    return found


def _order(number: str) -> tuple:
    first, _, rest = number.partition(".")
    flower = first.startswith("f")
    return flower, int(first.removeprefix("f")), rest


def _write(held: dict[str, str]) -> None:
    lines = [held[number] for number in sorted(held, key=_order)]
    passed = sum(line.endswith("| yes |") for line in lines)
    text = [
        "# Faults and attacks that were tried",
        "",
        "Written by `pytest -m slow tests/faults`; a change by hand is lost. `f4` are what Flower",
        "itself does when processes die.",
        "",
        f"{len(lines)} cases, {passed} as they had to be, {len(lines) - passed} not.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "| " + " | ".join("---" for _ in COLUMNS) + " |",
        *lines,
        "",
        "## Not tried here",
        "",
        "| number | what | why | passed |",
        "| --- | --- | --- | --- |",
        *(f"| {number} | {what} | {why} | no |" for number, what, why in NOT_TRIED),
    ]
    FILE.write_text("\n".join(text) + "\n", encoding="utf-8")
