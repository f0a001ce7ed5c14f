"""The hub's ServerApp: one run folder, from whatever round it stands at to its end.

Imports neither torch nor MONAI nor any reader of images: a hub that cannot read an image.
"""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.errors import InputError
from server.journal import Journal, owning
from server.run import read_run
from server.strategy import RoundStrategy

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study of the folder that the run configuration names under ``run``."""
    named = str(context.run_config.get("run", ""))
    if not named:
        raise InputError("run configuration: 'run' is empty; give the folder of a built study")
    folder = Path(named)
    info = read_run(folder)
    with owning(folder):
        RoundStrategy(Journal(folder), info.typed_study, info.run).start(grid)
