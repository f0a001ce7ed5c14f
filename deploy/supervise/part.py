"""One process of a hub or a site by itself, for whoever supervises processes already."""

import os
from collections.abc import Mapping

from common.errors import InputError
from deploy.supervise.program import Program


def become(programs: Mapping[str, Program], name: str) -> None:
    """Replace this process by one of the programs.

    Raises:
        InputError: If there is none of this name.
    """
    if name not in programs:
        raise InputError(f"part {name!r}: expected one of {', '.join(programs)}")
    program = programs[name]
    os.chdir(program.folder)
    os.execve(program.command[0], program.command, {**os.environ, **program.environment})  # noqa: S606
