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

    assert records[0].array_records["weights"]["all"] is arrays["all"]
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


def file_of(weights):
    return protocol.pack_weights(weights)["all"].data


def with_header(change):
    """Return a file of three zeros whose header says something else of them."""
    whole = file_of({"w": np.zeros(3)})
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + whole[8 + length :]


def says(**fields):
    return lambda header: header["w"].update(fields)


WHOLE = file_of({"w": np.zeros(3)})
FORGED = {
    "a pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00}\x94.",
    "a broken archive": b"PK\x03\x04" + b"\0" * 30,
    "nothing": b"",
    "no format": b"weights",
    "cut": WHOLE[:-1],
    "cut in the header": WHOLE[:20],
    "spare bytes": WHOLE + b"\0" * 8,
    "a header of 2 GB": (2**31).to_bytes(8, "little") + WHOLE[8:],
    "a huge shape": with_header(says(shape=[10**12])),
    "a shape beyond numbers": with_header(says(shape=[10**25])),
    "a negative shape": with_header(says(shape=[-3])),
    "overlapping offsets": with_header(says(data_offsets=[-8, 16])),
    "objects": with_header(says(dtype="O")),
    "an unclosed header": WHOLE.replace(b"}}", b"{{"),
}


def record_of(data, form=protocol._FORMAT):
    forged = Array(dtype="uint8", shape=(len(data),), stype=form, data=data)
    return RecordDict({"weights": ArrayRecord({"all": forged})})


@pytest.mark.parametrize("data", FORGED.values(), ids=FORGED)
def test_arrays_that_are_no_safetensors_file_are_refused(data):
    with pytest.raises(UpdateRefusedError, match="an array cannot be read"):
        protocol.unpack_weights(record_of(data))


@pytest.mark.parametrize("form", ["numpy.ndarray", "pickle", ""])
def test_arrays_of_another_serialisation_are_refused(form):
    with pytest.raises(UpdateRefusedError, match="it is not of our format"):
        protocol.unpack_weights(record_of(WHOLE, form))


def test_one_name_in_two_files_is_refused():
    twice = ArrayRecord({kind: protocol.pack_weights(WEIGHTS)["all"] for kind in ("a", "b")})

    with pytest.raises(UpdateRefusedError, match="it is there twice"):
        protocol.unpack_weights(RecordDict({"weights": twice}))


def test_each_kind_of_parameter_is_one_array_on_the_wire():
    kinds = {name: "shared" if i % 2 else "modality:ct" for i, name in enumerate(WEIGHTS)}

    record = protocol.pack_weights(WEIGHTS, kinds)

    assert set(record) == set(kinds.values())
    found = protocol.unpack_weights(RecordDict({"weights": record}))
    assert_same_weights({name: found[name] for name in WEIGHTS}, WEIGHTS)


@checked
@given(st.binary(max_size=60), st.integers(0, 150))
def test_whatever_the_bytes_reading_an_array_never_fails_otherwise(noise, place):
    data = WHOLE[:place] + noise + WHOLE[place + len(noise) :]

    try:
        found = protocol.unpack_weights(record_of(data))
    except UpdateRefusedError:
        return
    assert all(isinstance(array, np.ndarray) for array in found.values())


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
