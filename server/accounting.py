"""Do the cases that a site tells of add up? Declared = used + skipped + not needed."""

from common.messages import Enrolment, UpdateReport


def accounting_problem(report: UpdateReport, enrolment: Enrolment) -> str:
    """Say what does not add up in a round's report; nothing if all does.

    The update may count all the same: its weights are checked apart from this. The round is
    marked, so that nobody reads more cases into it than there were.

    Args:
        report: Of one site's round.
        enrolment: What the site declared before.
    """
    for modality, account in sorted(enrolment.accounting.items()):
        declared = report.declared.get(modality)
        if declared != account.declared:
            told = "none" if declared is None else str(declared)
            return f"{modality}: declares {told} cases, {account.declared} when it enrolled"
        used = report.used.get(modality, 0)
        skipped = sum(report.skipped.get(modality, {}).values())
        rest = report.not_needed.get(modality, 0)
        if min(used, skipped, rest) < 0 or used + skipped + rest != declared:
            return (
                f"{modality}: {declared} cases declared, but {used} used, {skipped} set aside "
                f"and {rest} not needed"
            )
    return ""
