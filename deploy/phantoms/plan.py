"""What to make: the sites of a phantom study and what they have in common."""

import re
from collections import Counter
from dataclasses import dataclass

from common.errors import InputError
from deploy.phantoms.anatomy import ORGANS
from deploy.phantoms.difficulty import DIFFICULTY_NAMES, DifficultyName
from deploy.phantoms.physics import RENDERERS, Modality

# The name becomes a folder and a file, so it must be safe as both on every system.
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_GROUP = re.compile(r"(?P<count>[0-9]{1,3})\s*(?P<modality>ct|mri|mr)")
_SMALLEST_SIZE = 16  # voxels in plane; below it a kidney has less than four voxels
_LARGEST_SIZE = 512


@dataclass(frozen=True, kw_only=True)
class SitePlan:
    """One site to make.

    Attributes:
        name: Lower-case letters, digits and hyphens; names the folder and the profile.
        modality: ``"ct"`` or ``"mr"``.
        cases: Number of patients, at least 1.
        not_annotated: Labels of the study that this site's references leave out.
    """

    name: str
    modality: Modality
    cases: int
    not_annotated: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InputError(
                f"site {self.name!r}: not a usable name; expected up to 32 lower-case letters, "
                "digits and hyphens, a letter first"
            )
        if self.modality not in RENDERERS:
            raise InputError(
                f"site {self.name}: modality {self.modality!r} is not known; use ct or mr"
            )
        if self.cases < 1:
            raise InputError(f"site {self.name}: {self.cases} cases; expected at least 1")


@dataclass(frozen=True, kw_only=True)
class PhantomPlan:
    """A whole set of phantoms.

    Attributes:
        sites: At least one site, no two of the same name.
        dimensions: 2 or 3.
        labels: Organs to annotate, from ``ORGANS``, in the order of their numbers.
        difficulty: How hard they are to segment.
        seed: Not negative. The same seed gives the same bytes.
        size: Voxels along both axes in plane; 64 in 2-D and 48 in 3-D unless given. A volume
            has two thirds as many slices.
        spacing_mm: Distance of voxel centres along each of the ``dimensions`` axes, in mm; the
            anatomy always fills the field of view.
    """

    sites: tuple[SitePlan, ...]
    dimensions: int = 2
    labels: tuple[str, ...] = tuple(ORGANS)
    difficulty: DifficultyName = "default"
    seed: int = 0
    size: int | None = None
    spacing_mm: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.dimensions not in (2, 3):
            raise InputError(f"dimensions: {self.dimensions}; expected 2 or 3")
        if self.difficulty not in DIFFICULTY_NAMES:
            known = ", ".join(DIFFICULTY_NAMES)
            raise InputError(
                f"difficulty: {self.difficulty!r} is not known; use one of {known}"
            )
        if self.seed < 0:
            raise InputError(f"seed: {self.seed}; expected a number that is not negative")
        self._check_geometry()
        self._check_sites()
        self._check_labels()

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis, two or three numbers."""
        flat = self.dimensions == 2  # noqa: PLR2004
        size = self.size or (64 if flat else 48)
        return (size, size) if flat else (size, size, 2 * size // 3)

    @property
    def voxel_mm(self) -> tuple[float, ...]:
        """Distance of voxel centres along each axis in mm, two or three numbers."""
        return self.spacing_mm or ((5.0, 5.0) if len(self.shape) < 3 else (7.0, 7.0, 5.0))  # noqa: PLR2004

    def annotated(self, site: SitePlan) -> tuple[str, ...]:
        """Return the labels that a site annotates, in the order of the plan."""
        return tuple(label for label in self.labels if label not in site.not_annotated)

    def _check_geometry(self) -> None:
        if self.size is not None and not _SMALLEST_SIZE <= self.size <= _LARGEST_SIZE:
            raise InputError(
                f"size: {self.size} voxels; expected {_SMALLEST_SIZE} to {_LARGEST_SIZE}"
            )
        spacing = self.voxel_mm
        if len(spacing) != self.dimensions or not all(0 < step < 1000 for step in spacing):  # noqa: PLR2004
            raise InputError(
                f"spacing_mm: {spacing}; expected {self.dimensions} positive numbers"
            )

    def _check_sites(self) -> None:
        if not self.sites:
            raise InputError("sites: there are none; expected at least one")
        for name, count in Counter(site.name for site in self.sites).items():
            if count > 1:
                raise InputError(f"sites: {name} stands there {count} times; names must differ")

    def _check_labels(self) -> None:
        known = ", ".join(ORGANS)
        unknown = [label for label in self.labels if label not in ORGANS]
        if unknown or not self.labels or len(set(self.labels)) < len(self.labels):
            raise InputError(
                f"labels: {', '.join(self.labels) or 'none'}; expected some of {known}, "
                "each once"
            )
        for site in self.sites:
            strange = [label for label in site.not_annotated if label not in self.labels]
            if strange:
                raise InputError(
                    f"site {site.name}: not_annotated names {', '.join(strange)}, which the "
                    "plan's labels lack"
                )
            if not self.annotated(site):
                raise InputError(
                    f"site {site.name}: annotates nothing; leave at least one label"
                )


def parse_sites(text: str, cases: int) -> tuple[SitePlan, ...]:
    """Read a list of sites such as ``2ct,2mri``.

    >>> [site.name for site in parse_sites("2ct,1mri", 20)]
    ['ct-1', 'ct-2', 'mr-1']

    Args:
        text: Groups of a number and ``ct``, ``mr`` or ``mri``, with commas between them.
        cases: Number of patients at every site.

    Returns:
        The sites in the order of the text, numbered from 1 within each modality.

    Raises:
        InputError: If the text is not of this form, or names no site.
    """
    seen: Counter[str] = Counter()
    sites = []
    for group in text.lower().split(","):
        match = _GROUP.fullmatch(group.strip())
        if match is None or int(match["count"]) == 0:
            raise InputError(
                f"sites: {group.strip()!r} is not a number of sites and a modality; "
                "write it as in 2ct,2mri"
            )
        modality: Modality = "ct" if match["modality"] == "ct" else "mr"
        for _ in range(int(match["count"])):
            seen[modality] += 1
            name = f"{modality}-{seen[modality]}"
            sites.append(SitePlan(name=name, modality=modality, cases=cases))
    return tuple(sites)
