"""Become another program that dies with the process that started this one.

``python child.py PARENT PROGRAM ARGUMENT...``: a supervisor that was killed outright cannot end
its children, so the kernel is asked to. Run by path and without site packages: milliseconds.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel, look whether the parent is still there, become the program."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(0)
    os.execv(command[0], command)  # noqa: S606 - no shell


if __name__ == "__main__":
    main()
