import math

import numpy as np
import pytest

from common.messages import Evaluation, Score
from common.tensors import read_tensors, write_tensors
from server.journal import Accepted, Best, Chosen, ClosedRound, Journal
from server.selection import choose, mean_metric, metric_of, site_metric
from tests.support.studies import update


def dice(value, label="liver", modality="ct", *, metric="dice", cases=3):
    return Score(modality=modality, label=label, metric=metric, value=value, cases=cases)


def test_a_site_is_scored_by_the_mean_over_its_labels_and_modalities():
    scores = [
        dice(0.9),
        dice(0.5, "spleen"),
        dice(0.4, modality="mr"),
        dice(7, metric="hd95_mm"),
    ]

    assert site_metric(scores) == pytest.approx(0.6)


def test_a_label_without_cases_does_not_count_and_without_any_there_is_no_metric():
    assert site_metric([dice(0.9), dice(0.0, "spleen", cases=0)]) == 0.9
    assert math.isnan(site_metric([dice(7, metric="hd95_mm")]))


def test_every_site_weighs_the_same_however_many_labels_it_has():
    one, many = [dice(0.2)], [dice(0.8), dice(0.6, "spleen")]

    assert mean_metric([one, many, []]) == pytest.approx(0.45)
    assert mean_metric([[], []]) is None


def closed(number, *values):
    """Return a round whose sites scored the weights that came into it."""
    accepted = tuple(
        Accepted(
            report=update(f"S{i}", round=number, scores=() if v is None else (dice(v),)).report,
            norm=1.0,
            sent=1,
            received=1,
            seconds=1.0,
            digest="",
        )
        for i, v in enumerate(values)
    )
    times = {"seconds": 1.0, "fold_seconds": 0.0, "gap_seconds": 0.0}
    return ClosedRound(number=number, accepted=accepted, refused={}, digest="", **times)


def evaluation(value):
    scores = () if value is None else (dice(value),)
    rest = {"alone": (), "differences": (), "skipped": {}, "seconds": 1.0}
    return Evaluation(site="S0", round=0, federated=scores, **rest)


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path)
    for number in range(5):
        write_tensors(journal.model(number), {"w": np.full(1, float(number))}, {})
    return journal


def kept(journal):
    return read_tensors(journal.best_model)["w"].item()


def test_a_score_belongs_to_the_round_before(journal):
    rounds = [closed(1, 0.9, 0.7), closed(2, 0.6)]

    assert metric_of(rounds[0]) == pytest.approx(0.8)
    assert choose(journal, rounds, None) == Best(round=0, value=pytest.approx(0.8))
    assert kept(journal) == 0


def test_the_last_rounds_weights_can_win_by_their_own_validation(journal):
    rounds = [closed(1, None), closed(2, 0.4), closed(3, 0.6)]

    best = choose(journal, rounds, {"S0": evaluation(0.7)})

    assert best == Best(round=3, value=0.7)
    assert kept(journal) == 3
    assert journal.read("best", Chosen).history == {"1": 0.4, "2": 0.6, "3": 0.7}


def test_of_equal_rounds_the_earliest_is_kept(journal):
    rounds = [closed(1, None), closed(2, 0.6), closed(3, 0.6)]

    assert choose(journal, rounds, {"S0": evaluation(0.6)}).round == 1


def test_the_best_weights_change_only_for_better_ones(journal):
    rounds = [closed(1, None), closed(2, 0.6)]
    choose(journal, rounds, None)
    write_tensors(journal.model(1), {"w": np.full(1, 99.0)}, {})

    choose(journal, [*rounds, closed(3, 0.5)], None)
    assert kept(journal) == 1
    choose(journal, [*rounds, closed(3, 0.5), closed(4, 0.9)], None)
    assert kept(journal) == 3


def test_a_run_killed_before_the_copy_chooses_the_same_again(journal):
    rounds = [closed(1, None), closed(2, 0.6)]
    first = choose(journal, rounds, None)
    journal.best_model.unlink()
    (journal.folder / "journal" / "best.json").unlink()

    assert choose(journal, rounds, None) == first
    assert kept(journal) == 1


def test_without_any_validation_the_last_round_is_the_best(journal):
    rounds = [closed(n, None) for n in (1, 2, 3)]

    assert choose(journal, rounds, None) == Best(round=3, value=0.0)
    assert not journal.best_model.exists()
    assert choose(journal, rounds, {"S0": evaluation(None)}).round == 3
    assert kept(journal) == 3
