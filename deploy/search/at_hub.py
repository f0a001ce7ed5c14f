"""Candidates trained by the sites of a hub: a run for each, under one approval."""

import time
from dataclasses import replace
from pathlib import Path
from typing import final

from client.failures import CONSENT_SENTENCES, SENTENCES
from common.errors import RunError
from common.parameters import table_of
from common.study.study import SearchTerms, Study, approval_hash, study_hash
from deploy.search.evaluate import curve_of
from deploy.search.search import Heard, Hopeless, Notice
from deploy.supervise.desk import close_study, offer_study, start_trial, want_run
from deploy.supervise.hub_folder import HubFolder
from server.journal import Journal
from server.registry import (
    FAILED,
    FINISHED,
    MATRIX_SUFFIX,
    PAUSED,
    RUNNING,
    STOPPED,
    RunRow,
    StudyRow,
)
from server.run import read_run

LOOK_SECONDS = 0.5
STOP_SECONDS = 120.0
# why a site refuses a candidate, where waiting helps nothing
FINAL = (
    SENTENCES["TooLargeError"],
    SENTENCES["MemoryError"],
    SENTENCES["OutOfMemoryError"],
    CONSENT_SENTENCES["rounds used up"],
)


def asked_of_sites(study: Study, terms: SearchTerms) -> Study:
    """Return a trial's study as the sites get it: it says of which search it is."""
    return replace(study, search=terms)


@final
class AtHub:
    """Trains candidates on the sites of a hub that approved the search.

    A candidate's run is one of the hub's like any other: it waits for sites, goes on after a
    crash, and is stopped by ``fedseg hub stop``, after which the trial counts as failed. That
    this process ends does not end it.

    Args:
        hub: The hub.
        offer: What the sites are shown: the study as it was given, with the rounds of a trial.
        terms: Of the search.
        note: For the people at the sites.
        notice: Hears what is waited for, and what the sites have to approve.
    """

    def __init__(
        self,
        hub: HubFolder,
        offer: Study,
        terms: SearchTerms,
        *,
        note: str,
        notice: Notice,
    ) -> None:
        self._hub, self._terms, self._note = hub, terms, note
        self._offer = asked_of_sites(offer, terms)
        self._approved = approval_hash(self._offer)
        self._notice = notice

    def folder(self, study: Study, number: int) -> Path:
        """Return the folder of a candidate's run.

        Raises:
            RunError: If the hub has none.
        """
        row = self._row(study)
        if row is None:
            raise RunError(f"trial {number}: the hub no longer has its run")
        return Path(row.folder)

    def train(self, study: Study, number: int, heard: Heard) -> Path:
        """See :class:`deploy.search.search.Trainer`.

        Raises:
            RunError: If the run failed, was stopped by the coordinator, or waits for a site
                that can never train it.
        """
        row = self._row(study) or start_trial(self._hub, asked_of_sites(study, self._terms))
        self._see_to_offer(Path(row.folder))
        try:
            self._follow(row.run, f"trial {number}, run {row.run}", heard)
        except Hopeless:
            self._stop(row.run)
            raise
        return Path(row.folder)

    def close(self) -> None:
        """Take the search off the list that sites see."""
        if self._hub.registry.row(StudyRow, hash=self._approved, open=1):
            close_study(self._hub, self._approved)

    def _row(self, study: Study) -> RunRow | None:
        wanted = study_hash(asked_of_sites(study, self._terms))
        rows = self._hub.registry.rows(RunRow, hash=self._approved)
        runs = (row for row in rows if not row.run.endswith(MATRIX_SUFFIX))
        return next((r for r in runs if read_run(Path(r.folder)).hash == wanted), None)

    def _see_to_offer(self, folder: Path) -> None:
        if self._hub.registry.row(StudyRow, hash=self._approved, open=1):
            return
        size = 0
        if self._terms.over == "loss":  # else each trial has its own
            table = table_of(folder / "initial.safetensors")
            size = sum(p.size_bytes for p in table.values())
        offer_study(self._hub, self._offer, self._note, round_bytes=size)
        self._notice.say(f"search {self._approved}: offered; its trials wait until enough")
        self._notice.say("sites approved it: fedseg site studies, fedseg site approve")

    def _follow(self, run: str, words: str, heard: Heard) -> None:
        """Wait for a run's end, telling of each of its rounds, in order."""
        told = 0
        while True:
            row = self._hub.registry.run(run)  # before the rounds, or the last ones are missed
            curve = curve_of(Journal(Path(row.folder)))
            for length in range(told + 1, len(curve) + 1):
                heard(dict(list(curve.items())[:length]))
            told = len(curve)
            if row.state == FINISHED:
                return
            if row.state in (FAILED, STOPPED):
                raise RunError(f"run {run} {row.state}: {row.sentence}")
            if row.state == PAUSED and any(why in row.sentence for why in FINAL):
                self._stop(run)
                raise RunError(" ".join(row.sentence.split()))
            if row.state != RUNNING:
                waits = " ".join(row.sentence.split()) or "is fedseg hub serve running?"
                self._notice.doing(f"{words}: {row.state}; {waits}")
            time.sleep(LOOK_SECONDS)

    def _stop(self, run: str) -> None:
        want_run(self._hub, run, STOPPED)
        until = time.monotonic() + STOP_SECONDS
        while self._hub.registry.run(run).state not in (STOPPED, FINISHED, FAILED):
            if time.monotonic() > until:
                what = f"not stopped in {STOP_SECONDS:.0f} s; is fedseg hub serve running?"
                raise RunError(f"run {run}: {what}")
            time.sleep(LOOK_SECONDS)
