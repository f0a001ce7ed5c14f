"""What a site tells of a round that it trained: the report and the weights that leave."""

from collections.abc import Mapping

from client.session import Session
from client.training import Fitted
from common.errors import RunError
from common.messages import Context, Score, Update, UpdateReport
from common.modality.affinity import as_message
from common.parameters import is_trained_by
from common.study.study import study_hash


def update_of(
    session: Session,
    context: Context,
    fitted: Fitted,
    *,
    scores: tuple[Score, ...],
    seconds: Mapping[str, float],
) -> Update:
    """Return the answer to a job that was trained.

    Args:
        session: Its network holds the trained weights.
        context: Of the job.
        fitted: What came of the local steps.
        scores: Of the weights that came.
        seconds: Time for training / for validation.

    Raises:
        RunError: If the counts of cases do not add up.
    """
    used = {m: len(names) for m, names in sorted(fitted.used.items())}
    report = UpdateReport(
        site=session.name,
        run=context.run,
        study=study_hash(session.study),
        round=context.round,
        loss=fitted.loss,
        steps=fitted.steps,
        scores=scores,
        cases=session.training_cases,
        used=used,
        skipped=session.cases.skipped,
        declared=session.declared,
        not_needed=session.not_needed(used),
        seconds=dict(seconds),
        affinities={m: as_message(s) for m, s in sorted(fitted.sums.items())},
    )
    check_accounting(report)
    trained = session.arrays.read(
        lambda kind: is_trained_by(kind, session.trained_modalities, session.annotated)
    )
    return Update(report=report, weights=trained)


def check_accounting(report: UpdateReport) -> None:
    """Hold a report's counts of cases against each other.

    Raises:
        RunError: If a case is neither used nor skipped nor not needed, or is two of them.
    """
    for modality, declared in report.declared.items():
        used = report.used.get(modality, 0)
        skipped = sum(report.skipped.get(modality, {}).values())
        rest = report.not_needed.get(modality, 0)
        if declared != used + skipped + rest:
            raise RunError(
                f"{modality}: {declared} cases declared, but {used} used, {skipped} skipped "
                f"and {rest} not needed; this is a fault of fedseg, please report it"
            )
