import io
import json
import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from common import bodies, protocol
from common.errors import UpdateRefusedError
from common.messages import (
    AloneJob,
    AloneReport,
    ClassAffinity,
    Context,
    Difference,
    EvaluateJob,
    Evaluation,
    Failure,
    IntensityTotals,
    Pooled,
    Score,
    TrainJob,
    Update,
    UpdateReport,
)
from tests.support.strategies import checked, named_weights
from tests.support.studies import enrolment, update

AFFINITY = ClassAffinity(sums=((1.0, -2.5), (0.1, 1e300)), counts=(3.0, 0.0))
CONTEXT = Context(run="run-1", study='{"name":"small"}', round=3)
POOLED = Pooled(statistics={"ct": ((40.0, 120.5),)}, affinities={"mr": AFFINITY})
SCORE = Score(modality="ct", label="liver", metric="dice", value=0.1 + 0.2, cases=3)
CHANGE = Difference(modality="ct", label="mean", mean=0.1, low=-0.1, high=0.3, cases=4)
JOB = {"context": CONTEXT, "pooled": POOLED, "kinds": {"w": "shared", "s": "head:liver"}}
WEIGHTS = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "s": np.array(-0.0),
    "e": np.empty((0, 2), np.float16),
}
PLAIN = [
    CONTEXT,
    enrolment(totals={"ct": (IntensityTotals(count=3, total=1.5, squares=2.0),)}),
    Evaluation(
        site="A",
        round=3,
        federated=(SCORE,),
        alone=(),
        differences=(CHANGE,),
        skipped={"ct": {"unreadable": 2}},
        seconds=1.5,
    ),
    AloneReport(site="A", steps=3, best_round=2, seconds=0.5),
]
WITH_ARRAYS = [
    TrainJob(validate=True, weights=WEIGHTS, **JOB),
    EvaluateJob(part="test", weights=WEIGHTS, **JOB),
    AloneJob(weights=WEIGHTS, **JOB),
    update(weights=WEIGHTS, scores=(SCORE,), affinities={"ct": AFFINITY}),
]


def kind_of(message):
    return type(message).__name__


def assert_same_weights(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("message", PLAIN, ids=kind_of)
def test_a_message_without_arrays_comes_back_equal(message):
    assert protocol.unpack(type(message), protocol.pack(message)) == message


@pytest.mark.parametrize("message", WITH_ARRAYS, ids=kind_of)
def test_a_message_with_arrays_comes_back_equal_bit_for_bit(message):
    found = protocol.unpack(type(message), protocol.pack(message))

    assert_same_weights(found.weights, message.weights)
    assert {**vars(found), "weights": None} == {**vars(message), "weights": None}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_a_loss_that_is_no_number_comes_back_as_it_was(value):
    found = protocol.unpack(Update, protocol.pack(update(loss=value)))

    assert str(found.report.loss) == str(value)


@checked
@given(named_weights())
def test_any_weights_cross_the_wire_bit_for_bit(weights):
    records = protocol.pack(update(weights=weights or {"w": np.ones(1)}))

    assert_same_weights(protocol.unpack(Update, records).weights, weights or {"w": np.ones(1)})


def test_arrays_packed_once_are_sent_to_many_without_a_copy():
    arrays = protocol.pack_weights(WEIGHTS)

    records = [protocol.pack(WITH_ARRAYS[0], arrays) for _ in range(2)]

    assert records[0].array_records["weights"]["w"] is arrays["w"]
    assert_same_weights(protocol.unpack(TrainJob, records[1]).weights, WEIGHTS)


def test_the_size_on_the_wire_is_arrays_and_text():
    records = protocol.pack(WITH_ARRAYS[0])

    text = records.config_records["fedseg"]["body"]
    arrays = sum(len(a.data) for a in records.array_records["weights"].values())
    assert protocol.size_bytes(records) == len(text.encode()) + arrays


def records_of(body, weights=None):
    records = RecordDict({"fedseg": ConfigRecord({"body": body})})
    if weights is not None:
        records["weights"] = weights
    return records


def body_of(message, **changes):
    body = json.loads(protocol.pack(message).config_records["fedseg"]["body"])
    return json.dumps({**body, **changes})


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (RecordDict(), "the answer lacks its record"),
        (RecordDict({"fedseg": ConfigRecord({})}), "the answer lacks its record"),
        (RecordDict({"weights": ArrayRecord({})}), "the answer lacks its record"),
        (records_of(b"{}"), "the answer's record is no text of a sensible size"),
        (records_of(3), "the answer's record is no text of a sensible size"),
        (records_of("not json"), "the answer's record is not JSON"),
        (records_of("[" * 100_000), "the answer's record is not JSON"),
        (records_of("[]"), ": input should be an object"),
        (records_of("{}"), "run: is missing"),
        (records_of(body_of(CONTEXT, more=1)), "more: unknown key"),
        (records_of(body_of(CONTEXT, round="3")), "round: input should be a valid integer"),
        (records_of(body_of(CONTEXT, round=True)), "round: input should be a valid integer"),
        (records_of(body_of(CONTEXT, run=None)), "run: input should be a valid string"),
    ],
    ids=[
        "nothing",
        "no body",
        "other records",
        "bytes",
        "number",
        "no json",
        "deep json",
        "list",
        "no fields",
        "another field",
        "text for a number",
        "truth for a number",
        "null",
    ],
)
def test_a_malformed_record_is_refused_with_what_is_wrong(records, reason):
    with pytest.raises(UpdateRefusedError) as caught:
        protocol.unpack(Context, records)

    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"report": None}, "input should be an object"),
        ({"report": {}}, "site: is missing"),
        ({"weights": {}}, "the answer's record has other fields than expected"),
        ({"more": 1}, "the answer's record has other fields than expected"),
    ],
    ids=["null", "empty", "weights in the text", "another field"],
)
def test_a_malformed_update_is_refused(change, reason):
    records = records_of(body_of(update(), **change), protocol.pack_weights(WEIGHTS))

    with pytest.raises(UpdateRefusedError, match=reason):
        protocol.unpack(Update, records)


