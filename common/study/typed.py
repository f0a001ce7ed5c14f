"""YAML text into frozen dataclasses, with every problem of a file at once.

The one file that knows pydantic. A problem names the file, the line, the YAML path, what was
found and what was expected. Anchors, tags and duplicate keys are refused: a study has one
reading.
"""

import json
import math
import types
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from common.catalogue import name_of, nearest, unknown
from common.errors import InputError

T = TypeVar("T")
KeyPath = tuple[str | int, ...]

LARGEST_FILE_BYTES = 1_000_000
LARGEST_DEPTH = 20
LARGEST_COUNT = 5_000  # values in a file; a study of a hundred labels has a few hundred


@dataclass(frozen=True)
class Source:
    """Where a document came from, so that a problem can say where it stands.

    Attributes:
        name: The file as the person gave it.
        lines: Line of each YAML path, counted from 1.
    """

    name: str
    lines: dict[KeyPath, int]

    def problem(self, path: KeyPath, what: str) -> str:
        """Return one sentence ``file, line n: path: what``."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        line = f", line {self.lines[known]}" if known in self.lines else ""
        dotted = ".".join(str(part) for part in path)
        return f"{self.name}{line}: {dotted + ': ' if dotted else ''}{what}"


def read_yaml(path: Path) -> tuple[Any, Source]:
    """Read one YAML file into plain values and the line of each.

    Raises:
        InputError: If the file cannot be read or is not one plain YAML document.
    """
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise InputError(f"{path}: larger than {LARGEST_FILE_BYTES} bytes, refused unread")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> tuple[Any, Source]:
    """Turn YAML text into plain values and the line of each; see :func:`read_yaml`."""
    depth = values = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            values += isinstance(event, yaml.ScalarEvent)
            if values > LARGEST_COUNT:
                where = f", line {event.start_mark.line + 1}" if event.start_mark else ""
                raise InputError(f"{name}{where}: more than {LARGEST_COUNT} values in one file")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > LARGEST_DEPTH + 1:  # before it costs the time or the stack
                raise InputError(f"{name}: nested deeper than {LARGEST_DEPTH} levels")
            anchored = isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None)
            tag = getattr(event, "tag", None)
            if anchored or tag:
                what = "anchors and aliases are" if anchored else f"the tag {tag} is"
                where = f", line {event.start_mark.line + 1}" if event.start_mark else ""
                raise InputError(f"{name}{where}: {what} not allowed")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        what = getattr(error, "problem", None) or "cannot be read"
        raise InputError(f"{name}{where}: is not valid YAML: {what}") from error
    lines: dict[KeyPath, int] = {}
    if node is None:
        raise InputError(f"{name}: is empty")
    return _plain(node, (), lines, name), Source(name, lines)


def _plain(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], name: str) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if len(path) > LARGEST_DEPTH:
        raise InputError(f"{name}, line {line}: nested deeper than {LARGEST_DEPTH} levels")
    if isinstance(node, yaml.MappingNode):
        plain: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or key in plain:
                at = key_node.start_mark.line + 1
                what = "a key must be plain text" if key is None else f"{key} is given twice"
                raise InputError(f"{name}, line {at}: {what}")
            lines[(*path, key)] = key_node.start_mark.line + 1
            plain[key] = _plain(value_node, (*path, key), lines, name)
        return plain
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, i), lines, name) for i, item in enumerate(node.value)]
    return _scalar(node, name)


def _scalar(node: yaml.Node, name: str) -> Any:
    line = node.start_mark.line + 1
    standard = "tag:yaml.org,2002:"
    kind = node.tag.removeprefix(standard)
    plain_kind = node.tag.startswith(standard)
    if not plain_kind or kind not in {"str", "int", "float", "bool", "null"}:
        if kind == "timestamp":
            return str(node.value)
        raise InputError(f"{name}, line {line}: the tag {node.tag} is not allowed")
    value: Any
    bare = getattr(node, "style", None) is None
    if bare and kind in {"str", "float"} and _is_exponent(str(node.value)):
        value = float(node.value)  # YAML 1.1 reads 1e-3 as text; people mean the number
    else:
        try:
            value = yaml.SafeLoader("").construct_object(node)
        except ValueError as error:  # 0b_, or thousands of digits
            raise InputError(f"{name}, line {line}: cannot be read as a number") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name}, line {line}: {node.value} is not a finite number")
    return value


def _is_exponent(text: str) -> bool:
    mantissa, _, exponent = text.lower().partition("e")
    try:
        float(text)
        return exponent != "" and mantissa.strip("+-")[:1].isdigit()
    except ValueError:
        return False


def as_typed(kind: type[T], plain: Any) -> tuple[T | None, list[tuple[KeyPath, str]]]:
    """Turn plain values into ``kind``.

    Args:
        kind: A frozen dataclass, its fields of types that JSON has, dataclasses among them.
        plain: What :func:`read_yaml` returned. Not modified.

    Returns:
        The value, or None, and all problems as (YAML path, sentence).
    """
    problems = _unknown_keys(kind, plain, ())
    if problems:
        plain = _without(plain, [path for path, _ in problems])
    try:
        adapter = _adapter(kind)  # type: ignore[arg-type] # a class is hashable
        value: T = adapter.validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        return None, problems + _readable(error, plain)
    return (None if problems else value), problems


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _unknown_keys(kind: Any, plain: Any, path: KeyPath) -> list[tuple[KeyPath, str]]:
    """Find keys that no field takes, and choices that no catalogue has, at any depth."""
    if get_origin(kind) in (Union, types.UnionType):
        return _unknown_in_union(kind, plain, path)
    if get_origin(kind) is tuple and isinstance(plain, list):
        inner = get_args(kind)[0]
        return [
            p for i, item in enumerate(plain) for p in _unknown_keys(inner, item, (*path, i))
        ]
    if get_origin(kind) is dict and isinstance(plain, dict):
        inner = get_args(kind)[1]
        return [p for k, item in plain.items() for p in _unknown_keys(inner, item, (*path, k))]
    if not is_dataclass(kind) or not isinstance(plain, dict):
        return []
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    found: list[tuple[KeyPath, str]] = [
        ((*path, key), f"unknown key; known here: {', '.join(known)}{nearest(key, known)}")
        for key in plain
        if key not in known
    ]
    for key in known:
        if key in plain:
            found += _unknown_keys(hints[key], plain[key], (*path, key))
    return found


def _unknown_in_union(kind: Any, plain: Any, path: KeyPath) -> list[tuple[KeyPath, str]]:
    choices: dict[str, Any] = {name_of(c): c for c in _dataclasses_of(kind) if _has_name(c)}
    if not choices or not isinstance(plain, dict):
        members = [member for member in get_args(kind) if member is not types.NoneType]
        return _unknown_keys(members[0], plain, path) if len(members) == 1 else []
    if "name" not in plain:
        return [(path, f"has no name; expected one of {', '.join(choices)}")]
    name = plain["name"]
    if not isinstance(name, str) or name not in choices:
        return [((*path, "name"), f"{name!r} {unknown(str(name), choices)}")]
    return _unknown_keys(choices[str(name)], plain, path)


def _dataclasses_of(kind: Any) -> list[Any]:
    return [member for member in get_args(kind) if is_dataclass(member)]


def _has_name(kind: Any) -> bool:
    return get_origin(get_type_hints(kind).get("name")) is Literal


def _without(plain: Any, paths: list[KeyPath]) -> Any:
    """Return a copy without the values at ``paths``, so that the rest can be checked."""
    copy = json.loads(json.dumps(plain))
    for path in paths:
        place = copy
        for part in path[:-1]:
            place = place[part]
        if path:
            place.pop(path[-1], None) if isinstance(place, dict) else None
    return copy


def _readable(error: ValidationError, plain: Any) -> list[tuple[KeyPath, str]]:
    problems: list[tuple[KeyPath, str]] = []
    for item in error.errors(include_url=False):
        path, chosen = _yaml_path(item["loc"], plain)
        if not chosen:
            continue
        found = item.get("input")
        tail = (
            ""
            if item["type"] == "missing" or isinstance(found, dict)
            else f" (found {found!r})"
        )
        what = "is missing" if item["type"] == "missing" else item["msg"] + tail
        problems.append((path, what[0].lower() + what[1:]))
    return problems


def _yaml_path(loc: tuple[int | str, ...], plain: Any) -> tuple[KeyPath, bool]:
    """Strip pydantic's names of union members; say whether it is the member that was named."""
    path: list[str | int] = []
    place = plain
    for part in loc:
        if isinstance(place, dict) and isinstance(part, str) and part not in place:
            member = _member(part)
            if member is not None:
                if "name" in place and place["name"] != member:
                    return tuple(path), False
                continue
        path.append(part)
        place = _step(place, part)
    return tuple(path), True


def _step(place: Any, part: str | int) -> Any:
    try:
        return place[part]
    except (KeyError, IndexError, TypeError):
        return None


def _member(part: str) -> str | None:
    from common.study import losses, methods, networks, schemes

    for module in (networks, losses, methods, schemes):
        kind = getattr(module, part, None)
        if isinstance(kind, type) and is_dataclass(kind):
            return name_of(kind)
    return None
