import pytest

from common.errors import InputError, StudyError
from common.study import Label, load_study, parse_study
from common.study.losses import Dice
from common.study.methods import FedProx
from common.study.typed import LARGEST_FILE_BYTES, parse_yaml
from tests.support.studies import ROOT, TEXT, text_with


def problems_of(text):
    with pytest.raises(StudyError) as caught:
        parse_study(text, "s.yaml")
    return caught.value.problems


def only_problem(text):
    (problem,) = problems_of(text)
    return problem


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "name: unet",
            "name: unett",
            "s.yaml, line 7: network.name: 'unett' is not known; known: aspp_nonlocal_unet, ",
        ),
        (
            "[4, 8]",
            "[wide, 8]",
            "s.yaml, line 7: network.channels.0: input should be a valid integer (found 'wide')",
        ),
        (
            "arbitrary",
            "arbitary",
            "s.yaml, line 6: modalities.mr.intensity: input should be 'hounsfield' or "
            "'arbitrary' (found 'arbitary')",
        ),
        ("name: small\n", "", "s.yaml, line 1: name: is missing"),
        ("name: small", "name: null", "s.yaml, line 1: name: input should be a valid string"),
        (
            "dimensions: 2",
            "dimensions: 4",
            "s.yaml, line 3: dimensions: input should be 2 or 3",
        ),
        ("spleen]", "no]", "s.yaml, line 2: labels.1: input should be an object (found False)"),
        (
            "{name: unet, ",
            "{",
            "s.yaml, line 7: network: has no name; expected one of unet, basic_unet, dynunet",
        ),
        ("name: unet", "name: [unet]", "s.yaml, line 7: network.name: ['unet'] is not known"),
        (
            "[32, 32]",
            "[32.0, 32]",
            "s.yaml, line 8: training.patch.0: input should be a valid int",
        ),
        (
            "[32, 32]",
            "[true, 32]",
            "s.yaml, line 8: training.patch.0: input should be a valid int",
        ),
        ("[-160, 240]", "[-160]", "s.yaml, line 5: modalities.ct.window.1: is missing"),
    ],
    ids=[
        "unknown network",
        "text for a number",
        "misspelt word",
        "missing",
        "null",
        "dimensions",
        "a label that YAML reads as false",
        "choice without a name",
        "choice named by a list",
        "fraction for a count",
        "truth for a count",
        "half a window",
    ],
)
def test_a_wrong_value_is_refused_with_its_place(old, new, problem):
    assert only_problem(text_with(old, new)).startswith(problem)


def test_an_unknown_key_is_refused_with_the_known_ones_and_the_nearest():
    problem = only_problem(text_with("patch:", "patchs:"))

    assert problem.startswith(
        "s.yaml, line 8: training.patchs: unknown key; known here: steps,"
    )
    assert problem.endswith("did you mean patch?")


def test_a_key_of_another_network_is_unknown():
    problem = only_problem(text_with("strides: [2]", "strides: [2], filters: [4]"))

    assert problem.startswith("s.yaml, line 7: network.filters: unknown key")


def test_an_unknown_network_is_told_with_the_nearest():
    assert only_problem(text_with("name: unet", "name: unett")).endswith("; did you mean unet?")


