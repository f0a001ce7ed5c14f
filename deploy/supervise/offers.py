"""Studies that the hub offers, as a site last heard of them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from common.errors import FedsegError, InputError
from common.events import SITE, emit
from common.files import write_json
from common.study.load import parse_study
from common.study.study import Study, approval_hash
from common.study.typed import as_typed
from common.wire import control_pb2 as pb


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One study on offer.

    Attributes:
        hash: What is approved, see :func:`common.study.study.approval_hash`.
        text: The study's canonical JSON; a search's with network and loss as given.
        offered: Seconds since 1970, UTC.
        round_bytes: Of the weights that cross each way in a round, all modalities.
        note: From the coordinator.
    """

    hash: str
    text: str
    offered: float
    round_bytes: int
    note: str

    @property
    def study(self) -> Study:
        """The study as types."""
        return parse_study(self.text, f"study {self.hash[:12]}")


@final
class Offers:
    """The offers in a folder, one file each.

    Args:
        folder: Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, heard: Sequence[pb.Offer]) -> None:
        """Write new offers down; one whose text has not its hash is left out."""
        held = set(self.hashes())
        for offer in heard:
            if offer.hash in held:
                continue
            try:
                true_hash = approval_hash(parse_study(offer.study, "the hub's study"))
            except FedsegError as error:
                emit(SITE, "offer_unreadable", study=offer.hash[:64], reason=str(error))
                continue
            if true_hash != offer.hash:
                emit(
                    SITE, "offer_refused", study=offer.hash[:64], reason="hash and text differ"
                )
                continue
            kept = Offer(
                hash=offer.hash, text=offer.study, offered=offer.offered,
                round_bytes=offer.round_bytes, note=offer.note[:500],
            )  # fmt: skip
            write_json(self._folder / f"{offer.hash}.json", asdict(kept))
            emit(SITE, "study_offered", study=offer.hash)

    def hashes(self) -> list[str]:
        """Return the hashes of all offers heard of."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def all(self) -> list[Offer]:
        """Return all offers, oldest first."""
        return sorted(map(self.one, self.hashes()), key=lambda offer: offer.offered)

    def find(self, start: str) -> Offer:
        """Return the offer whose hash begins so.

        Raises:
            InputError: If there is none, or more than one.
        """
        found = [hash_ for hash_ in self.hashes() if hash_.startswith(start)]
        if len(found) != 1 or not start:
            known = ", ".join(hash_[:12] for hash_ in self.hashes()) or "none"
            raise InputError(f"study {start!r}: {len(found)} offers begin so; known: {known}")
        return self.one(found[0])

    def one(self, hash_: str) -> Offer:
        """Read one offer.

        Raises:
            InputError: If the file is damaged.
        """
        path = self._folder / f"{hash_}.json"
        try:
            value, problems = as_typed(Offer, json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read: {error}; delete it") from error
        if value is None:
            raise InputError(f"{path}: is damaged: {problems[0]}; delete it")
        return value
