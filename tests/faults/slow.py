"""A site whose worker validates and sends slowly, so that it can be hit while it does.

Put into the worker through ``sitecustomize``; nothing else of it is changed.
"""

from pathlib import Path

from tests.faults.tap import before_all

SITECUSTOMIZE = """
import os, sys, time
if os.environ.get("SLOW_SECONDS") and "client.main_worker" in sys.orig_argv:
    import client.evaluation, client.service
    seconds = float(os.environ["SLOW_SECONDS"])
    infer, pieces = client.evaluation.infer, client.service.data_pieces
    def slow_infer(*arguments, **named):
        time.sleep(seconds)
        return infer(*arguments, **named)
    def slow_pieces(chunks):
        for i, piece in enumerate(pieces(chunks)):
            yield piece
            if i == 0:
                time.sleep(seconds)
    client.evaluation.infer, client.service.data_pieces = slow_infer, slow_pieces
"""


def environment(folder: Path, seconds: float) -> dict[str, str]:
    """Prepare a folder and return what a site's processes need to be slow."""
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return {"PYTHONPATH": before_all(folder), "SLOW_SECONDS": str(seconds)}
