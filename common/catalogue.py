"""One typed table for every kind of choice that a study can name."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final

from common.errors import InputError


class Choice(Protocol):
    """What every choice's configuration has: the name that a study writes."""

    @property
    def name(self) -> str:
        """The name that a study writes."""


@final
@dataclass(frozen=True)
class Entry:
    """One line of a catalogue.

    Attributes:
        config: The frozen dataclass that a study's section becomes.
        build: Makes the thing from the configuration (and what the kind's caller adds).
        summary: One line for a person choosing.
        source: Paper or library that defines it.
    """

    config: type[Any]
    build: Callable[..., Any]
    summary: str
    source: str

    @property
    def name(self) -> str:
        """The name that a study writes: the default of the configuration's ``name``."""
        return name_of(self.config)


@final
class Catalogue(Mapping[str, Entry]):
    """The entries of one kind, by name; unknown names raise with the nearest spellings."""

    def __init__(self, kind: str, entries: Iterable[Entry]) -> None:
        self.kind = kind
        self._entries = {entry.name: entry for entry in entries}

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            raise InputError(f"{self.kind} {name!r} {unknown(name, self._entries)}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def build(self, config: Choice, *args: Any, **keywords: Any) -> Any:
        """Call the builder of ``config``'s entry with ``config`` first."""
        return self[config.name].build(config, *args, **keywords)


def name_of(config: type[Any]) -> str:
    """Return the name under which a study chooses this configuration class."""
    return str(config.__dataclass_fields__["name"].default)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean x?"`` for the nearest known spelling, or an empty string."""
    close = difflib.get_close_matches(str(word).lower(), list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def unknown(word: str, known: Iterable[str]) -> str:
    """Say that ``word`` is not one of ``known``, with the nearest spelling."""
    names = list(known)
    return f"is not known; known: {', '.join(sorted(names))}{nearest(word, names)}"
