"""Which people are trained on, and which are held out.

The side follows from the study's seed and the person's name alone, so it stays when cases are
added, is the same for a person's CT and MR, and is the same at every site that has the person.
"""

import hashlib
from collections.abc import Mapping, Sequence

from client.data.dataset import PARTS, CaseFiles
from common.errors import DatasetError
from common.study import Study

FEWEST_PEOPLE = 3


def assign_splits(cases: Sequence[CaseFiles], study: Study) -> dict[str, list[CaseFiles]]:
    """Divide the labelled cases of a site by person.

    A split written in ``cases.tsv`` wins, for all cases of the person. Else :math:`u`, the
    SHA-256 of seed and name as a number in [0, 1), decides: below ``test`` held out for the
    final figures, below ``test + validation`` for choosing the best round, else trained on.

    One exception: if that leaves a wanted part empty, there are three people or more and no
    split is written, the person of the training part with the lowest :math:`u` moves there
    (of another part with two people or more, if training would be left empty). Only then can
    adding cases move a person.

    Args:
        cases: Of all datasets of the site; those without label are left out. Not modified.
        study: Gives the seed and the shares.

    Returns:
        Cases by ``train``, ``validation`` and ``test``, each in the order given.

    Raises:
        DatasetError: If one person is given two splits.
    """
    labelled = [case for case in cases if case.label is not None]
    written = _written(labelled)
    numbers = {case.subject: position(case.subject, study.seed) for case in labelled}
    sides = {s: written.get(s) or _side(u, study) for s, u in numbers.items()}
    if not written and len(numbers) >= FEWEST_PEOPLE:
        _fill_empty_parts(sides, numbers, study)
    return {part: [c for c in labelled if sides[c.subject] == part] for part in PARTS}


def position(subject: str, seed: int) -> float:
    """Return the person's number in [0, 1): the first 53 bits of a SHA-256.

    More bits could round to 1.0 in a float.
    """
    digest = hashlib.sha256(f"{seed}:{subject}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def _side(u: float, study: Study) -> str:
    if u < study.evaluation.test:
        return "test"
    return "validation" if u < study.evaluation.test + study.evaluation.validation else "train"


def _written(cases: Sequence[CaseFiles]) -> dict[str, str]:
    written: dict[str, str] = {}
    for case in cases:
        if case.split is None:
            continue
        if written.setdefault(case.subject, case.split) != case.split:
            raise DatasetError(
                f"cases.tsv: subject {case.subject} is given the splits "
                f"{written[case.subject]} and {case.split}; one person belongs on one side"
            )
    return written


def _fill_empty_parts(
    sides: dict[str, str], numbers: Mapping[str, float], study: Study
) -> None:
    wanted = {
        "test": study.evaluation.test > 0,
        "validation": study.evaluation.validation > 0,
        "train": True,
    }
    for part, is_wanted in wanted.items():
        if not is_wanted or part in sides.values():
            continue
        people = {p: [s for s in numbers if sides[s] == p] for p in PARTS}
        by_size = sorted(PARTS, key=lambda p: len(people[p]))
        donor = "train" if len(people["train"]) > 1 else by_size[-1]
        ranked = sorted(people[donor], key=lambda subject: (numbers[subject], subject))
        sides[ranked[0] if donor == "train" else ranked[-1]] = part
