"""What a site may fetch of a run: its own results, and the parameters that it uses."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from common.errors import InputError, RunError
from common.messages import Accounting, AloneReport, Enrolment, Evaluation
from common.parameters import is_used_by, table_of
from common.study.typed import as_typed
from common.tensors import TensorFile, TensorWriter
from server.journal import Journal

PIECE_BYTES = 1 << 20
RESULTS, BEST, LAST = "results.json", "best.safetensors", "last.safetensors"


def files_of(folder: Path, site: str) -> list[str]:
    """Name the files of a run that a site can fetch now."""
    journal = Journal(folder)
    if site not in _enrolled(journal):
        return []
    held = [RESULTS]
    if journal.best_model.exists():
        held.append(BEST)
    if journal.closed_rounds():
        held.append(LAST)
    return held


def sending(folder: Path, site: str, file: str) -> tuple[int, Iterator[bytes]]:
    """Prepare one of those files as this site may have it.

    Returns:
        Its size in bytes, and the file piece by piece.

    Raises:
        InputError: If the run has no such file for this site.
        DamagedError: If the run's own file is not what was written there.
    """
    if file not in files_of(folder, site):
        raise InputError(f"{file[:80]}: the run has no such file for {site}")
    journal = Journal(folder)
    held = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it is sent, or below
    try:
        _write(journal, site, file, held)
    except BaseException:
        held.close()
        raise
    size = held.tell()
    held.seek(0)
    return size, _pieces(held)


def _write(journal: Journal, site: str, file: str, held: IO[bytes]) -> None:
    if file == RESULTS:
        text = json.dumps(_results(journal, site), indent=1, sort_keys=True)
        held.write(text.encode() + b"\n")
        return
    number = len(journal.closed_rounds())
    model = journal.whole_best_model() if file == BEST else journal.whole_model(number)
    _write_own_part(model, _enrolled(journal)[site].accounting, held)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def _enrolled(journal: Journal) -> Mapping[str, Enrolment]:
    held = journal.read("enrolment", dict[str, Any])
    if held is None:
        return {}
    return {site: _typed_enrolment(told) for site, told in held["sites"].items()}


def _typed_enrolment(told: Any) -> Enrolment:
    value, problems = as_typed(Enrolment, told)
    if value is None:
        raise RunError(f"enrolment: is damaged: {problems[0]}")
    return value


def _results(journal: Journal, site: str) -> dict[str, Any]:
    """Return everything that the journal has of one site, and of no other."""
    found: dict[str, Any] = {
        "site": site,
        "enrolment": asdict(_enrolled(journal)[site]),
        "rounds": [
            {"round": closed.number, "refused": closed.refused.get(site)}
            | next((asdict(a) for a in closed.accepted if a.report.site == site), {})
            for closed in journal.closed_rounds()
        ],
    }
    kinds: dict[str, Callable[[], Any]] = {
        "last": lambda: journal.read("last", dict[str, Evaluation]),
        "alone": lambda: journal.read("alone", dict[str, AloneReport]),
        "final": lambda: journal.read("final", dict[str, Evaluation]),
    }
    for name, read in kinds.items():
        held = read()
        if held and site in held:
            found[name] = asdict(held[site])
    return found


def _write_own_part(model: Path, accounting: Mapping[str, Accounting], file: IO[bytes]) -> None:
    modalities = [m for m, account in accounting.items() if account.usable]
    table = table_of(model)
    own = [name for name, parameter in table.items() if is_used_by(parameter.kind, modalities)]
    with TensorFile(model) as source:
        slots = {name: (source.slots[name].dtype, source.slots[name].shape) for name in own}
        writer = TensorWriter(file, slots, source.metadata)
        for name in own:
            writer.write(source.read(name))