def test_an_update_that_is_a_list_or_without_arrays_is_refused():
    with pytest.raises(UpdateRefusedError, match="other fields than expected"):
        protocol.unpack(Update, records_of("[]", protocol.pack_weights(WEIGHTS)))
    with pytest.raises(UpdateRefusedError, match="the answer has no arrays"):
        protocol.unpack(Update, records_of(body_of(update())))


def test_a_body_too_long_is_refused_unparsed(monkeypatch):
    monkeypatch.setattr(bodies, "LARGEST_BODY_CHARACTERS", 10)

    with pytest.raises(UpdateRefusedError, match="no text of a sensible size"):
        protocol.unpack(Context, protocol.pack(CONTEXT))


def saved(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def archive():
    file = io.BytesIO()
    np.savez(file, w=np.ones(3))
    return file.getvalue()


def with_shape(text):
    return saved(np.zeros(3)).replace(b"(3,), }".ljust(40), f"({text},), }}".encode().ljust(40))


FORGED = {
    "pickled objects": saved(np.array([{}], dtype=object), allow_pickle=True),
    "a pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00}\x94.",
    "an archive": archive(),
    "a broken archive": b"PK\x03\x04" + b"\0" * 30,
    "nothing": b"",
    "no format": b"weights",
    "cut": saved(np.zeros(3))[:-1],
    "cut in the header": saved(np.zeros(3))[:40],
    "a huge header": b"\x93NUMPY\x03\x00\xff\xff\xff\xff",
    "a huge shape": with_shape("9" * 15),
    "a shape beyond numbers": with_shape("9" * 25),
    "a negative shape": with_shape("-3"),
    "an unclosed header": saved(np.zeros(3)).replace(b"(3,), }", b"((((((("),
}


@pytest.mark.parametrize("data", FORGED.values(), ids=FORGED)
def test_arrays_that_are_not_numpys_own_are_refused(data):
    forged = Array(dtype="float64", shape=(3,), stype="numpy.ndarray", data=data)

    with pytest.raises(UpdateRefusedError, match="an array cannot be read"):
        protocol.unpack_weights(RecordDict({"weights": ArrayRecord({"w": forged})}))


def test_arrays_of_another_serialisation_are_refused():
    forged = Array(dtype="float64", shape=(3,), stype="pickle", data=saved(np.zeros(3)))

    with pytest.raises(UpdateRefusedError, match="an array cannot be read: TypeError"):
        protocol.unpack_weights(RecordDict({"weights": ArrayRecord({"w": forged})}))


@checked
@given(st.binary(max_size=60), st.integers(0, 150))
def test_whatever_the_bytes_reading_an_array_never_fails_otherwise(noise, place):
    whole = saved(np.zeros(3))
    data = whole[:place] + noise + whole[place + len(noise) :]
    forged = Array(dtype="float64", shape=(3,), stype="numpy.ndarray", data=data)

    try:
        found = protocol.unpack_weights(RecordDict({"weights": ArrayRecord({"w": forged})}))
    except UpdateRefusedError:
        return
    assert isinstance(found["w"], np.ndarray)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@checked
@given(json_values, st.sampled_from(list(UpdateReport.__dataclass_fields__)))
def test_whatever_a_site_writes_is_a_report_or_refused(value, field):
    report = {**json.loads(body_of(update()))["report"], field: value}
    records = records_of(json.dumps({"report": report}), protocol.pack_weights(WEIGHTS))

    try:
        found = protocol.unpack(Update, records)
    except UpdateRefusedError:
        return
    assert isinstance(found.report, UpdateReport)


def test_a_failure_is_no_answer_and_an_answer_no_failure():
    failure = Failure(code="CaseError", sentence="a case of the site cannot be used")
    records = protocol.pack_failure(failure)

    assert protocol.unpack_failure(records) == failure
    assert protocol.unpack_failure(protocol.pack(CONTEXT)) is None
    with pytest.raises(UpdateRefusedError, match="lacks its record"):
        protocol.unpack(Context, records)


def test_a_failure_cannot_flood_the_log():
    long = Failure(code="x" * 10_000, sentence="y" * 10_000)

    found = protocol.unpack_failure(protocol.pack_failure(long))

    assert (len(found.code), len(found.sentence)) == (60, 300)
