"""The final figures of a site: its held-out cases under both models."""

import time

import numpy as np

from client.alone import load_alone
from client.evaluation import (
    ALONE,
    FEDERATED,
    CaseScore,
    differences,
    predict_label,
    score_case,
    summarise,
    write_case_scores,
)
from client.pictures import write_pictures
from client.session import Session
from common.events import SITE, emit
from common.messages import Evaluation


def evaluate_held_out(session: Session, number: int) -> Evaluation:
    """Score the network's present weights and the model trained alone on the test cases.

    Cases by name, and pictures of the first of them, are written into the site's own folder;
    what is returned holds neither.
    """
    started = time.monotonic()
    scores: list[CaseScore] = []
    predictions = {FEDERATED: _predict(session, FEDERATED, scores)}
    if load_alone(session):
        predictions[ALONE] = _predict(session, ALONE, scores)
    write_case_scores(session.folder / "cases.csv", scores)
    write_pictures(
        session.folder / "pictures",
        session.cases.parts["test"],
        predictions,
        session.study,
        session.profile.predictions,
    )
    return Evaluation(
        site=session.name,
        round=number,
        federated=summarise(scores, FEDERATED),
        alone=summarise(scores, ALONE),
        differences=differences(scores, session.study, session.name),
        skipped=session.cases.skipped,
        seconds=time.monotonic() - started,
    )


def _predict(session: Session, model: str, scores: list[CaseScore]) -> dict[str, np.ndarray]:
    """Score every test case; keep the few label maps that pictures are made of."""
    kept = {}
    cases = session.cases.parts["test"]
    for done, case in enumerate(cases):
        label = predict_label(session.network, case, session.study, session.device)
        scores += score_case(label, case, session.study, model)
        if done < session.profile.predictions:
            kept[case.files.name] = label
        emit(SITE, "case_scored", site=session.name, model=model, done=done + 1, of=len(cases))
    return kept
