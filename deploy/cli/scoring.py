"""A run's weights on images: one image, or a site's held-out cases."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from client.device import choose_device
from client.predict import Model, predict_file
from client.profile import load_profile
from client.worker import SiteWorker
from common.errors import InputError
from common.messages import Context, EvaluateJob, Pooled
from common.parameters import is_used_by, table_of
from common.study.study import canonical_json
from common.tensors import Weights, read_tensors
from server.journal import Chosen, Journal
from server.run import read_run


def predict_image(
    folder: Path, images: Sequence[Path], modality: str, target: Path, *, site: str, device: str
) -> dict[str, int]:
    """Segment one image with a run's best weights; see :func:`client.predict.predict_file`."""
    study = read_run(folder).typed_study
    _, weights, pooled = best_of(folder)
    if any(
        parameter.kind == "site" for parameter in table_of(Journal(folder).model(0)).values()
    ):
        weights |= _own_weights(folder, site)
    model = Model(study=study, weights=weights, statistics=pooled.statistics)
    return predict_file(model, images, modality, target, device)


def _own_weights(folder: Path, site: str) -> Weights:
    """Read the norms that a simulated site kept, which the run's own weights lack."""
    info = read_run(folder)
    number, _, _ = best_of(folder)
    if not site:
        raise InputError(
            f"{folder}: the study keeps norms at the sites; say whose with --site, "
            f"one of {', '.join(info.sites) or 'the sites'}"
        )
    path = folder / "sites" / site / info.run / "federated" / f"own-{number:05d}.safetensors"
    if not path.exists():
        raise InputError(
            f"{folder}: has no norms of site {site!r}; known: {', '.join(info.sites)}"
        )
    return read_tensors(path)


def best_of(folder: Path) -> tuple[int, Weights, Pooled]:
    """Return the best round so far, its weights, and what the hub pooled.

    Raises:
        InputError: If the run has closed no round.
    """
    journal = Journal(folder)
    chosen: Chosen | None = journal.read("best", Chosen)
    rounds = journal.closed_rounds()
    if not rounds:
        raise InputError(f"{folder}: has closed no round yet")
    pooled = journal.read("pooled", Pooled) or Pooled()
    if chosen is not None and chosen.best is not None:
        return chosen.best.round, read_tensors(journal.best_model), pooled
    return len(rounds), read_tensors(journal.model(len(rounds))), pooled


def evaluate_run(folder: Path, profile_path: Path, out: Path) -> tuple[Table, Path]:
    """Score a run's best weights on a site's test cases.

    Returns:
        A table for people, and the site's own table of cases.
    """
    info = read_run(folder)
    study = info.typed_study
    number, weights, pooled = best_of(folder)
    profile = load_profile(profile_path)
    worker = SiteWorker(profile, str(profile_path), out / profile.name)
    choose_device(profile.device)
    context = Context(run=info.run, study=canonical_json(study), round=number)
    has = set(worker.enrol(context).accounting)
    table = table_of(Journal(folder).model(0))
    own = {n: a for n, a in weights.items() if is_used_by(table[n].kind, has)}
    job = EvaluateJob(
        context=context,
        pooled=pooled,
        part="test",
        weights=own,
        kinds={n: table[n].kind for n in own},
    )
    evaluation = worker.evaluate(job)
    shown = Table(
        title=f"{profile.name}: held-out cases, weights of round {number}", title_justify="left"
    )
    for column in ("modality", "label", "metric", "mean", "cases"):
        shown.add_column(column, justify="right" if column in ("mean", "cases") else "left")
    for s in evaluation.federated:
        shown.add_row(s.modality, s.label, s.metric, f"{s.value:.3f}", str(s.cases))
    return shown, out / profile.name / info.run / "cases.csv"
