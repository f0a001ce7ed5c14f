"""Our packages have plain names; this holds that nobody else's are imported in their place."""

from importlib.util import find_spec
from pathlib import Path

from common.errors import RefusedError

OURS = ("server", "client", "common", "deploy")


def check_own_packages() -> None:
    """Refuse to start where another distribution's package shadows one of ours.

    Raises:
        RefusedError: Naming the package and where the foreign one is.
    """
    root = Path(__file__).parents[2]
    for name in OURS:
        spec = find_spec(name)
        origin = Path(spec.origin) if spec and spec.origin else None
        if origin is None or origin.parents[1] != root:
            raise RefusedError(
                f"package {name} comes from {origin or 'nowhere'}, not from fedseg at {root}; "
                "remove the other distribution, or install fedseg in an environment of its own"
            )
