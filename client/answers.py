"""Answers that a worker keeps, so that nothing is done twice for a messenger that was lost.

One of each kind, the newest. The text beside the arrays is written last and holds their
SHA-256: an answer is whole or not there.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, final

from common.bodies import WEIGHTS, body_of
from common.files import write_text
from common.tensors import digest_of, write_tensors


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer, ready to be sent.

    Attributes:
        body: JSON of the dataclass without its weights.
        arrays: Safetensors file of the weights; none where it has none.
        array_bytes: Length of that file.
    """

    body: str
    arrays: Path | None = None
    array_bytes: int = 0

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the arrays, which stay readable though the next answer replaces them."""
        with Path(os.devnull if self.arrays is None else self.arrays).open("rb") as file:
            yield file


@final
class KeptAnswers:
    """The newest answer of each kind.

    Args:
        folder: Where they are; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def find(self, kind: str, digest: str) -> Answer | None:
        """Return the answer to a job, by the job's digest, if it is kept and whole."""
        try:
            kept = json.loads((self._folder / f"{kind}.json").read_text(encoding="ascii"))
            if kept["job"] != digest:
                return None
            body, arrays = str(kept["body"]), self._folder / f"{kind}.safetensors"
            if not kept["arrays"]:
                return Answer(body=body)
            if digest_of(arrays) != kept["arrays"]:
                return None
            return Answer(body=body, arrays=arrays, array_bytes=arrays.stat().st_size)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, kind: str, digest: str, value: Any) -> Answer:
        """Keep an answer in the place of the last one of its kind.

        Raises:
            RunError: If it cannot be written.
        """
        weights = getattr(value, WEIGHTS, None)
        arrays, of_arrays = self._folder / f"{kind}.safetensors", ""
        answer = Answer(body=body_of(value))
        if weights is not None:
            write_tensors(arrays, weights, {})
            of_arrays = digest_of(arrays)
            size = arrays.stat().st_size
            answer = Answer(body=answer.body, arrays=arrays, array_bytes=size)
        kept = {"job": digest, "body": answer.body, "arrays": of_arrays}
        write_text(self._folder / f"{kind}.json", json.dumps(kept))
        return answer
