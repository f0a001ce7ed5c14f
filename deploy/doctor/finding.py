"""What one check found, in words for whoever has to mend it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of one check.

    Attributes:
        what: What was looked at, in a word or two.
        state: ``ok``; ``warn``, works but should be mended; ``fail``, does not work.
        words: What was found.
        do: What to do; empty where there is nothing to do.
    """

    what: str
    state: State
    words: str
    do: str = ""


def fine(what: str, words: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(what=what, state="ok", words=words)


def odd(what: str, words: str, do: str) -> Finding:
    """Return a finding that should be mended."""
    return Finding(what=what, state="warn", words=words, do=do)


def broken(what: str, words: str, do: str) -> Finding:
    """Return a finding that must be mended."""
    return Finding(what=what, state="fail", words=words, do=do)


def has_failed(findings: Iterable[Finding]) -> bool:
    """Say whether anything must be mended."""
    return any(finding.state == "fail" for finding in findings)
