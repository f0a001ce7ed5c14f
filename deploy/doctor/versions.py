"""Versions: of Python, of Flower, of fedseg here and at the sites."""

from collections.abc import Mapping

from deploy.doctor.finding import Finding, broken, fine, odd

FLOWER = "1.41."
OLDEST, TOO_NEW = (3, 11), (3, 14)


def python(version: tuple[int, int]) -> Finding:
    """Say whether this Python is one that fedseg runs with."""
    name = f"{version[0]}.{version[1]}"
    if OLDEST <= version < TOO_NEW:
        return fine("Python", name)
    return broken("Python", f"{name}, expected 3.11 to 3.13", "install fedseg with one of them")


def flower(version: str | None) -> Finding:
    """Say whether the installed Flower is the one that fedseg was checked against."""
    if version is None:
        return broken("Flower", "is not installed", f"pip install 'flwr=={FLOWER}*'")
    if version.startswith(FLOWER):
        return fine("Flower", version)
    return broken(
        "Flower",
        f"{version}; fedseg changes Flower's node and was checked against {FLOWER}x only",
        f"pip install 'flwr=={FLOWER}*'",
    )


def fedseg(own: str, sites: Mapping[str, str]) -> Finding:
    """Say whether the sites that a hub knows run the same fedseg as it.

    Args:
        own: The version here.
        sites: Versions by the sites' names, as they last reported; empty at a site.
    """
    others = {site: version for site, version in sites.items() if version not in ("", own)}
    if not others:
        return fine("fedseg", own)
    named = ", ".join(f"{site} {version}" for site, version in sorted(others.items()))
    return odd(
        "fedseg",
        f"{own} here, but {named}",
        "install one release everywhere: a site refuses the app bundle of another one",
    )
