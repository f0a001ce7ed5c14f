"""A study and the profiles of all its sites, held against each other before anything starts."""

from collections.abc import Sequence
from pathlib import Path

from client.data.dataset import list_cases
from client.profile import Profile, check_profile, load_profile
from common.errors import FedsegError, FileProblemsError, InputError, ProfileError, StudyError
from common.study.study import Study


def load_sites(paths: Sequence[Path], study: Study, study_name: str) -> list[Profile]:
    """Load every profile and check the whole federation.

    Raises:
        InputError: With every problem of every file, one a line.
    """
    problems: list[str] = []
    profiles: list[Profile] = []
    for path in paths:
        try:
            profile = load_profile(path)
        except FileProblemsError as error:
            problems += error.problems
            continue
        problems += check_profile(profile, study, str(path))
        profiles.append(profile)
    if problems:
        raise ProfileError(problems)
    problems = [*_names_given_twice(profiles, paths), *_gaps(profiles, study, study_name)]
    if problems:
        raise StudyError(problems)
    return profiles


def _names_given_twice(profiles: Sequence[Profile], paths: Sequence[Path]) -> list[str]:
    seen: dict[str, Path] = {}
    problems = []
    for profile, path in zip(profiles, paths, strict=True):
        if profile.name in seen:
            problems.append(
                f"{path}: name: {profile.name} is also the name of "
                f"{seen[profile.name]}; every site needs its own"
            )
        seen.setdefault(profile.name, path)
    return problems


def _gaps(profiles: Sequence[Profile], study: Study, study_name: str) -> list[str]:
    """Find what the study names and no site has."""
    if not profiles:
        raise InputError("no site is given; use --site PROFILE, once for each site")
    has = {entry.modality for profile in profiles for entry in profile.datasets}
    problems = [
        f"{study_name}: modalities.{modality}: no site has this modality; the sites have "
        f"{', '.join(sorted(has))}; take it out, or add a site"
        for modality in study.modalities
        if modality not in has
    ]
    annotated, unreadable = _annotated(profiles, study)
    problems += unreadable
    for i, label in enumerate(study.labels):
        if i + 1 not in annotated:
            problems.append(
                f"{study_name}: labels.{i}: no site annotates {label.name}; "
                "take it out, or add a site that does"
            )
    each = study.federation.minimum_sites_per_modality
    for modality in sorted(has & set(study.modalities)):
        have = sum(any(e.modality == modality for e in p.datasets) for p in profiles)
        if have < each:
            problems.append(
                f"{study_name}: federation.minimum_sites_per_modality: is {each}, "
                f"but {have} sites with {modality} are given"
            )
    need = study.federation.minimum_sites
    if need > len(profiles):
        problems.append(
            f"{study_name}: federation.minimum_sites: is {need}, "
            f"but {len(profiles)} sites are given"
        )
    return problems


def _annotated(profiles: Sequence[Profile], study: Study) -> tuple[set[int], list[str]]:
    """Return the classes that any case is annotated for, and the datasets without cases."""
    found: set[int] = set()
    problems = []
    for entry in (entry for profile in profiles for entry in profile.datasets):
        try:
            found |= {i for case in list_cases(entry, study) for i in case.annotated}
        except FedsegError as error:
            problems.append(str(error))
    return found, problems
