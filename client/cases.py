"""The site's cases: read once, kept ready, the bad ones set aside with their reason."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import final

from client.data.dataset import CaseFiles, list_cases
from client.data.guard import ReadingGuard
from client.data.preprocessing import (
    IntensitySums,
    PreparedCase,
    finish,
    intensity_sums,
    prepare,
)
from client.data.reading import read_case
from client.data.splits import assign_splits
from client.profile import Profile
from common.errors import CaseError
from common.events import SITE, emit
from common.messages import Accounting, IntensityTotals, Pooled
from common.study.study import Study

PARTS = ("train", "validation", "test")
NO_LABEL = "no_label"


@dataclass
class _ModalityCount:
    declared: int = 0
    skipped: dict[str, int] = field(default_factory=dict)


@final
class SiteCases:
    """All cases of a site for one study.

    A case that cannot be used is counted under its reason and written to the site's log; it
    never ends a round.

    Attributes:
        parts: Prepared cases of ``train``, ``validation`` and ``test``.
        totals: Intensity sums of the training cases by modality, taken before any scaling.
        annotated: Class indices that any dataset of the site annotates.
    """

    def __init__(self, profile: Profile, study: Study, guard: ReadingGuard) -> None:
        self._guard = guard
        self._study, self._site = study, profile.name
        self._counts: dict[str, _ModalityCount] = {}
        files = [case for entry in profile.datasets for case in list_cases(entry, study)]
        self.annotated = tuple(sorted({i for case in files for i in case.annotated}))
        try:
            prepared = list(self._read(files))
        finally:
            guard.close()
        by_name = {(c.files.modality, c.files.images): c for c in prepared}
        splits = assign_splits([c.files for c in prepared], study)
        self.parts: dict[str, list[PreparedCase]] = {
            part: [by_name[f.modality, f.images] for f in splits[part]] for part in PARTS
        }
        self.totals = self._totals()
        self._finished = False

    def _read(self, files: Sequence[CaseFiles]) -> Iterator[PreparedCase]:
        for done, case in enumerate(files):
            count = self._counts.setdefault(case.modality, _ModalityCount())
            count.declared += 1
            emit(SITE, "reading", site=self._site, done=done + 1, of=len(files))
            try:
                if case.label is None:
                    raise CaseError(NO_LABEL, f"case {case.name} has no label map")
                with self._guard.reading(case, self._study):
                    prepared = prepare(read_case(case, self._study), self._study)
                yield prepared
            except CaseError as error:
                count.skipped[error.reason] = count.skipped.get(error.reason, 0) + 1
                emit(
                    SITE,
                    "case_set_aside",
                    site=self._site,
                    case=case.name,
                    reason=error.reason,
                    detail=error.detail,
                )

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities of which a case is usable."""
        return tuple(sorted(m for m in self._counts if self._usable(m)))

    @property
    def skipped(self) -> dict[str, dict[str, int]]:
        """Cases set aside, by modality and reason."""
        return {m: dict(sorted(c.skipped.items())) for m, c in sorted(self._counts.items())}

    def _usable(self, modality: str) -> int:
        return sum(self.count(part, modality) for part in PARTS)

    def count(self, part: str, modality: str) -> int:
        """Return how many cases of a modality a part has."""
        return sum(1 for case in self.parts[part] if case.files.modality == modality)

    def accounting(self) -> dict[str, Accounting]:
        """Return the count of cases by modality: declared = usable + skipped."""
        return {
            m: Accounting(
                declared=count.declared,
                usable=self._usable(m),
                skipped=self.skipped[m],
                train=self.count("train", m),
                validation=self.count("validation", m),
                test=self.count("test", m),
            )
            for m, count in sorted(self._counts.items())
        }

    def _totals(self) -> dict[str, tuple[IntensityTotals, ...]]:
        """Sum the intensities of the labelled voxels of the training cases, by modality."""
        sums: dict[str, tuple[IntensitySums, ...]] = {}
        for case in self.parts["train"]:
            modality = case.files.modality
            if self._study.modalities[modality].intensity == "hounsfield":
                new = intensity_sums(case)
                old = sums.get(modality)
                sums[modality] = (
                    tuple(a + b for a, b in zip(old, new, strict=True)) if old else new
                )
        return {
            m: tuple(
                IntensityTotals(count=c.count, total=c.total, squares=c.squares) for c in s
            )
            for m, s in sums.items()
        }

    def finish(self, pooled: Pooled) -> None:
        """Apply the statistics that the hub pooled; once, whatever is asked later."""
        if self._finished:
            return
        for part in PARTS:
            self.parts[part] = [
                finish(case, pooled.statistics.get(case.files.modality))
                for case in self.parts[part]
            ]
        self._finished = True
