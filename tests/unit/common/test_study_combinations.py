import pytest

from common.errors import StudyError
from common.study import parse_study
from tests.support.studies import TEXT, text_with


def problems_of(text):
    with pytest.raises(StudyError) as caught:
        parse_study(text, "s.yaml")
    return caught.value.problems


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "[32, 32]",
            "[31, 32]",
            "line 8: training.patch: is [31, 32], but network unet needs sides that are "
            "multiples of 2, at least 4; the nearest that works is [32, 32]",
        ),
        ("[32, 32]", "[2, 32]", "at least 4; the nearest that works is [4, 32]"),
        ("[32, 32]", "[32, 32, 32]", "training.patch: has 3 numbers, expected 2, one for each"),
        (
            "[32, 32]",
            "[32, 32], epochs: 2",
            "steps is 50 and epochs is 2; expected exactly one",
        ),
        ("[32, 32]", "[32, 32], steps: 0", "steps is 0 and epochs is 0; expected exactly one"),
        ("[32, 32]", "[32, 32], batch: 0", "training.batch: is 0, expected 1 to 4096"),
        (", window: [-160, 240]", "", "line 5: modalities.ct: has no window; hounsfield needs"),
        (
            "[-160, 240]",
            "[240, -160]",
            "modalities.ct.window: is [240.0, -160.0], expected the",
        ),
        ("[liver, spleen]", "[]", "line 2: labels: is empty; expected at least one structure"),
        ("spleen]", "liver]", "labels.1: liver is listed twice"),
        ("spleen]", "background]", "labels.1: background is always there and is not listed"),
        (
            "spleen]",
            "Left Lung]",
            "labels.1: 'Left Lung' is no usable name; expected lower-case",
        ),
        ("spleen]", "a.b#c]", "labels.1: 'a.b#c' is no usable name"),
        ("name: small", "name: ../up", "line 1: name: '../up' is no usable name"),
        ("  mr:", "  mr.bank:", "line 6: modalities.mr.bank: 'mr.bank' is no usable name"),
        ("strides: [2]", "strides: [0]", "network.strides: has [0], expected each 1, 2 or 4"),
        (
            "strides: [2]",
            "strides: [2, 2]",
            "network.strides: has 2 entries, expected 1: one fewer",
        ),
        (
            "strides: [2]",
            "strides: [2], kernel_size: 4",
            "network.kernel_size: is 4, expected 1, 3",
        ),
        (
            "strides: [2]",
            "strides: [2], dropout: 1.0",
            "network.dropout: is 1.0, expected from 0",
        ),
        (
            "strides: [2]",
            "strides: [2], residual_units: -1",
            "residual_units: is -1, expected 0",
        ),
        ("[4, 8]", "[4, 0]", "network.channels: has [4, 0], expected each from 1 to 4096"),
    ],
    ids=[
        "patch no multiple of the divisor",
        "patch too small",
        "patch of other dimensions",
        "both steps and epochs",
        "neither steps nor epochs",
        "empty batch",
        "hounsfield without window",
        "window upside down",
        "no labels",
        "label twice",
        "background listed",
        "label with a space",
        "label with signs of the wire",
        "name that climbs",
        "modality with a dot",
        "stride of nothing",
        "strides that do not fit the levels",
        "even kernel",
        "everything dropped",
        "negative units",
        "level without channels",
    ],
)
def test_an_impossible_combination_is_refused_with_its_place_and_the_cure(old, new, problem):
    assert any(problem in found for found in problems_of(text_with(old, new)))


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("spacing_mm: [1.0]", "spacing_mm: has 1 numbers, expected 2"),
        ("spacing_mm: [0.0, 1.0]", "spacing_mm: is [0.0, 1.0], expected 0.01 to 100 mm each"),
        ("channels: 0", "channels: is 0, expected 1 or more"),
        ("seed: -1", "seed: is -1, expected 0 to 4294967295"),
        ("federation: {rounds: 0}", "federation.rounds: is 0, expected 1 to 100000"),
        ("federation: {minimum_sites: 0}", "federation.minimum_sites: is 0, expected 1"),
        ("federation: {method: {name: fedprox, mu: -1}}", "federation.method.mu: is -1.0"),
        ("evaluation: {overlap: 1.0}", "evaluation.overlap: is 1.0, expected 0.0 to 0.9"),
        (
            "evaluation: {test: 0.6, validation: 0.6}",
            "evaluation: validation and test together",
        ),
        ("distillation: {temperature: 0}", "distillation.temperature: is 0.0, expected 0.01"),
        ("augmentation: {probability: 2}", "augmentation.probability: is 2.0, expected 0 to 1"),
        (
            "augmentation: {flip_axes: [2]}",
            "augmentation.flip_axes: has axis 2, expected 0 to 1",
        ),
        ("loss: {name: dice_ce, dice_weight: -1}", "loss.dice_weight: weights must not be"),
        (
            "loss: {name: dice_ce, dice_weight: 0, cross_entropy_weight: 0}",
            "loss.dice_weight: both weights are 0, expected one above 0",
        ),
    ],
    ids=lambda value: value if value.endswith(("}", "]")) else None,
)
def test_a_value_out_of_range_is_refused_with_the_range(section, problem):
    assert any(problem in found for found in problems_of(f"{TEXT}{section}\n"))


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("{name: basic_unet, features: [4, 8]}", "network.features: has 2 entries, expected 6"),
        (
            "{name: dynunet, filters: [4, 8], strides: [2]}",
            "filters: has 2 entries, expected 3",
        ),
        ("{name: dynunet, strides: [4, 2, 2]}", "strides: has [4, 2, 2], expected each 1 or 2"),
        (
            "{name: dynunet, strides: [2]}",
            "network.strides: has 1 entries, expected 3: one fewer",
        ),
        ("{name: unet, channels: [4], strides: []}", "network.channels: has 1 entries"),
    ],
    ids=["pooling", "shallow", "wide stride", "levels", "one level"],
)
def test_a_network_that_cannot_be_built_is_refused(section, problem):
    text = text_with("{name: unet, channels: [4, 8], strides: [2]}", section)

    assert any(problem in found for found in problems_of(text))


def test_a_study_without_modalities_is_refused():
    text = text_with("  ct: {intensity: hounsfield, window: [-160, 240]}\n", "")
    text = text_with("modalities:\n  mr: {intensity: arbitrary}", "modalities: {}", text=text)

    (problem,) = problems_of(text)

    assert "modalities: is empty; expected at least one, e.g. ct or mr" in problem


def test_a_flip_that_would_swap_sides_is_refused():
    text = text_with("spleen]", "{name: left_kidney, side: left}]")

    (problem,) = problems_of(text + "augmentation: {flip_axes: [0, 1]}\n")

    assert problem.startswith("s.yaml, line 9: augmentation.flip_axes: has axis 0 (left-right)")
    assert parse_study(text + "augmentation: {flip_axes: [1]}\n").has_sides


def test_impossible_combinations_are_told_at_once():
    text = TEXT.replace("[32, 32]", "[31, 32]").replace("spleen", "liver") + "seed: -1\n"

    assert len(problems_of(text)) == 3
