import pytest

from common.errors import StudyError
from common.study import parse_study
from common.study.losses import Boundary, Dice, Focal, Sum, Term, WeightedCrossEntropy
from tests.support.studies import TEXT


def loss_of(text):
    return parse_study(f"{TEXT}loss: {text}\n").loss


def test_a_sum_is_written_with_short_forms_of_its_terms():
    found = loss_of(
        "{name: sum, terms: [{loss: dice, weight: 1.0},"
        " {loss: {name: boundary}, weight: 0.01, end_weight: 1.0}]}"
    )

    assert found == Sum(
        terms=(Term(loss=Dice()), Term(loss=Boundary(), weight=0.01, end_weight=1.0))
    )


def test_weights_and_factors_are_read():
    weighted = loss_of("{name: weighted_cross_entropy, weights: [0.1, 1, 2]}")

    assert weighted == WeightedCrossEntropy(weights=(0.1, 1.0, 2.0))
    assert loss_of("{name: focal, alpha: null}") == Focal()
    assert loss_of("{name: focal, alpha: 0.75}") == Focal(alpha=0.75)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sum", "loss.terms: is missing"),
        ("{name: sum, terms: []}", "loss.terms: has 0 terms, expected 1 to 8"),
        (f"{{name: sum, terms: [{'{loss: dice}, ' * 9}]}}", "loss.terms: has 9 terms"),
        ("{name: sum, terms: [dice]}", "loss.terms.0: input should be an object"),
        ("{name: sum, terms: [{loss: dicee}]}", "loss.terms.0.loss.name: 'dicee' is not known"),
        ("{name: sum, terms: [{loss: sum}]}", "loss.terms.0.loss.name: 'sum' is not known"),
        (
            "{name: sum, terms: [{loss: {name: dice, squred: true}}]}",
            "loss.terms.0.loss.squred: unknown key",
        ),
        (
            "{name: sum, terms: [{loss: {name: focal, gamma: x}}]}",
            "loss.terms.0.loss.gamma: input should be a valid number",
        ),
        (
            "{name: sum, terms: [{loss: dice}, {loss: {name: focal, gamma: 11}}]}",
            "loss.terms.1.loss.gamma: is 11.0, expected 0 to 10",
        ),
        (
            "{name: sum, terms: [{loss: dice, weight: -1}]}",
            "loss.terms.0.weight: is -1.0, expected 0 to 1e+06",
        ),
        (
            "{name: sum, terms: [{loss: dice, end_weight: -1}]}",
            "loss.terms.0.end_weight: is -1.0, expected 0",
        ),
        (
            "{name: sum, terms: [{loss: dice, end_weight: 2, between: constant}]}",
            "loss.terms.0.end_weight: is 2.0, which a constant weight of 1.0 never is",
        ),
        (
            "{name: sum, terms: [{loss: dice, weight: 0, end_weight: 1}]}",
            "loss.terms: every weight is 0 at the start",
        ),
        (
            "{name: sum, terms: [{loss: dice, end_weight: 0}]}",
            "loss.terms: every weight is 0 at the end",
        ),
        (
            "{name: sum, terms: [{loss: {name: weighted_cross_entropy, weights: [1, 2]}}]}",
            "loss.terms.0.loss.weights: has 2 numbers, expected 3: the background and each",
        ),
        (
            "{name: weighted_cross_entropy, weights: [1, 1, 1, 1]}",
            "loss.weights: has 4 numbers, expected 3",
        ),
        (
            "{name: weighted_cross_entropy, weights: [1, -1, 1]}",
            "loss.weights: has [1.0, -1.0, 1.0], expected 0 to 1e+06 each",
        ),
        ("{name: weighted_cross_entropy, weights: [0, 0, 1]}", "loss.weights: needs two"),
        (
            "{name: distance_weighted_cross_entropy, border_width: 0}",
            "loss.border_width: is 0.0, expected 0.1 to 100",
        ),
        ("{name: focal, alpha: 2}", "loss.alpha: is 2.0, expected 0 to 1"),
        ("{name: focal, gamma: -1}", "loss.gamma: is -1.0, expected 0 to 10"),
        ("{name: tversky, false_positives: 2}", "loss.false_positives: is 2.0, expected 0"),
        (
            "{name: tversky, false_positives: 0, false_negatives: 0}",
            "loss.false_positives: both weights are 0, expected one above 0",
        ),
        ("{name: hausdorff, exponent: 9}", "loss.exponent: is 9.0, expected 0.5 to 4"),
        ("{name: cldice, iterations: 0}", "loss.iterations: is 0, expected 1 to 50"),
        ("{name: unified_focal, gamma: 1}", "loss.gamma: is 1.0, expected 0 to 0.9"),
        (
            "{name: exponential_logarithmic, dice_exponent: 0}",
            "loss.dice_exponent: is 0.0, expected 0.1 to 5",
        ),
        (
            "{name: exponential_logarithmic, dice_weight: 0, cross_entropy_weight: 0}",
            "loss.dice_weight: both weights are 0",
        ),
        ("{name: dice_ce, dice_weight: -1}", "loss.dice_weight: weights must not be negative"),
        ("{name: generalized_dice, weighting: cubic}", "loss.weighting: input should be"),
    ],
)
def test_a_loss_that_cannot_be_is_refused_with_the_path_of_the_field(text, problem):
    with pytest.raises(StudyError) as caught:
        loss_of(text)

    assert len(caught.value.problems) == 1
    assert problem in caught.value.problems[0]


def test_a_problem_of_a_term_names_its_line():
    with pytest.raises(StudyError) as caught:
        loss_of("\n  name: sum\n  terms:\n    - loss: dice\n    - loss: dice\n      weight: -1")

    assert "line 14: loss.terms.1.weight: " in caught.value.problems[0]
