"""The site's worker: holds the device, the cases, the network and the optimiser.

Called in process in a simulation; behind a socket where a hospital deploys it. It alone opens
images, and nothing that it returns holds a case's name or path.
"""

import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Self, final

import torch

from client.alone import train_alone
from client.device import choose_device, prepare_threads
from client.evaluation import validate
from client.heldout import evaluate_held_out
from client.profile import Profile, check_profile, load_profile
from client.session import Session
from client.state import load_optimizer, optimizer_arrays
from client.training import fit
from common.errors import ProfileError, RunError
from common.events import SITE, emit
from common.messages import (
    AloneJob,
    AloneReport,
    Context,
    Enrolment,
    EvaluateJob,
    Evaluation,
    TrainJob,
    Update,
    UpdateReport,
)
from common.modality.affinity import as_message
from common.parameters import SITE_ONLY, is_trained_by
from common.study.load import parse_study
from common.study.study import study_hash


@final
class SiteWorker:
    """One site.

    Args:
        profile: Its own file.
        source: Name of that file, for messages.
        workspace: Its own folder: state, predictions, figures of its cases.
    """

    def __init__(self, profile: Profile, source: str, workspace: Path) -> None:
        self.profile, self._source, self.workspace = profile, source, workspace
        self._session: Session | None = None
        prepare_threads(profile.threads)

    @classmethod
    def open(cls, profile_path: Path, workspace: Path | None) -> Self:
        """Open a site from its profile.

        Args:
            profile_path: The profile.
            workspace: Folder above the site's own; by default ``~/.fedseg``.
        """
        profile = load_profile(profile_path)
        above = workspace or Path(os.environ.get("FEDSEG_HOME", Path.home() / ".fedseg"))
        folder = above / profile.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{folder}: cannot be made: {error.strerror}") from error
        return cls(profile, str(profile_path), folder)

    def enrol(self, context: Context) -> Enrolment:
        """Read all cases and say what there is of them.

        Raises:
            ProfileError: If the profile does not fit the study.
        """
        session = self._open(context)
        cases = session.cases
        return Enrolment(
            site=self.profile.name,
            study=study_hash(session.study),
            accounting=cases.accounting(),
            totals=cases.totals,
            version=version("fedseg"),
            annotated=tuple(session.study.classes[i] for i in cases.annotated),
        )

    def train(self, job: TrainJob) -> Update:
        """Take the round's weights, score them if asked, train on, keep the state.

        Raises:
            IncompatibleWeightsError: If the weights are not those of this site's network.
        """
        session = self._open(job.context)
        session.cases.finish(job.pooled)
        number = job.context.round
        session.check(job.kinds, job.weights)
        session.arrays.write(job.weights)
        previous = self._restore(session, number)
        started = time.monotonic()
        scores = (
            validate(
                session.network,
                session.cases.parts["validation"],
                session.study,
                session.device,
            )
            if job.validate
            else ()
        )
        validated = time.monotonic()
        plan = session.plan(number, affinities=job.pooled.affinities)
        torch.manual_seed(session.seed("dropout", number))
        fitted = fit(session.network, session.optimizer, plan)
        self._keep(session, number, previous)
        trained = session.arrays.read(
            lambda kind: is_trained_by(kind, session.trained_modalities, session.annotated)
        )
        report = UpdateReport(
            site=self.profile.name,
            run=job.context.run,
            study=study_hash(session.study),
            round=number,
            loss=fitted.loss,
            steps=plan.steps,
            scores=scores,
            cases={m: session.cases.count("train", m) for m in session.trained_modalities},
            used={m: len(names) for m, names in sorted(fitted.used.items())},
            skipped=session.cases.skipped,
            seconds={"train": time.monotonic() - validated, "validate": validated - started},
            affinities={m: as_message(s) for m, s in sorted(fitted.sums.items())},
        )
        emit(SITE, "round_trained", site=self.profile.name, round=number, loss=fitted.loss)
        return Update(report=report, weights=trained)

    def train_alone(self, job: AloneJob) -> AloneReport:
        """Train from the initial weights without anybody's help, as many steps as together."""
        session = self._open(job.context)
        session.cases.finish(job.pooled)
        session.check(job.kinds, job.weights)
        session.warm_round = None
        return train_alone(session, job.weights)

    def evaluate(self, job: EvaluateJob) -> Evaluation:
        """Score weights on held-out cases; in the test, the model trained alone as well."""
        session = self._open(job.context)
        session.cases.finish(job.pooled)
        session.check(job.kinds, job.weights)
        session.warm_round = None
        started = time.monotonic()
        session.arrays.write(job.weights)
        session.arrays.write(session.kept_weights(job.context.round))
        if job.part == "validation":
            scores = validate(
                session.network,
                session.cases.parts["validation"],
                session.study,
                session.device,
            )
            return Evaluation(
                site=self.profile.name,
                round=job.context.round,
                federated=scores,
                alone=(),
                differences=(),
                skipped=session.cases.skipped,
                seconds=time.monotonic() - started,
            )
        return evaluate_held_out(session, job.context.round)

    # --- state -------------------------------------------------------------------------------

    def _open(self, context: Context) -> Session:
        if self._session is not None and self._session.is_of(context):
            return self._session
        study = parse_study(context.study, "the hub's study")
        problems = check_profile(self.profile, study, self._source)
        if problems:
            raise ProfileError(problems)
        self._session = Session(
            self.profile,
            study,
            context,
            self.workspace / context.run,
            choose_device(self.profile.device),
        )
        return self._session

    def _restore(self, session: Session, number: int) -> int | None:
        """Bring back the newest state before a round, from memory where it is that one."""
        newest = session.state.newest_before(number)
        if newest is None:
            session.reset_optimizer()
            session.arrays.write(session.first_own)
        elif session.warm_round != newest:
            optimizer, weights, _ = session.state.load(newest)
            session.reset_optimizer()
            load_optimizer(session.optimizer, session.network, optimizer)
            session.arrays.write(weights)
        else:
            session.arrays.write(session.kept)
        if not session.study.training.keep_optimizer:
            session.reset_optimizer()
        return newest

    def _keep(self, session: Session, number: int, previous: int | None) -> None:
        """Write the state after a round; what is scored later needs the site's own weights."""
        keep = session.study.training.keep_optimizer
        optimizer = optimizer_arrays(session.optimizer, session.network) if keep else {}
        session.kept = session.arrays.read(lambda kind: kind == SITE_ONLY)
        session.keep_weights(number)
        metadata = {"round": str(number), "before": str(previous)}
        session.state.save(number, optimizer, session.kept, metadata)
        session.warm_round = number
