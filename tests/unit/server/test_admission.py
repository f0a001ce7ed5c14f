from dataclasses import replace

import numpy as np
import pytest

from common.errors import UpdateRefusedError
from common.messages import ClassAffinity, Difference, Evaluation, Score
from server.admission import (
    Asked,
    change_norm,
    check_evaluation,
    check_scores,
    check_update,
    expected_of,
    outliers,
)
from tests.support import studies
from tests.support.studies import enrolment

TABLE = studies.table(
    **{
        "w": ("shared", (2, 3)),
        "ct.norm": ("modality:ct", (3,)),
        "mr.norm": ("modality:mr", (3,)),
        "running": ("site", (3,)),
        "out#background": ("head:background", (1,)),
        "out#liver": ("head:liver", (1,)),
        "out#spleen": ("head:spleen", (1,)),
    }
)
SITE = enrolment("A", {"ct": 10}, annotated=("liver",))
ASKED = Asked(site="A", run="run-1", study=SITE.study, round=1, enrolment=SITE)
AFFINITY = ClassAffinity(sums=((1.0, 2.0, 3.0),) * 3, counts=(4.0, 0.0, 1.0))


def sent():
    return {n: np.ones(p.shape, np.float32) for n, p in expected_of(SITE, TABLE).items()}


def refusal(weights=None, **changes):
    update = studies.update(weights=sent() if weights is None else weights, **changes)
    with pytest.raises(UpdateRefusedError) as caught:
        check_update(update, ASKED, TABLE)
    return str(caught.value)


def test_a_site_answers_with_what_it_trained_and_annotates():
    assert list(expected_of(SITE, TABLE)) == ["w", "ct.norm", "out#background", "out#liver"]


def test_a_modality_that_only_evaluates_trains_nothing():
    site = replace(SITE, accounting={**SITE.accounting, "mr": studies.accounting(0)})

    assert "mr.norm" not in expected_of(site, TABLE)


def test_a_good_update_counts():
    check_update(studies.update(weights=sent()), ASKED, TABLE)
    check_update(studies.update(weights=sent(), affinities={"ct": AFFINITY}), ASKED, TABLE)


def without(name):
    return {key: array for key, array in sent().items() if key != name}


def replaced(name, array):
    return {**sent(), name: array}


ONES = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (without("w"), "w: is missing"),
        (replaced("v", ONES), "v: is not a parameter of this network"),
        ({**without("w"), "W": ONES}, "w: is missing"),
        (replaced("mr.norm", ONES[0]), "mr.norm: is not a parameter"),
        (replaced("out#spleen", ONES[0]), "out#spleen: is not a parameter"),
        (replaced("running", ONES[0]), "running: is not a parameter"),
        (replaced("w", ONES[:1]), "w: shape (1, 3), expected (2, 3)"),
        (replaced("w", ONES[0]), "w: shape (3,), expected (2, 3)"),
        (replaced("w", np.float32(1).reshape(())), "w: shape (), expected (2, 3)"),
        (replaced("w", ONES.T), "w: shape (3, 2), expected (2, 3)"),
        (replaced("w", ONES.astype(np.float64)), "w: type float64, expected float32"),
        (replaced("w", ONES.astype(np.int32)), "w: type int32, expected float32"),
        (replaced("w", ONES.astype(">f4")), "w: type >f4, expected float32"),
        (replaced("w", ONES * np.nan), "w: holds NaN or infinity"),
        (replaced("w", np.array([[1, 1, 1], [1, -np.inf, 1]], np.float32)), "w: holds NaN or"),
        ({}, "w: is missing"),
    ],
    ids=[
        "missing",
        "extra",
        "renamed",
        "norm of another modality",
        "head of a label that is not annotated",
        "what stays at the site",
        "broadcastable row",
        "broadcastable vector",
        "broadcastable scalar",
        "transposed",
        "another precision",
        "integers",
        "another byte order",
        "nan",
        "one infinity",
        "nothing",
    ],
)
def test_wrong_weights_are_refused_with_the_first_name_that_differs(weights, reason):
    update = studies.update()
    with pytest.raises(UpdateRefusedError) as caught:
        check_update(replace(update, weights=weights), ASKED, TABLE)

    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"site": "B"}, "answers for another site: 'B', expected 'A'"),
        ({"run": "run-2"}, "answers for another run: 'run-2', expected 'run-1'"),
        ({"study": "0" * 64}, "answers for another study: '0000"),
        ({"round": 2}, "answers for another round: '2', expected 1"),
        ({"cases": {"ct": 0}}, "reports 0 ct cases, expected 1 or more"),
        ({"cases": {"ct": -2}}, "reports -2 ct cases, expected 1 or more"),
        ({"cases": {"ct": 11}}, "reports 11 ct cases, but declared 10"),
        ({"cases": {"mr": 10}}, "reports modalities ['mr'], expected ['ct']"),
        ({"cases": {"ct": 10, "mr": 1}}, "reports modalities ['ct', 'mr'], expected ['ct']"),
        ({"steps": 0}, "reports 0 steps, expected 1 or more"),
        ({"steps": -1}, "reports -1 steps, expected 1 or more"),
    ],
    ids=[
        "site",
        "run",
        "study",
        "round before or after",
        "no cases",
        "negative cases",
        "more cases than declared",
        "another modality",
        "one more modality",
        "no steps",
        "negative steps",
    ],
)
def test_a_wrong_report_is_refused_with_its_reason(change, reason):
    assert refusal(**change).startswith(reason)


