"""The reference of studies and profiles, written from the types themselves.

Run as ``python -m deploy.cli.reference docs/study.md``; a test holds that the file in the
repository is what this writes.
"""

import inspect
import json
import re
import sys
import types
from collections.abc import Iterator
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from client.profile import Profile
from common.catalogue import name_of
from common.files import write_text
from common.study.study import Study

HEAD = """\
# The study and the profile, key by key

Written from the types by `python -m deploy.cli.reference docs/study.md`; do not edit it.

Keys that are not listed here are refused, with the nearest spelling. `fedseg study check FILE`
also holds every value against its range and says all problems of the file at once. Anchors,
aliases, tags and keys given twice are refused. The profile is a file of its own, which stays at
its site; its keys come last.

Short forms: a label may be its bare name (`- liver`), and so may a network, a loss, a method or
a scheme (`network: dynunet`, `loss: dice_ce`, `method: fedavg`, `scheme: segan`), which then
has its defaults. Where `dimensions` is 2 and no patch is given, it is `[128, 128]`.

In the paths below, `N` stands for a place in a list, counted from 0 as in the problems that
are reported, and `NAME` for a name of your own.
"""
SCALARS = {int: "whole number", float: "number", str: "text", bool: "true or false"}
COUNTS = {2: "two", 3: "three"}


@dataclass(frozen=True)
class Section:
    """One type at one place of a file.

    Attributes:
        path: Where it stands in YAML; empty at the top.
        kind: The dataclass.
        is_choice: Whether it is one of several that ``name`` tells apart.
    """

    path: str
    kind: type[Any]
    is_choice: bool = False


def reference() -> str:
    """Return the whole page."""
    tops = (Section("", Study), Section("", Profile))
    return "\n".join([HEAD, *(_text(s) for top in tops for s in sections_of(top))])


def sections_of(top: Section, seen: set[type[Any]] | None = None) -> Iterator[Section]:
    """Yield a section and those of everything inside it, each type at its first place only."""
    seen = set() if seen is None else seen
    seen.add(top.kind)
    yield top
    hints = get_type_hints(top.kind)
    for item in fields(top.kind):
        path = f"{top.path}.{item.name}" if top.path else item.name
        for inner in _inside(hints[item.name], path):
            if inner.kind not in seen:
                yield from sections_of(inner, seen)


def _inside(kind: Any, path: str) -> list[Section]:
    """Find the dataclasses that a field's type holds."""
    origin, parts = get_origin(kind), get_args(kind)
    if _is_section(kind):
        return [Section(path, kind)]
    if origin is tuple:
        return _inside(parts[0], f"{path}.N")
    if origin is dict:
        return _inside(parts[1], f"{path}.NAME")
    if origin in (Union, types.UnionType):
        sections = filter(_is_section, parts)
        return [Section(path, part, is_choice=_is_named(part)) for part in sections]
    return []


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and is_dataclass(kind)


def _is_named(kind: Any) -> bool:
    """Whether it is one of several, chosen by its name."""
    return _is_section(kind) and any(f.name == "name" for f in fields(kind))


def _text(section: Section) -> str:
    """Return one section as Markdown: heading, what it is, a table of its keys."""
    prose, texts = described(section.kind)
    hints = get_type_hints(section.kind)
    rows = [
        f"| `{item.name}` | {_type_words(hints[item.name])} | {_default(item)} "
        f"| {texts.get(item.name, '')} |"
        for item in documented_fields(section)
    ]
    table = ["| key | type | default | meaning |", "|---|---|---|---|", *rows]
    end = table if rows else ["No keys of its own."]
    parent = parent_of(section.kind)
    if parent is not None:
        end += ["", f"All other keys as those of `{name_of(parent)}`."]
    return "\n".join([_heading(section), "", prose, "", *end, ""])


def documented_fields(section: Section) -> list[Field[Any]]:
    """Return the fields that a person writes; the name of a choice stands in its heading.

    Of a choice that is another with other defaults, only those.
    """
    found = [f for f in fields(section.kind) if not (section.is_choice and f.name == "name")]
    parent = parent_of(section.kind)
    if parent is None:
        return found
    usual = {f.name: f.default for f in fields(parent)}
    return [f for f in found if f.name not in usual or f.default != usual[f.name]]


def parent_of(kind: type[Any]) -> type[Any] | None:
    """Return the choice that this one is with other defaults, or None."""
    bases = (base for base in kind.__mro__[1:] if is_dataclass(base))
    return next((b for b in bases if any(f.name == "name" for f in fields(b))), None)


def _heading(section: Section) -> str:
    if not section.path:
        return f"## {section.kind.__name__}: at the top of the file"
    name = f": {name_of(section.kind)}" if section.is_choice else ""
    return f"## `{section.path}{name}`"


def described(kind: type[Any]) -> tuple[str, dict[str, str]]:
    """Return a docstring's prose and its text for each attribute, as Markdown."""
    prose, _, rest = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", rest, re.MULTILINE)
    parent = parent_of(kind)
    inherited = described(parent)[1] if parent is not None else {}
    return _markdown(prose), inherited | {
        name: _markdown(text).replace("|", "\\|") for name, text in found
    }


def _markdown(text: str) -> str:
    paragraphs = (" ".join(part.split()) for part in text.strip().split("\n\n"))
    return "\n\n".join(paragraphs).replace("``", "`")


def _type_words(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if kind in SCALARS:
        return SCALARS[kind]
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin is tuple:
        return _list_words(parts)
    if origin is dict:
        return f"mapping of names to {_type_words(parts[1])}"
    if origin in (Union, types.UnionType):
        return " or ".join(map(_choice_words, parts))
    return "section"


def _list_words(parts: tuple[Any, ...]) -> str:
    if parts[-1] is Ellipsis:
        return f"list of {_plural(parts[0])}"
    return f"list of {COUNTS[len(parts)]} {_plural(parts[0])}"


def _plural(kind: Any) -> str:
    words = _type_words(kind)
    return words if words == "text" else f"{words}s"


def _choice_words(kind: Any) -> str:
    if kind is types.NoneType:
        return "`null`"
    return f"`{name_of(kind)}`" if _is_named(kind) else _type_words(kind)


def _default(item: Field[Any]) -> str:
    value = item.default
    if item.default_factory is not MISSING:
        value = item.default_factory()
    if value is MISSING:
        return "required"
    if is_dataclass(value) and not isinstance(value, type):
        return f"`{name_of(type(value))}`" if "name" in asdict(value) else "its defaults"
    return f"`{value}`" if isinstance(value, str) and value else f"`{json.dumps(value)}`"


def run(arguments: list[str]) -> None:
    """Write the page to the one file that is named."""
    if len(arguments) != 1:
        sys.exit("usage: python -m deploy.cli.reference FILE")
    write_text(Path(arguments[0]), reference())


if __name__ == "__main__":
    run(sys.argv[1:])
