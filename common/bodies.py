"""A message's dataclass as one JSON text, its arrays apart.

The same between hub and site as between a site's messenger and its worker.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar, get_type_hints

from common.errors import UpdateRefusedError
from common.study.typed import as_typed
from common.tensors import Weights, digest_of_weights

T = TypeVar("T")

WEIGHTS = "weights"  # the field that travels as arrays
LARGEST_BODY_CHARACTERS = 20_000_000


def body_of(value: Any) -> str:
    """Return all fields of a message's dataclass but its weights, as JSON in ASCII."""
    body = {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.name != WEIGHTS}
    return json.dumps(body, allow_nan=True)


def _plain(value: Any) -> Any:
    return asdict(value) if hasattr(value, "__dataclass_fields__") else _inside(value)


def _inside(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def has_weights(kind: type[Any]) -> bool:
    """Whether messages of a kind carry arrays."""
    return WEIGHTS in {f.name for f in fields(kind)}


def value_of_body(kind: type[T], text: Any, weights: Weights | None = None) -> T:
    """Read a message's dataclass back, checking every field's type.

    Args:
        kind: One of ``common.messages``.
        text: What :func:`body_of` wrote; anything else is refused.
        weights: The arrays, where the kind has them.

    Raises:
        UpdateRefusedError: If the text, or whether there are arrays, is not that of ``kind``.
    """
    if not isinstance(text, str) or len(text) > LARGEST_BODY_CHARACTERS:
        raise UpdateRefusedError("the answer's record is no text of a sensible size")
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError):
        raise UpdateRefusedError("the answer's record is not JSON") from None
    if not has_weights(kind):
        return _typed(kind, plain)
    if weights is None:
        raise UpdateRefusedError("the answer has no arrays")
    return _with_weights(kind, plain, weights)


def _typed(kind: type[T], plain: Any) -> T:
    value, problems = as_typed(kind, plain)
    if value is None:
        where, what = problems[0] if problems else ((), "is malformed")
        raise UpdateRefusedError(f"{'.'.join(map(str, where))[:80]}: {what[:200]}")
    return value


def _with_weights(kind: type[T], plain: Any, weights: Weights) -> T:
    hints = get_type_hints(kind)
    expected = {name for name in hints if name != WEIGHTS}
    if not isinstance(plain, dict) or set(plain) != expected:
        raise UpdateRefusedError("the answer's record has other fields than expected")
    made: Any = kind
    value: T = made(
        **{name: _typed(hints[name], plain[name]) for name in expected}, weights=weights
    )
    return value


def digest_of_job(kind: str, job: Any) -> str:
    """Return a SHA-256 of all that a job asks, hexadecimal: equal for the same job only."""
    body = json.dumps(json.loads(body_of(job)), sort_keys=True)
    weights = digest_of_weights(getattr(job, WEIGHTS, None) or {})
    return hashlib.sha256(json.dumps([kind, body, weights]).encode("ascii")).hexdigest()