@pytest.mark.parametrize(
    ("affinities", "reason"),
    [
        ({"mr": AFFINITY}, "reports affinities of modalities that it does not have"),
        ({"ct": AFFINITY, "mr": AFFINITY}, "reports affinities of modalities that it does not"),
        (
            {"ct": replace(AFFINITY, sums=AFFINITY.sums[:2])},
            "its class affinities are not 3 x 3",
        ),
        (
            {"ct": replace(AFFINITY, sums=((1.0,) * 2,) * 3)},
            "its class affinities are not 3 x 3",
        ),
        ({"ct": replace(AFFINITY, counts=(1.0,) * 4)}, "its class affinities are not 3 x 3"),
        (
            {"ct": ClassAffinity(sums=((1.0,) * 2,) * 2, counts=(1.0,) * 2)},
            "its class affinities",
        ),
        ({"ct": replace(AFFINITY, sums=((np.nan,) * 3,) * 3)}, "its class affinities hold NaN"),
        ({"ct": replace(AFFINITY, sums=((np.inf,) * 3,) * 3)}, "its class affinities hold NaN"),
        ({"ct": replace(AFFINITY, counts=(1.0, -1.0, 1.0))}, "its class affinities hold NaN"),
        ({"ct": replace(AFFINITY, counts=(np.nan, 1.0, 1.0))}, "its class affinities hold NaN"),
    ],
    ids=[
        "of another modality",
        "of one more",
        "a row short",
        "a column short",
        "a count more",
        "of fewer classes",
        "nan",
        "infinity",
        "negative count",
        "count nan",
    ],
)
def test_wrong_affinities_are_refused(affinities, reason):
    assert refusal(affinities=affinities).startswith(reason)


def test_a_long_name_does_not_flood_the_log():
    assert len(refusal(replaced("x" * 10_000, ONES))) < 200
    assert len(refusal(site="x" * 10_000)) < 200


def test_the_norm_of_a_change_is_numpys_over_everything():
    rng = np.random.default_rng(0)
    before = {n: rng.normal(size=s).astype(np.float32) for n, s in (("a", (4, 5)), ("b", ()))}
    after = {n: (a + rng.normal(size=a.shape)).astype(np.float32) for n, a in before.items()}

    change = np.concatenate([(after[n].astype(float) - before[n]).ravel() for n in before])
    assert change_norm(after, before.__getitem__) == pytest.approx(np.linalg.norm(change))
    assert change_norm(before, before.__getitem__) == 0.0


CT, MR, BOTH = ("ct",), ("mr",), ("ct", "mr")


