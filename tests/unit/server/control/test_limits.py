from hypothesis import given
from hypothesis import strategies as st

from server.control.limits import LARGEST_CALLERS, RateLimit


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_burst_is_let_through_and_no_more():
    limit = RateLimit(1.0, 3, Clock())

    assert [limit.allows("A") for _ in range(5)] == [True, True, True, False, False]


def test_what_was_used_comes_back_with_time():
    clock = Clock()
    limit = RateLimit(2.0, 2, clock)
    for _ in range(3):
        limit.allows("A")
    clock.now = 0.5

    assert [limit.allows("A"), limit.allows("A")] == [True, False]


def test_one_callers_calls_are_not_anothers():
    limit = RateLimit(1.0, 1, Clock())

    assert limit.allows("A")
    assert limit.allows("B")
    assert not limit.allows("A")


def test_callers_without_end_take_bounded_memory():
    limit = RateLimit(1.0, 1, Clock())
    for i in range(LARGEST_CALLERS + 500):
        limit.allows(str(i))

    assert len(limit._buckets) == LARGEST_CALLERS


@given(
    st.lists(st.floats(0, 5), min_size=1, max_size=60), st.floats(0.1, 20), st.integers(1, 20)
)
def test_never_more_than_burst_and_rate_allow(gaps, per_second, burst):
    clock = Clock()
    limit = RateLimit(per_second, burst, clock)
    let_through = 0
    for gap in gaps:
        clock.now += gap
        let_through += limit.allows("A")

    assert let_through <= burst + per_second * clock.now + 1e-6
