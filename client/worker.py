"""The site's worker: holds the device, the cases, the network and the optimiser.

Called in process in a simulation; behind a socket where a hospital deploys it
(``client.service``). It alone opens images, and nothing that it returns holds a case's name or
path. What the site's people have not allowed is refused before a case is opened.
"""

import os
import threading
import time
from collections.abc import Iterable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Self, final

import torch

from client.alone import load_alone, train_alone
from client.checkpoint import Bound, Checkpoint, Resumed
from client.consent import ALONE, ENROL, EVALUATE, SHARE, TRAIN, Consent
from client.data.preprocessing import PreparedCase
from client.device import choose_device, prepare_threads
from client.evaluation import validate
from client.heldout import evaluate_held_out
from client.profile import Profile, check_profile, load_profile
from client.report import update_of
from client.session import Session
from client.state import SiteState, load_optimizer, optimizer_arrays
from client.status import TRAINING, VALIDATING, StatusBoard
from client.training import Fit, Fitted, fit
from common.bodies import digest_of_job
from common.errors import ConsentError, ProfileError, RefusedError, RunError
from common.events import SITE, emit
from common.messages import (
    SITE_NAME,
    AloneJob,
    AloneReport,
    Context,
    Enrolment,
    EvaluateJob,
    Evaluation,
    Score,
    SharedModel,
    ShareJob,
    TrainJob,
    Update,
)
from common.parameters import SITE_ONLY, is_used_by
from common.study.load import parse_study
from common.study.study import Study, approval_hash, study_hash

CONSENT_SECONDS = 2.0  # between looks at the ledger while a job is done


