"""One command's worth of simulation: the real ServerApp and ClientApp, any number of sites."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid

from client.link import SEPARATOR
from client.profile import Profile
from common.errors import InputError
from common.events import HUB, SITE, JsonLines
from common.study.study import Study
from deploy.simulation.build import build_run
from deploy.simulation.curves import CurveWriter
from deploy.simulation.inline import HUB_NODE, InlineGrid
from server.run import RunInfo, read_run

HUB_LOG, SITES_LOG, SITES_FOLDER = "hub.jsonl", "sites/sites.jsonl", "sites"


def quiet_flower() -> None:
    """Keep Flower from telemetry, update checks and log lines of its own."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    logging.getLogger("flwr").setLevel(logging.WARNING)


def start_run(
    study: Study,
    profiles: Sequence[tuple[Profile, Path]],
    folder: Path,
    *,
    encoder: Path | None = None,
    told: Callable[[str], None] = lambda _sentence: None,
) -> RunInfo:
    """Make a run's folder for a simulation with these sites; see :func:`build_run`."""
    sites = {profile.name: str(path.resolve()) for profile, path in profiles}
    for path in sites.values():
        if SEPARATOR in path:
            raise InputError(f"{path}: a profile's path must not hold {SEPARATOR!r}; rename it")
    return build_run(study, folder, sites, encoder=encoder, told=told)


def run_simulation(
    folder: Path, *, processes: int = 1, handlers: Sequence[logging.Handler] = ()
) -> None:
    """Take a run from where it stands to its end.

    Args:
        folder: A built run; one that was interrupted goes on.
        processes: 1 for everything in this process; more spreads the sites.
        handlers: Hear every event, besides the log files.

    Raises:
        FedsegError: If it cannot go on; what was accepted stays on disk.
    """
    quiet_flower()
    info = read_run(folder)
    (folder / SITES_FOLDER).mkdir(exist_ok=True)
    run_config = {
        "run": str(folder),
        "workspace": str((folder / SITES_FOLDER).resolve()),
        "sites": SEPARATOR.join(info.sites.values()),
    }
    files = [
        (HUB, JsonLines(folder / HUB_LOG)),
        (HUB, CurveWriter(folder)),
        (SITE, JsonLines(folder / SITES_LOG)),
    ]
    with listening(files, handlers), grid_of(len(info.sites), processes, run_config) as grid:
        from server.app import app

        app(
            grid,
            Context(
                run_id=1,
                node_id=HUB_NODE,
                node_config={},
                state=RecordDict(),
                run_config=dict(run_config),
            ),
        )


@contextmanager
def grid_of(sites: int, processes: int, run_config: Mapping[str, str]) -> Iterator[Grid]:
    """Open the grid in one process or in several."""
    if processes > 1:
        from deploy.simulation.processes import ProcessGrid

        with ProcessGrid(sites, processes, run_config) as grid:
            yield grid
    else:
        from client.app import app

        yield InlineGrid(app, sites, run_config)


@contextmanager
def listening(
    files: Sequence[tuple[logging.Logger, logging.Handler]], handlers: Sequence[logging.Handler]
) -> Iterator[None]:
    """Let handlers hear the events of hub and sites while the block runs."""
    pairs = [*files, *((logger, h) for h in handlers for logger in (HUB, SITE))]
    for logger, handler in pairs:
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, handler in pairs:
            logger.removeHandler(handler)
            handler.close()
