"""What marks an accepted update: cases that do not add up, weights that were seen before."""

from collections.abc import Mapping, Sequence

from common.messages import Enrolment, UpdateReport
from server.journal import Accepted, ClosedRound


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


def repeated(held: Mapping[str, Accepted], before: Sequence[ClosedRound]) -> dict[str, str]:
    """Find weights that are, to the bit, another site's or the same site's of the round before.

    Neither happens to honest sites; which of two copied cannot be told, so both are marked.

    Args:
        held: The updates of a round.
        before: The round before, if there was one.
    """
    earlier = {a.report.site: a.digest for closed in before for a in closed.accepted}
    found = {}
    for site, accepted in sorted(held.items()):
        same = sorted(
            s for s, other in held.items() if s != site and other.digest == accepted.digest
        )
        if same:
            found[site] = f"its weights are, to the bit, those of {', '.join(same)}"
        elif earlier.get(site) == accepted.digest:
            found[site] = "its weights are, to the bit, those of the round before"
    return found
