import numpy as np
import pytest

from common.errors import InputError
from common.statistics import bootstrap_mean_interval


def interval(values, seed=0, **options):
    return bootstrap_mean_interval(
        np.asarray(values, float), rng=np.random.default_rng(seed), **options
    )


def test_the_interval_of_many_normal_values_is_that_of_theory():
    values = np.random.default_rng(1).normal(5.0, 2.0, size=400)

    low, high = interval(values)

    half = 1.96 * values.std(ddof=1) / np.sqrt(values.size)
    assert low == pytest.approx(values.mean() - half, abs=0.05)
    assert high == pytest.approx(values.mean() + half, abs=0.05)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    samples = rng.normal(size=(200, 40))

    hits = [low <= 0.0 <= high for low, high in (interval(s, samples=400) for s in samples)]

    assert 0.88 <= np.mean(hits) <= 0.99


def test_one_value_has_no_spread():
    assert interval([0.8]) == (0.8, 0.8)


def test_a_higher_level_gives_a_wider_interval():
    values = np.linspace(0.0, 1.0, 20)

    narrow, wide = interval(values, level=0.5), interval(values, level=0.99)

    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_the_same_seed_gives_the_same_interval_and_keeps_the_values():
    values = np.linspace(0.0, 1.0, 20)
    before = values.copy()

    assert interval(values, seed=3) == interval(values, seed=3)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize(
    "values", [[], [0.5, np.nan], [np.inf], [[0.5, 0.6]]], ids=["none", "nan", "inf", "table"]
)
def test_values_without_a_mean_are_refused(values):
    with pytest.raises(InputError, match="leave absent structures out"):
        interval(values)


@pytest.mark.parametrize("options", [{"level": 1.0}, {"level": 0.0}, {"samples": 0}])
def test_a_level_or_number_of_samples_out_of_range_is_refused(options):
    with pytest.raises(InputError, match="level"):
        interval([0.1, 0.2], **options)
