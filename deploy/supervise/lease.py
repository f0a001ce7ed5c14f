"""A SuperNode that was killed is forgotten by the hub as soon as it starts again.

Flower lets one process at a time be a node, and waits for up to a minute for one that ended
without a word. So a node writes down that it is active, and, where it finds that an earlier
life of it never said that it ended, it says so for it, through Flower's own client.

Only for a life in this very folder since this machine was started: in a copy of the folder
the node that is active may be the original, which must not be cut off.
"""

import fcntl
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, final

from common.errors import StorageError
from common.files import write_json

SAME_SECONDS = 10.0  # by which two readings of one machine's start may differ
# long enough for a hub to see that what it asked the earlier life will not be answered
GAP_SECONDS = 1.5


@final
class Lease:
    """What is written down of the node that is active.

    Args:
        home: Folder of the SuperNode. While another process has its lease, nothing is found
            there and nothing is written.
    """

    def __init__(self, home: Path) -> None:
        self._file = home / "active.json"
        self._lock = _locked(home / "active.lock")
        found = home.stat()
        self._here = [found.st_dev, found.st_ino]  # a copy has others

    def left_behind(self) -> int | None:
        """Return Flower's name of the node that an earlier life here left active."""
        if self._lock is None:
            return None
        try:
            held = json.loads(self._file.read_text(encoding="utf-8"))
            # an image of the machine has started at another time
            same = abs(float(held["started"]) - machine_started()) < SAME_SECONDS
            return int(held["node"]) if same and held["here"] == self._here else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def note(self, node: int) -> None:
        """Write down that the node is active."""
        if self._lock is not None:
            with suppress(StorageError):  # then Flower's minute has to pass
                held = {"node": str(node), "here": self._here, "started": machine_started()}
                write_json(self._file, held)

    def clear(self) -> None:
        """Write down that it is not."""
        if self._lock is not None:
            with suppress(OSError):
                self._file.unlink(missing_ok=True)


def give_back_leases(client: Any, lease: Lease, request_of: Any) -> None:
    """Change a client of Flower's Fleet API: a lease that was left behind is given back first.

    Args:
        client: The class ``FleetHttpClient``.
        lease: Of this node.
        request_of: The class ``DeactivateNodeRequest``.
    """
    activate, deactivate = client.ActivateNode, client.DeactivateNode

    def activate_anew(self: Any, request: Any) -> Any:
        if (node := lease.left_behind()) is not None:
            # whatever goes wrong here: Flower says itself whether the node may be active
            with suppress(Exception):
                deactivate(self, request_of(node_id=node))
                time.sleep(GAP_SECONDS)
        answer = activate(self, request)
        lease.note(answer.node_id)
        return answer

    def deactivate_noting(self: Any, request: Any) -> Any:
        answer = deactivate(self, request)
        lease.clear()
        return answer

    client.ActivateNode, client.DeactivateNode = activate_anew, deactivate_noting


def machine_started() -> float:
    """Return when this machine was started, seconds since 1970: also where /proc is hidden."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _locked(path: Path) -> IO[bytes] | None:
    """Return a lock that holds as long as this process, or None if another has it."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
