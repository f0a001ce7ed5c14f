"""What a search's folder is of, so that it goes on as itself or not at all."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from client.profile import Profile
from common.errors import DamagedError, InputError
from common.sealed import MISSING, read_sealed, write_sealed
from common.study.study import Over, Study, as_plain
from deploy.search.space import axes

Sites = Sequence[tuple[Profile, Path]]
FILE, DATA, PART = "search.json", "data", "data.part"
VERSIONS_OF = ("fedseg", "optuna", "torch", "monai")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What makes a search this one; how many trials it has may grow.

    Attributes:
        study: The study as given, defaults written out.
        sites: SHA-256 of each site's profile, by name; empty for the sites of a hub, which
            come and go.
        over: What is searched.
        space: Every axis.
        strategy: How the next point is found.
        prune: When a trial is stopped.
        rounds: Of each trial.
    """

    study: dict[str, Any]
    sites: dict[str, str]
    over: Over
    space: dict[str, Any]
    strategy: str
    prune: str
    rounds: int


def plan_of(
    study: Study, sites: Sites, *, over: Over, strategy: str, prune: str, rounds: int
) -> Plan:
    """Put together the plan of a search."""
    return Plan(
        study=as_plain(study),
        sites={
            profile.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for profile, path in sites
        },
        over=over,
        space={name: asdict(axis) for name, axis in axes(over).items()},
        strategy=strategy,
        prune=prune,
        rounds=rounds,
    )


def plan_hash(plan: Plan) -> str:
    """Return the SHA-256 of a plan's canonical JSON."""
    text = json.dumps(asdict(plan), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def claim(folder: Path, plan: Plan) -> None:
    """Make a folder that of a search, or see that it is.

    Raises:
        InputError: If it is another's, saying in what; or holds something else.
        DamagedError: If its ``search.json`` is not what was written there.
    """
    wanted = plan_hash(plan)
    try:
        held = read_sealed(folder / FILE, file=FILE, run=None)
    except DamagedError as error:
        if error.what != MISSING:
            raise
        check_folder(folder)
        versions = {name: _version(name) for name in VERSIONS_OF}
        record = {"plan": asdict(plan), "hash": wanted, "versions": versions}
        write_sealed(folder / FILE, record, file=FILE, run="search")
        return
    if held["hash"] != wanted:
        told = json.loads(json.dumps(asdict(plan)))
        raise InputError(
            f"{folder}: is another search ({_difference(held['plan'], told)}); give what it "
            "was begun with, or choose another --out"
        )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def check_folder(folder: Path) -> None:
    """See that a folder is a search's or holds nothing but data for one.

    Raises:
        InputError: If it holds something else.
    """
    held = {path.name for path in folder.iterdir()}
    strange = sorted(held - {".lock", DATA, PART})
    if strange and FILE not in held:
        raise InputError(f"{folder}: holds {strange[0]} and is no search; choose another --out")


def _difference(held: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    """Say in what two plans differ, small values with what they are."""
    found = []
    for key in told:
        if held.get(key) != told[key]:
            plain = isinstance(told[key], str | int)
            found.append(f"{key} was {held.get(key)}, is {told[key]}" if plain else key)
    return ", ".join(found) or "it was written by another release"
