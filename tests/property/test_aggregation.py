import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UpdateRefusedError
from server.aggregators.mean import site_weights, weighted_mean
from tests.support.strategies import arrays, case_counts, checked, floating, shapes, updates


def ulps(found, expected):
    """Return the largest distance in units of the last place."""
    distance = np.abs(found.astype(np.longdouble) - expected.astype(np.longdouble))
    return float(np.max(distance / np.spacing(np.abs(expected)), initial=0))


@checked
@given(updates(), st.randoms(use_true_random=False))
def test_the_order_of_sites_does_not_matter_to_the_last_bit_once_they_are_sorted(sent, shuffle):
    sites = {f"site-{i}": pair for i, pair in enumerate(zip(*sent, strict=True))}
    turned = list(sites)
    shuffle.shuffle(turned)

    def fold_in_site_order(names):
        cases = {name: {"ct": sites[name][1]} for name in names}
        weights = site_weights(cases, "shared", balance_modalities=True)
        return weighted_mean((sites[name][0] for name in weights), list(weights.values()))

    assert fold_in_site_order(turned).tobytes() == fold_in_site_order(sites).tobytes()


@checked
@given(updates(), st.integers(-20, 20))
def test_the_scale_of_the_weights_does_not_matter(sent, power):
    arrays, counts = sent

    scaled = weighted_mean(arrays, [count * 2.0**power for count in counts])

    assert scaled.tobytes() == weighted_mean(arrays, counts).tobytes()


@checked
@given(updates())
def test_the_mean_lies_within_the_extremes_up_to_rounding(sent):
    arrays, counts = sent

    mean = weighted_mean(arrays, counts)

    # The weights sum to 1 only to a few units of float64; half and single precision round that
    # away, double precision shows it.
    slack = 8 * np.finfo(np.float64).eps if mean.dtype == np.float64 else 0
    largest = np.max(np.abs(arrays), axis=0) * slack
    assert (mean >= np.min(arrays, axis=0) - largest).all()
    assert (mean <= np.max(arrays, axis=0) + largest).all()


@checked
@given(updates())
def test_type_shape_and_inputs_are_kept(sent):
    arrays, counts = sent
    before = [array.copy() for array in arrays]

    mean = weighted_mean(arrays, counts)

    assert (mean.dtype, mean.shape) == (arrays[0].dtype, arrays[0].shape)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(arrays, before, strict=True))
    assert not any(np.shares_memory(mean, array) for array in arrays)


@checked
@given(updates(max_sites=1))
def test_one_site_alone_keeps_its_bits(sent):
    arrays, counts = sent

    assert weighted_mean(arrays, counts).tobytes() == arrays[0].tobytes()


@checked
@given(
    floating.flatmap(lambda d: shapes.flatmap(lambda s: arrays(d, s))),
    st.lists(case_counts, min_size=2, max_size=6),
)
def test_equal_arrays_stay_what_they_are(array, counts):
    mean = weighted_mean([array] * len(counts), counts)

    if array.dtype == np.float64:
        assert ulps(mean, array) <= 4
    else:
        np.testing.assert_array_equal(mean, array)


@checked
@given(updates(min_sites=2))
def test_the_mean_is_numpys_average(sent):
    arrays, counts = sent

    expected = np.average(np.asarray(arrays, np.longdouble), axis=0, weights=counts)

    size = max(float(np.max(np.abs(arrays), initial=0)), 1e-300)
    found = weighted_mean(arrays, counts).astype(np.float64)
    rounding = float(np.finfo(arrays[0].dtype).eps)
    np.testing.assert_allclose(found / size, expected / size, rtol=0, atol=rounding)


ONES = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("arrays", "weights", "reason"),
    [
        ([], [], "there is no update to average"),
        ([ONES], [1, 1], "1 arrays for 2 weights"),
        ([ONES, ONES], [1], "more arrays than weights"),
        ([ONES, ONES], [1, 0], "expected each above 0"),
        ([ONES, ONES], [3, -2], "expected each above 0"),
        ([ONES, ONES], [1, np.nan], "expected each above 0"),
        ([ONES, ONES], [1, np.inf], "expected each above 0"),
        ([ONES, ONES[0]], [1, 1], r"shape \(3,\) of float32, expected \(2, 3\)"),
        ([ONES, ONES[:1]], [1, 1], r"shape \(1, 3\) of float32, expected \(2, 3\)"),
        ([ONES, np.float32(1).reshape(())], [1, 1], r"shape \(\) of float32"),
        ([ONES, ONES.astype(np.float64)], [1, 1], "of float64, expected"),
        ([ONES.astype(np.int64)], [1], "an array of int64; only floating ones"),
        ([ONES > 0], [1], "an array of bool; only floating ones"),
        ([ONES * 1j], [1], "an array of complex64; only floating ones"),
    ],
    ids=[
        "nobody",
        "fewer arrays",
        "more arrays",
        "weight 0",
        "negative weight",
        "weight nan",
        "weight infinite",
        "broadcastable row",
        "broadcastable first axis",
        "broadcastable scalar",
        "another precision",
        "integers",
        "truth values",
        "complex numbers",
    ],
)
def test_what_has_no_mean_is_refused(arrays, weights, reason):
    with pytest.raises(UpdateRefusedError, match=reason):
        weighted_mean(arrays, weights)


modalities = st.dictionaries(
    st.sampled_from(["ct", "mr", "pet"]), st.integers(0, 500), min_size=1
)
sites = st.dictionaries(st.sampled_from("ABCDE"), modalities, min_size=1)


@checked
@given(sites, st.booleans())
def test_weights_sum_to_one_in_site_order_and_leave_out_who_has_nothing(cases, balance):
    weights = site_weights(cases, "shared", balance_modalities=balance)

    assert list(weights) == sorted(site for site in cases if any(cases[site].values()))
    assert sum(weights.values()) == pytest.approx(1.0 if weights else 0.0)
    assert all(weight > 0 for weight in weights.values())


@checked
@given(
    st.lists(case_counts, min_size=1, max_size=4), st.lists(case_counts, min_size=1, max_size=4)
)
def test_balanced_modalities_weigh_the_same_however_many_cases_they_have(ct, mr):
    cases = {f"ct-{i}": {"ct": n} for i, n in enumerate(ct)}
    cases |= {f"mr-{i}": {"mr": n} for i, n in enumerate(mr)}

    weights = site_weights(cases, "shared", balance_modalities=True)

    assert sum(w for s, w in weights.items() if s[:2] == "ct") == pytest.approx(0.5)
    assert weights["ct-0"] == pytest.approx(0.5 * ct[0] / sum(ct))


@checked
@given(sites)
def test_unbalanced_a_site_weighs_its_share_of_all_cases(cases):
    weights = site_weights(cases, "shared", balance_modalities=False)

    total = sum(sum(by.values()) for by in cases.values())
    for site, weight in weights.items():
        assert weight == pytest.approx(sum(cases[site].values()) / total)


@checked
@given(sites, st.booleans())
def test_a_modality_parameter_is_weighted_by_that_modality_alone(cases, balance):
    weights = site_weights(cases, "modality:ct", balance_modalities=balance)

    having = {site: by["ct"] for site, by in cases.items() if by.get("ct")}
    assert weights == pytest.approx({s: n / sum(having.values()) for s, n in having.items()})


@checked
@given(sites, st.booleans())
def test_a_head_is_weighted_as_a_shared_parameter_is(cases, balance):
    head = site_weights(cases, "head:liver", balance_modalities=balance)

    assert head == site_weights(cases, "shared", balance_modalities=balance)