def test_all_problems_are_told_at_once():
    text = (
        TEXT.replace("spleen", "3").replace("name: unet", "name: wnet") + "sed: 1\nseed: one\n"
    )

    places = [problem.split(": ")[1] for problem in problems_of(text)]

    assert places == ["sed", "network.name", "labels.1", "seed"]


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("[liver,", "&x [liver,", "line 2: anchors and aliases are not allowed"),
        ("spleen]", "*x]", "line 2: anchors and aliases are not allowed"),
        ("[liver,", "!set [liver,", "line 2: the tag !set is not allowed"),
        ("name: small", "name: !!str small", "line 1: the tag tag:yaml.org,2002:str"),
        ("name: small", "name: !!python/name:os.system ''", "line 1: the tag tag:yaml.org"),
        ("dimensions: 2", "name: twice", "line 3: name is given twice"),
        ("[4, 8]", "[4, 8], channels: [4]", "line 7: channels is given twice"),
        ("name: small", "? [a]\n: small", "line 1: a key must be plain text"),
        ("[-160, 240]", "[.nan, 240]", "line 5: .nan is not a finite number"),
        ("[-160, 240]", "[-.inf, 240]", "line 5: -.inf is not a finite number"),
        ("[-160, 240]", "[-160, 1.0e+999]", "line 5: 1.0e+999 is not a finite number"),
        ("dimensions: 2", "dimensions: 0b_", "line 3: cannot be read as a number"),
        ("dimensions: 2", f"dimensions: {'1' * 5000}", "line 3: cannot be read as a number"),
        ("name: small", "name: [small", "line 2: is not valid YAML: expected ',' or ']'"),
        (
            "training:",
            "---\ntraining:",
            "line 8: is not valid YAML: but found another document",
        ),
        ("name: small", "name: \x01", ": is not valid YAML: cannot be read"),
        ("name: small", "name: " + "[" * 25 + "]" * 25, "nested deeper than 20 levels"),
        ("name: small", "name: " + "[" * 3000 + "]" * 3000, "nested deeper than 20 levels"),
    ],
    ids=[
        "anchor",
        "alias",
        "tag of a list",
        "standard tag",
        "tag of code",
        "duplicate key",
        "duplicate key inside",
        "key that is a list",
        "nan",
        "infinity",
        "overflow",
        "empty binary number",
        "very long number",
        "unclosed",
        "two documents",
        "control character",
        "deep",
        "very deep",
    ],
)
def test_yaml_of_more_than_one_reading_is_refused(old, new, what):
    problem = only_problem(text_with(old, new))

    assert problem.startswith("s.yaml")
    assert what in problem


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "s.yaml: is empty"),
        ("# a comment\n", "s.yaml: is empty"),
        ("- small\n", "s.yaml, line 1: a study is a mapping of keys"),
        ("small\n", "s.yaml, line 1: a study is a mapping of keys"),
    ],
    ids=["nothing", "comment", "list", "word"],
)
def test_what_is_no_mapping_is_refused(text, what):
    assert only_problem(text).startswith(what)


def test_a_file_too_large_is_refused_unread(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_bytes(b"\xff" * (LARGEST_FILE_BYTES + 1))

    with pytest.raises(StudyError, match="larger than 1000000 bytes, refused unread"):
        load_study(path)


def test_a_file_of_too_many_values_is_refused_before_they_are_read():
    with pytest.raises(InputError, match="study, line 2: more than 5000 values"):
        parse_yaml("a:\n  [" + "2," * 10_000 + "2]", "study")


def test_a_missing_or_binary_file_is_refused(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")

    with pytest.raises(StudyError, match=r"none\.yaml: cannot be read: No such file"):
        load_study(tmp_path / "none.yaml")
    with pytest.raises(StudyError, match=r"binary\.yaml: is not UTF-8 text"):
        load_study(tmp_path / "binary.yaml")


def test_a_file_is_named_as_the_person_gave_it(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(text_with("dimensions: 2", "dimensions: two"))

    with pytest.raises(StudyError) as caught:
        load_study(path)

    assert str(caught.value).startswith(f"{path}, line 3: dimensions: ")


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1.0e-3", "0.001", "+1e-3"])
def test_numbers_with_an_exponent_are_numbers(number):
    study = parse_study(text_with("[32, 32]", f"[32, 32], learning_rate: {number}"))

    assert study.training.learning_rate == 0.001


def test_quoted_text_that_looks_like_a_number_stays_text():
    assert parse_study(text_with("[liver, spleen]", '[liver, "e1"]')).label_names[1] == "e1"
    assert "labels.0" in only_problem(text_with("[liver, spleen]", "[1e1, spleen]"))


def test_short_forms_mean_the_long_ones():
    text = text_with("{name: unet, channels: [4, 8], strides: [2]}", "unet")
    study = parse_study(text + "loss: dice\nfederation: {method: fedprox}\n")

    assert study.labels == (Label(name="liver"), Label(name="spleen"))
    assert (study.network.name, study.loss) == ("unet", Dice())
    assert study.federation.method == FedProx()


def test_a_study_of_one_slice_has_a_flat_patch_by_default():
    study = parse_study(text_with("training: {patch: [32, 32]}\n", ""))

    assert study.training.patch == (128, 128)


@pytest.mark.parametrize("path", sorted(ROOT.glob("deploy/studies/**/study.yaml")), ids=str)
def test_the_studies_that_come_with_the_project_can_be_read(path):
    assert load_study(path).label_names
