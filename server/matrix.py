"""The cross-site matrix: each model of a finished run on every consenting site's test cases.

Models are the run's best, and the one that each site trained alone, where its people permit
that it leaves. A model is scored where it knows a modality; what it lacks of a site's other
modalities is the run's best. Only counts and metrics come back. The personalised model of a
study whose norms stay local cannot be scored elsewhere, since those never leave; its own
site's figures are in ``final.json``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Message
from flwr.serverapp import Grid

from common import protocol
from common.errors import IncompatibleWeightsError, RunError, UpdateRefusedError
from common.events import HUB, emit
from common.messages import EvaluateJob, Evaluation, Pooled, SharedModel, ShareJob
from common.parameters import Table, check_weights, is_used_by, save_weights
from common.tensors import read_tensors
from server.journal import Journal
from server.sites import Sites, arrays_of, value_of

if TYPE_CHECKING:
    from server.strategy import RoundStrategy

MATRIX = "matrix"
GLOBAL = "global"


def evaluate_everywhere(grid: Grid, strategy: "RoundStrategy") -> None:
    """Collect the models and have each scored at each site; what is done is not done again.

    Raises:
        QuorumError: If too few sites take part.
        RunError: If the run is not finished.
    """
    journal, sites = strategy.journal, strategy.sites
    if journal.read("final", dict[str, Any]) is None:
        raise RunError(f"{journal.folder}: the run is not finished; its models are not final")
    pooled = strategy.enrol(grid)
    folder = journal.folder / MATRIX
    folder.mkdir(exist_ok=True)
    _collect(grid, sites, journal, folder)
    names = [GLOBAL, *sorted(path.stem for path in folder.glob("*.safetensors"))]
    for name in names:
        if not (folder / f"{name}.json").exists():
            scores = _score(grid, sites, journal, pooled, name)
            journal.seal(folder / f"{name}.json", scores)
            emit(HUB, "model_scored", model=name, sites=sorted(scores))


def read_matrix(run: Path) -> dict[str, dict[str, Evaluation]]:
    """Return the evaluations of a run's matrix by model and site; empty before there is one.

    Raises:
        DamagedError: If a file is damaged.
    """
    journal, paths = Journal(run), sorted((run / MATRIX).glob("*.json"))
    return {path.stem: journal.unseal(dict[str, Evaluation], path) for path in paths}


def _collect(grid: Grid, sites: Sites, journal: Journal, folder: Path) -> None:
    """Ask each site for the model that it trained alone; who refuses has no row."""
    best = read_tensors(journal.whole_best_model())
    wanted = [s for s in sites.present(grid) if not (folder / f"{s}.safetensors").exists()]
    messages: dict[str, Message] = {
        site: sites.bare_message(site, ShareJob(context=sites.context(0)), protocol.SHARE)
        for site in wanted
    }
    for answer in sites.ask(grid, messages):
        try:
            model: SharedModel = value_of(SharedModel, answer.message)
            expected = _part(sites.table, sites.trained(answer.site))
            if model.site != answer.site:
                raise UpdateRefusedError("answers for another site")
            check_weights(model.weights, expected)
        except (UpdateRefusedError, IncompatibleWeightsError) as error:
            emit(HUB, "answer_refused", site=answer.site, reason=str(error))
            continue
        whole = {**best, **model.weights}
        save_weights(folder / f"{answer.site}.safetensors", whole, sites.table, {})
        emit(HUB, "answered", site=answer.site, what="SharedModel")


def _score(
    grid: Grid, sites: Sites, journal: Journal, pooled: Pooled, name: str
) -> Mapping[str, Any]:
    """Have one model scored at every site that shares a modality with it."""
    local = name != GLOBAL
    model = (
        journal.folder / MATRIX / f"{name}.safetensors" if local else journal.whole_best_model()
    )
    arrays = arrays_of(model)
    best = journal.read("best", dict[str, Any]) or {}
    number = int((best.get("best") or {}).get("round", 0))
    messages = {}
    for site in sites.present(grid):
        if local and not set(sites.trained(site)) & set(sites.trained(name)):
            continue
        own, kinds = sites.own(site, arrays)
        job = EvaluateJob(
            context=sites.context(number), pooled=pooled, part=MATRIX, kinds=kinds, weights={}
        )
        messages[site] = sites.message(site, job, own, protocol.EVALUATE)
    answers = dict(sites.values(grid, messages, Evaluation))
    return {site: protocol.plain(evaluation) for site, evaluation in answers.items()}


def _part(table: Table, modalities: list[str]) -> Table:
    return {n: p for n, p in table.items() if is_used_by(p.kind, modalities)}
