"""From the messenger to the worker.

In this process in a simulation, imported only when it is needed; over a socket in a deployment,
where the messenger must load neither torch nor an image reader.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from common.errors import ProfileError
from common.messages import (
    AloneJob,
    AloneReport,
    Context,
    Enrolment,
    EvaluateJob,
    Evaluation,
    SharedModel,
    ShareJob,
    TrainJob,
    Update,
)

SEPARATOR = ";"  # between profiles in a run configuration, which has no lists

Setting = Mapping[str, bool | float | int | str]


class Worker(Protocol):
    """What a messenger may ask of its site."""

    def enrol(self, context: Context) -> Enrolment:
        """Say who the site is and what it has."""

    def train(self, job: TrainJob) -> Update:
        """Train one round."""

    def train_alone(self, job: AloneJob) -> AloneReport:
        """Train the model that the site would have had alone."""

    def evaluate(self, job: EvaluateJob) -> Evaluation:
        """Score weights on held-out cases."""

    def share(self, job: ShareJob) -> SharedModel:
        """Hand out the model that the site trained alone."""


def worker_of(node: Setting, run: Setting) -> Worker:
    """Return the worker of the site that this node is.

    Args:
        node: The node's configuration: ``worker`` is the socket of the site's worker, which
            then does everything; else ``profile`` names the site's profile; a simulated node
            has ``partition-id``, its place in the run configuration's ``sites``.
        run: The run's configuration: ``sites`` (profiles, separated by ``;``) and
            ``workspace`` (folder above the sites' own), both for simulations only.

    Raises:
        ProfileError: If no profile is named.
    """
    socket = str(node.get("worker", ""))
    if socket:
        return _remote(socket)
    profile = str(node.get("profile", ""))
    if not profile:
        profiles = [part for part in str(run.get("sites", "")).split(SEPARATOR) if part]
        place = int(node.get("partition-id", -1))
        if not 0 <= place < len(profiles):
            raise ProfileError(
                [
                    f"node {place}: the run configuration names {len(profiles)} "
                    "sites, none for this node"
                ]
            )
        profile = profiles[place]
    return _in_process(profile, str(run.get("workspace", "")))


@lru_cache(maxsize=64)
def _in_process(profile: str, workspace: str) -> Worker:
    from client.worker import SiteWorker

    return SiteWorker.open(Path(profile), Path(workspace) if workspace else None)


def forget_workers() -> None:
    """Let go of the workers of simulations that are over, and of the cases that they hold."""
    _in_process.cache_clear()


@lru_cache(maxsize=64)
def _remote(socket: str) -> Worker:
    from client.remote import RemoteWorker

    return RemoteWorker(Path(socket))