@pytest.mark.parametrize(
    ("sites", "refused"),
    [
        ({"A": (1.0, CT), "B": (1.1, CT), "C": (50.0, CT)}, {"C"}),
        ({"A": (1.0, CT), "B": (50.0, CT)}, {"B"}),
        ({"A": (1.0, CT), "B": (10.0, CT)}, set()),
        ({"A": (1.0, CT), "B": (50.0, MR)}, set()),
        ({"A": (1.0, CT), "B": (1.0, CT), "C": (50.0, MR)}, set()),
        ({"A": (1.0, CT), "B": (1.0, MR), "C": (50.0, BOTH)}, {"C"}),
        ({"A": (0.0, CT), "B": (0.0, CT)}, set()),
        ({"A": (50.0, CT)}, set()),
        ({}, set()),
    ],
    ids=[
        "one of three",
        "the wilder of two",
        "at the bound",
        "each alone in its modality",
        "alone beside two others",
        "of both modalities",
        "nobody moved",
        "one site",
        "nobody",
    ],
)
def test_a_change_far_above_the_others_of_its_modality_is_refused(sites, refused):
    norms = {site: norm for site, (norm, _) in sites.items()}
    modalities = {site: held for site, (_, held) in sites.items()}

    assert set(outliers(norms, modalities, 10.0)) == refused
    assert outliers(norms, modalities, 0.0) == {}


def test_a_site_alone_in_its_modality_stays_even_under_a_ratio_below_one():
    assert outliers({"A": 1.0, "B": 5.0}, {"A": CT, "B": MR}, 0.5) == {}


def test_the_reason_tells_the_norm_the_ratio_and_the_median():
    reason = outliers({"A": 1.0, "B": 50.0}, {"A": CT, "B": CT}, 10.0)["B"]

    assert reason == "its change has norm 50, more than 10 times the median 1 of its modality"


def score(**changes):
    good = Score(modality="ct", label="liver", metric="dice", value=0.8, cases=1)
    return replace(good, **changes)


HELD = replace(
    SITE, accounting={"ct": replace(SITE.accounting["ct"], validation=2, test=2, usable=14)}
)


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": 1e9},
        {"value": -0.1},
        {"value": float("nan")},
        {"label": "spleen"},
        {"modality": "mr"},
        {"cases": 3},
        {"cases": -1},
    ],
    ids=["above 1", "below 0", "not a number", "other label", "other modality", "many", "few"],
)
def test_a_score_that_a_site_cannot_have_does_not_choose_the_best_round(wrong):
    check_scores([score()], HELD)

    with pytest.raises(UpdateRefusedError):
        check_scores([score(), score(**wrong)], HELD)


def test_a_label_without_a_case_has_no_dice_and_that_is_no_fault():
    check_scores([score(value=float("nan"), cases=0)], HELD)


def test_a_comparison_outside_what_dice_can_differ_by_is_refused():
    difference = Difference(modality="ct", label="mean", mean=0.1, low=0.0, high=0.2, cases=2)
    evaluation = Evaluation(
        site="A", round=1, federated=(score(),), alone=(), skipped={}, seconds=1.0,
        differences=(difference,),
    )  # fmt: skip
    check_evaluation(evaluation, HELD)

    for wrong in (replace(difference, high=7.0), replace(difference, label="spleen")):
        with pytest.raises(UpdateRefusedError):
            check_evaluation(replace(evaluation, differences=(wrong,)), HELD)


def test_a_site_that_did_not_move_is_no_yardstick_for_the_others():
    assert not outliers({"A": 0.0, "B": 3.0}, {"A": ("ct",), "B": ("ct",)}, 10.0)


def test_a_tensor_of_denormals_alone_is_refused():
    weights = replaced("w", np.full_like(ONES, 1e-42))

    with pytest.raises(UpdateRefusedError, match="w: holds denormal numbers alone"):
        check_update(studies.update(weights=weights), ASKED, TABLE)


def test_a_tensor_of_zeros_is_an_update_like_any_other():
    check_update(studies.update(weights=replaced("w", np.zeros_like(ONES))), ASKED, TABLE)
