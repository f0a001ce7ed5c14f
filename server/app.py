"""The hub's ServerApp: one run folder, from whatever round it stands at to its end.

Imports neither torch nor MONAI nor any reader of images: a hub that cannot read an image.
"""

from contextlib import suppress
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.errors import FedsegError, InputError, QuorumError, StorageError
from common.files import write_json
from common.study.study import approval_hash
from server.auditing import audit
from server.journal import Journal, owning
from server.matrix import MATRIX, evaluate_everywhere
from server.recovery import recover
from server.registry import FAILED, PAUSED, Registry
from server.roster import ApprovedSites, Everybody, Roster
from server.run import read_run
from server.strategy import RoundStrategy

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study of the folder that the run configuration names under ``run``.

    ``action`` is empty, or ``matrix`` to score every model of a finished run at every site.
    ``registry`` names the hub's register where there is one: then only sites that approved the
    study are asked, and ``outcome.json`` says why a run ended before its end.
    """
    named = str(context.run_config.get("run", ""))
    if not named:
        raise InputError("run configuration: 'run' is empty; give the folder of a built study")
    folder = Path(named)
    info = read_run(folder)
    register = str(context.run_config.get("registry", ""))
    roster: Roster = Everybody()
    if register:
        approved = approval_hash(info.typed_study)
        roster = ApprovedSites(Registry(Path(register)), info.run, approved)
        audit(Path(register).parent)
    with owning(folder):
        journal = Journal(folder)
        try:
            recover(journal, info)
            strategy = RoundStrategy(journal, info.typed_study, info.run, roster)
            if context.run_config.get("action") == MATRIX:
                evaluate_everywhere(grid, strategy)
            else:
                strategy.start(grid)
        except FedsegError as error:
            waits = isinstance(error, QuorumError | StorageError)
            state = PAUSED if waits else FAILED
            with suppress(StorageError):  # then the hub looks at the disk itself
                write_json(folder / "outcome.json", {"state": state, "sentence": str(error)})
            raise
