import csv
import math

from common.messages import Difference, Evaluation, Score
from server.tables import COLUMNS, rows_of, write_metrics
from tests.unit.server.test_selection import closed, dice


def evaluation(site, number, federated=(), alone=(), differences=()):
    rest = {"skipped": {}, "seconds": 1.0}
    return Evaluation(
        site=site,
        round=number,
        federated=federated,
        alone=alone,
        differences=differences,
        **rest,
    )


def test_a_rounds_scores_stand_under_the_round_that_made_the_weights():
    rows = list(rows_of([closed(1, None), closed(2, 0.7)], {}, {}))

    assert rows == [
        (1, "S0", "", "", "loss", 0.5, 10, "federated"),
        (2, "S0", "", "", "loss", 0.5, 10, "federated"),
        (1, "S0", "ct", "liver", "dice", 0.7, 3, "federated"),
    ]


def test_the_last_validation_and_the_test_come_after_in_site_order():
    last = {"B": evaluation("B", 2, (dice(0.8),)), "A": evaluation("A", 2, (dice(0.6),))}
    final = {"A": evaluation("A", 1, (dice(0.5),), (dice(0.4),))}

    rows = list(rows_of([closed(1, None), closed(2, None)], last, final))[2:]

    assert rows == [
        (2, "A", "ct", "liver", "dice", 0.6, 3, "federated"),
        (2, "B", "ct", "liver", "dice", 0.8, 3, "federated"),
        (1, "A", "ct", "liver", "test_dice", 0.5, 3, "federated"),
        (1, "A", "ct", "liver", "test_dice", 0.4, 3, "alone"),
    ]


def test_a_difference_is_three_rows():
    change = Difference(modality="ct", label="mean", mean=0.1, low=-0.1, high=0.3, cases=4)

    rows = list(rows_of([], {}, {"A": evaluation("A", 1, differences=(change,))}))

    assert [row[4:7] for row in rows] == [
        ("test_dice_difference", 0.1, 4),
        ("test_dice_difference_low", -0.1, 4),
        ("test_dice_difference_high", 0.3, 4),
    ]


def test_the_file_is_read_back_by_column(tmp_path):
    path = tmp_path / "metrics.csv"
    odd = Score(modality="ct", label="liver", metric="hd95_mm", value=math.nan, cases=0)
    last = {"A": evaluation("A", 1, (odd, dice(0.1 + 0.2)))}

    write_metrics(path, [closed(1, None)], last, {})

    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert math.isnan(float(rows[1]["value"]))
    assert float(rows[2]["value"]) == 0.1 + 0.2
    assert b"\r" not in path.read_bytes()