@final
class SiteWorker:
    """One site.

    Args:
        profile: Its own file.
        source: Name of that file, for messages.
        workspace: Its own folder: state, predictions, figures of its cases.
        consent: What the site's people allow; None, in a simulation, for everything.
        checkpoints: Whether to write checkpoints within a round, as the profile asks.

    Attributes:
        status: What it is doing.
        stop: Set to end the work at the next step; what was done is kept.
    """

    def __init__(
        self,
        profile: Profile,
        source: str,
        workspace: Path,
        *,
        consent: Consent | None = None,
        checkpoints: bool = False,
    ) -> None:
        self.profile, self._source, self.workspace = profile, source, workspace
        self._consent = consent
        self._checkpoint_seconds = profile.checkpoint_seconds if checkpoints else 0.0
        self._session: Session | None = None
        self.status, self.stop = StatusBoard(), threading.Event()
        self._consented = 0.0
        prepare_threads(profile.threads)

    @classmethod
    def open(cls, profile_path: Path, workspace: Path | None) -> Self:
        """Open a site of a simulation from its profile.

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

    def permit(self, kind: str, context: Context) -> Study:
        """Return the study of a job that is allowed; opens no case.

        Raises:
            ConsentError: If the site's people have not allowed it.
            RefusedError: If the run's name is none.
            StudyError: If the study cannot be read.
        """
        if not SITE_NAME.fullmatch(context.run):  # it becomes the name of a folder
            raise RefusedError(f"{context.run[:80]!r} is no run's name")
        known = self._session
        if known is not None and known.is_of(context):
            study = known.study
        else:
            study = parse_study(context.study, "the hub's study")
        if self._consent is not None:
            self._consent.check(study, run=context.run, number=context.round, kind=kind)
        return study

    def enrol(self, context: Context) -> Enrolment:
        """Read all cases and say what there is of them.

        Raises:
            ConsentError: If the site's people have not allowed it.
            ProfileError: If the profile does not fit the study.
        """
        session = self._open(ENROL, context)
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
            ConsentError: If the site's people have not allowed it.
            IncompatibleWeightsError: If the weights are not those of this site's network.
            RunError: If the worker is told to end.
        """
        session = self._open(TRAIN, job.context)
        session.cases.finish(job.pooled)
        number = job.context.round
        session.check(job.kinds, job.weights)
        self._begin(session, job.context)
        session.arrays.write(job.weights)
        previous = self._restore(session, number)
        session.warm_round = None  # from here on, the optimiser in memory is of no round
        started = time.monotonic()
        plan = session.plan(number, affinities=job.pooled.affinities)
        checkpoint = self._checkpoint(session, job)
        done = checkpoint.resume(plan) if checkpoint else None
        if done is None:
            scores = self._validate(session) if job.validate else ()
            torch.manual_seed(session.seed("dropout", number))
            done = Resumed(fitted=Fitted(), scores=scores)
        validated = time.monotonic()
        self.status.show(TRAINING, done=done.fitted.steps, total=plan.steps)
        after_step = partial(self._after_step, checkpoint, plan, done.scores)
        fitted = fit(session.network, session.optimizer, plan, done.fitted, after_step)
        self._keep(session, number, previous)
        seconds = {"train": time.monotonic() - validated, "validate": validated - started}
        update = update_of(session, job.context, fitted, scores=done.scores, seconds=seconds)
        self._finish(session, update)
        if checkpoint:
            checkpoint.remove()
        emit(SITE, "round_trained", site=self.profile.name, round=number, loss=fitted.loss)
        return update

    def train_alone(self, job: AloneJob) -> AloneReport:
        """Train from the initial weights without anybody's help, as many steps as together."""
        session = self._open(ALONE, job.context)
        session.cases.finish(job.pooled)
        session.check(job.kinds, job.weights)
        session.warm_round = None
        return train_alone(session, job.weights, lambda _fitted: self._check_stop())

    def evaluate(self, job: EvaluateJob) -> Evaluation:
        """Score weights on held-out cases; in the test, the model trained alone as well."""
        session = self._open(EVALUATE, job.context)
        session.cases.finish(job.pooled)
        session.check(job.kinds, job.weights)
        session.warm_round = None
        started = time.monotonic()
        session.arrays.write(job.weights)
        session.arrays.write(session.kept_weights(job.context.round))
        if job.part in ("validation", "matrix"):
            part = "validation" if job.part == "validation" else "test"
            return Evaluation(
                site=self.profile.name,
                round=job.context.round,
                federated=self._validate(session, part),
                alone=(),
                differences=(),
                skipped=session.cases.skipped,
                seconds=time.monotonic() - started,
            )
        return evaluate_held_out(session, job.context.round)

    def share(self, job: ShareJob) -> SharedModel:
        """Hand out the best weights that the site trained alone.

        Raises:
            ConsentError: If the site's people have not permitted models to leave.
            RefusedError: If the site has trained none.
        """
        session = self._open(SHARE, job.context)
        session.warm_round = None
        if not load_alone(session):
            raise RefusedError(f"{self.profile.name}: has trained no model alone in this run")
        own = session.arrays.read(lambda kind: is_used_by(kind, session.trained_modalities))
        return SharedModel(site=self.profile.name, weights=own)

    # --- the session -------------------------------------------------------------------------

    def _open(self, kind: str, context: Context) -> Session:
        study = self.permit(kind, context)
        self.status.job(run=context.run, study=study_hash(study), number=context.round)
        session = self._session
        if session is None or not session.is_of(context):
            self._session = None  # let go of the last study's cases before these are read
            session = self._session = self._new_session(study, context)
        if self._consent is not None:
            fewest = min(session.training_cases.values(), default=0)
            self._consent.check(
                study, run=context.run, number=context.round, kind=kind, cases=fewest
            )
        return session

    def _new_session(self, study: Study, context: Context) -> Session:
        problems = check_profile(self.profile, study, self._source)
        if problems:
            raise ProfileError(problems)
        folder = self.workspace / context.run
        return Session(self.profile, study, context, folder, choose_device(self.profile.device))

    def _begin(self, session: Session, context: Context) -> None:
        if self._consent is not None:
            self._consent.begin(
                approval_hash(session.study),
                context.run,
                context.round,
                cases=session.training_cases,
            )

    def _finish(self, session: Session, update: Update) -> None:
        report = update.report
        if self._consent is not None:
            self._consent.finish(
                approval_hash(session.study),
                report.run,
                report.round,
                cases=report.used,
                bytes_out=sum(array.nbytes for array in update.weights.values()),
            )

    # --- steps and cases, one after another --------------------------------------------------

    def _validate(self, session: Session, part: str = "validation") -> tuple[Score, ...]:
        cases = self._watched(session.cases.parts[part])
        return validate(session.network, cases, session.study, session.device)

    def _watched(self, cases: Iterable[PreparedCase]) -> Iterator[PreparedCase]:
        """Yield cases, showing how many are done."""
        all_cases = list(cases)
        for done, case in enumerate(all_cases):
            self._check_stop()
            self.status.show(VALIDATING, done=done, total=len(all_cases))
            yield case

    def _checkpoint(self, session: Session, job: TrainJob) -> Checkpoint | None:
        if not self._checkpoint_seconds:
            return None
        bound = Bound(
            run=job.context.run,
            study=study_hash(session.study),
            round=job.context.round,
            job=digest_of_job(TRAIN, job),
        )
        return Checkpoint(session, bound, self._checkpoint_seconds)

    def _after_step(
        self,
        checkpoint: Checkpoint | None,
        plan: Fit,
        scores: tuple[Score, ...],
        fitted: Fitted,
    ) -> None:
        self.status.show(TRAINING, done=fitted.steps, total=plan.steps)
        if checkpoint is not None:
            checkpoint.write_if_due(plan, fitted, scores, at_once=self.stop.is_set())
        self._check_stop()

    def _check_stop(self) -> None:
        """End a job under way when the worker is to end, or the site's people took it back."""
        if self.stop.is_set():
            raise RunError("the worker was told to end; the job is taken up when it is back")
        if self._consent is None or self._session is None:
            return
        if time.monotonic() - self._consented < CONSENT_SECONDS:
            return
        self._consented = time.monotonic()
        name = approval_hash(self._session.study)
        state = self._consent.standing(name).state
        if state != "approved":
            raise ConsentError(state, f"study {name[:12]}: {state} while it was trained")

    # --- state -------------------------------------------------------------------------------

    def _restore(self, session: Session, number: int) -> int | None:
        """Bring back the newest state before a round, from memory where it is that one."""
        newest = session.state.newest_before(number)
        if newest is None:
            session.reset_optimizer()
            session.reset_critic()
            session.arrays.write(session.first_own)
        elif session.warm_round != newest:
            held = session.state.load(newest)
            session.reset_optimizer()
            load_optimizer(session.optimizer, session.network, held.optimizer)
            session.load_critic(held.critic)
            session.arrays.write(held.weights)
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
        state = SiteState(
            optimizer=optimizer,
            weights=session.kept,
            critic=session.critic_arrays(optimizer=keep),
            texts={"round": str(number), "before": str(previous)},
        )
        session.state.save(number, state)
        session.warm_round = number
