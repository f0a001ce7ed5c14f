"""``python -m deploy.systemd.registrar HUB``: the registrar beside a proxy of another user.

The same registrar, but that it waits until the proxy has taken what it wrote, and leaves the
logs to it, where it would otherwise signal nginx itself; see :mod:`deploy.systemd.proxy`.
"""

import time
from pathlib import Path

from common.errors import RunError
from deploy.supervise import registrar
from deploy.systemd.proxy import IN_FORCE, inputs_of

WAIT_SECONDS = 15.0


def wait_for_proxy(nginx: Path) -> None:
    """Return when nginx works with what is there now.

    Raises:
        RunError: If it does not take it in time; so a revocation is never done in name only.
    """
    wanted, until = inputs_of(nginx), time.monotonic() + WAIT_SECONDS
    while _in_force(nginx) != wanted:
        if time.monotonic() > until:
            raise RunError(
                f"{nginx}: the proxy has not taken the new bindings and lists in "
                f"{WAIT_SECONDS:.0f} s; does it run? Its log says what nginx did not like"
            )
        time.sleep(0.1)


def _in_force(nginx: Path) -> str:
    try:
        return (nginx / IN_FORCE).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def main() -> None:
    """Work until told to end."""
    vars(registrar).update(reload=wait_for_proxy, rotate_logs=lambda _: None)
    registrar.main()


if __name__ == "__main__":
    main()
