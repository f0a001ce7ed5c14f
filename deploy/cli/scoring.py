"""A run's weights on images: one image, or a site's held-out cases."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from client.data.dataset import list_cases
from client.predict import Model, predict_file
from client.profile import load_profile
from client.session import own_name
from client.worker import SiteWorker
from common.catalogue import unknown
from common.errors import InputError
from common.messages import Context, EvaluateJob, Pooled
from common.parameters import SITE_ONLY, is_used_by, table_of
from common.study.study import canonical_json
from common.tensors import Weights, read_tensors
from server.journal import Chosen, Journal
from server.run import read_run


def predict_image(
    folder: Path, images: Sequence[Path], modality: str, target: Path, *, site: str, device: str
) -> dict[str, int]:
    """Segment one image with a run's best weights; see :func:`client.predict.predict_file`."""
    return predict_file(model_of(folder, site), images, modality, target, device)


def model_of(folder: Path, site: str) -> Model:
    """Return a run's best weights with what they need, a site's own norms among them."""
    number, weights, pooled = best_of(folder)
    if _keeps_norms_at_sites(folder):
        weights |= read_tensors(_own_file(folder, site, number))
    study = read_run(folder).typed_study
    return Model(study=study, weights=weights, statistics=pooled.statistics)


def explain_files(
    folder: Path, case: str, profile_path: Path, out: Path | None, labels: Sequence[str]
) -> list[Path]:
    """Write pictures of why a run's best weights draw what they draw in a site's case.

    Args:
        folder: Of the run.
        case: Name of a case in one of the site's data sets.
        profile_path: Of the site.
        out: Folder for the pictures; by default one in the site's own workspace.
        labels: See :func:`client.explanations.explain_case`.

    Raises:
        InputError: If the site has no such case.
    """
    from client.explanations import explain_case

    profile = load_profile(profile_path)
    study, run = read_run(folder).typed_study, read_run(folder).run
    known = [c for entry in profile.datasets for c in list_cases(entry, study)]
    chosen = [c for c in known if c.name == case]
    if not chosen:
        names = [c.name for c in known]
        raise InputError(f"{profile.name}: case {case!r} {unknown(case, names)}")
    home = Path(os.environ.get("FEDSEG_HOME", Path.home() / ".fedseg"))
    target = out or home / profile.name / "explanations" / run
    model = model_of(folder, profile.name)
    return [p for c in chosen for p in explain_case(model, c, target, labels, profile.device)]


def _own_file(folder: Path, site: str, number: int) -> Path:
    """Name the file of the norms that a site of a simulation kept after a round."""
    info = read_run(folder)
    path = folder / "sites" / site / info.run / "federated" / own_name(number)
    if not site or not path.exists():
        raise InputError(
            f"{folder}: the study keeps norms at the sites, and has none of {site!r}; say "
            f"whose with --site; known: {', '.join(info.sites)}"
        )
    return path


def _keeps_norms_at_sites(folder: Path) -> bool:
    return any(p.kind == SITE_ONLY for p in table_of(Journal(folder).model(0)).values())


def best_of(folder: Path) -> tuple[int, Weights, Pooled]:
    """Return the best round so far, its weights, and what the hub pooled.

    Raises:
        InputError: If the run has closed no round.
        DamagedError: If the weights are not what was written there.
    """
    journal = Journal(folder)
    chosen: Chosen | None = journal.read("best", Chosen)
    rounds = journal.closed_rounds()
    if not rounds:
        raise InputError(f"{folder}: has closed no round yet")
    pooled = journal.read("pooled", Pooled) or Pooled()
    if chosen is not None and chosen.best is not None:
        return chosen.best.round, read_tensors(journal.whole_best_model()), pooled
    return len(rounds), read_tensors(journal.whole_model(len(rounds))), pooled


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
    if _keeps_norms_at_sites(folder):
        kept = out / profile.name / info.run / "federated" / own_name(number)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_own_file(folder, profile.name, number), kept)
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
