"""Parameter kinds: which weight is averaged with whom.

============== ==========================================================
kind           averaged over
============== ==========================================================
shared         every site
modality:<m>   the sites that trained modality m
head:<label>   the sites that annotate the label
site           nobody; it never leaves its site
============== ==========================================================
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import IncompatibleWeightsError
from common.study.study import BACKGROUND
from common.tensors import TensorFile, Weights, write_tensors

SHARED = "shared"
SITE_ONLY = "site"


@dataclass(frozen=True)
class Parameter:
    """One named array of a network, as it crosses the wire.

    Attributes:
        name: Unique; ``weight#liver`` is the output channel of one label.
        shape: Of the array.
        dtype: NumPy's name of the type, a floating one.
        kind: One of the table above.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str

    @property
    def size_bytes(self) -> int:
        """Bytes of the array."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


Table = dict[str, Parameter]


def is_used_by(kind: str, modalities: Collection[str]) -> bool:
    """Whether a site with these modalities needs parameters of this kind from the hub."""
    group, _, name = kind.partition(":")
    return group in (SHARED, "head") or (group == "modality" and name in modalities)


def is_trained_by(kind: str, modalities: Collection[str], annotated: Collection[str]) -> bool:
    """Whether a site with these modalities and labels returns parameters of this kind."""
    group, _, name = kind.partition(":")
    if group == "head":
        return name == BACKGROUND or name in annotated
    return group == SHARED or (group == "modality" and name in modalities)


def check_weights(weights: Mapping[str, np.ndarray[Any, Any]], expected: Table) -> None:
    """Refuse weights that are not exactly the expected ones.

    Raises:
        IncompatibleWeightsError: Naming the first name, shape or type that differs.
    """
    for name in expected:
        if name not in weights:
            raise IncompatibleWeightsError(f"{name}: is missing")
    for name, array in weights.items():
        if name not in expected:
            raise IncompatibleWeightsError(f"{name[:120]}: is not a parameter of this network")
        want = expected[name]
        if tuple(array.shape) != want.shape:
            raise IncompatibleWeightsError(
                f"{name}: shape {tuple(array.shape)}, expected {want.shape}"
            )
        if array.dtype != np.dtype(want.dtype):
            raise IncompatibleWeightsError(f"{name}: type {array.dtype}, expected {want.dtype}")


def check_kinds(kinds: Mapping[str, str], expected: Table) -> None:
    """Refuse a sender's idea of who shares what where it differs from this network's."""
    for name, kind in kinds.items():
        if name in expected and expected[name].kind != kind:
            raise IncompatibleWeightsError(
                f"{name}: kind {kind}, expected {expected[name].kind}"
            )


def save_weights(path: Path, weights: Weights, table: Table, extra: Mapping[str, str]) -> None:
    """Write weights with every parameter's kind, whole or not at all."""
    kinds = {name: table[name].kind for name in weights}
    write_tensors(path, weights, {"kinds": json.dumps(kinds), **extra})


def table_of(path: Path) -> Table:
    """Read names, shapes, types and kinds of a weights file without its arrays.

    Raises:
        IncompatibleWeightsError: If it is no weights file of fedseg.
    """
    with TensorFile(path) as file:
        try:
            kinds: dict[str, str] = json.loads(file.metadata["kinds"])
            return {
                name: Parameter(name, slot.shape, slot.dtype.name, kinds[name])
                for name, slot in file.slots.items()
            }
        except (KeyError, ValueError) as error:
            raise IncompatibleWeightsError(f"{path.name}: has no parameter kinds") from error
