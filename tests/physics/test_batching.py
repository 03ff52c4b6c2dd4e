"""The rule of batches: best by enumeration, never late, and only where it pays."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinfer.physics.batching import MARGIN, BatchTimes, Waiting, batch_members, batch_plan, drain_ratio

GAINS = BatchTimes((1, 2, 4, 8), (1.0, 1.5, 2.5, 4.5))
LOSES = BatchTimes((1, 2, 4, 8), (1.0, 2.1, 4.3, 9.0))
LITTLE = BatchTimes((1, 2, 4, 8), (1.0, 1.96, 3.92, 7.84))

ratios = st.lists(st.floats(0.3, 1.2), min_size=3, max_size=3).map(
    lambda each: BatchTimes((1, 2, 4, 8), (1.0, *(size * one for size, one in zip((2, 4, 8), each, strict=True))))
)


def divisions(count: int, limit: int) -> Iterator[tuple[int, ...]]:
    if count == 0:
        yield ()
    for first in range(1, min(count, limit) + 1):
        for rest in divisions(count - first, limit):
            yield (first, *rest)


def delay(times: BatchTimes, division: tuple[int, ...], waiting: int) -> float:
    """Every batch delays all that still wait, and `waiting` squared newcomers."""
    total, left = 0.0, waiting
    for size in division:
        total += (left + waiting**2) * times.ratio(size)
        left -= size
    return total


@settings(max_examples=30)
@given(ratios, st.integers(1, 9), st.integers(0, 6))
def test_no_other_division_into_batches_delays_less(times: BatchTimes, same: int, others: int) -> None:
    plan = batch_plan(times, same, same + others)
    assert sum(plan) == same
    least = min(delay(times, one, same + others) for one in divisions(same, times.limit))
    assert delay(times, plan, same + others) == pytest.approx(least)


def test_batches_form_where_they_pay_and_the_more_wait_the_less_they_must_gain() -> None:
    assert batch_plan(GAINS, 8, 8) == (8,)
    assert batch_plan(LOSES, 8, 16) == (1,) * 8
    assert batch_plan(LITTLE, 2, 2) == (1, 1)
    assert batch_plan(LITTLE, 2, 100) == (2,)


@settings(max_examples=50)
@given(ratios, st.integers(1, 16), st.integers(0, 9))
def test_batches_never_take_longer_than_one_after_another(times: BatchTimes, same: int, others: int) -> None:
    assert drain_ratio(times, same, same + others) <= same + 1e-9


def test_a_straight_line_lies_between_measured_sizes() -> None:
    assert [GAINS.ratio(size) for size in (1, 3, 6, 8)] == [1.0, 2.0, 3.5, 4.5]


def test_members_are_the_first_of_the_same_piece_and_others_keep_their_places() -> None:
    same, other = Waiting(True, 1.0, 99.0), Waiting(False, 1.0, 99.0)
    assert batch_members(GAINS, [same, other, same, same, other]) == (0, 2, 3)
    assert batch_members(GAINS, [same, other, other]) == (0,)
    assert batch_members(LOSES, [same] * 8) == (0,)


def test_workers_share_what_waits() -> None:
    assert batch_members(GAINS, [Waiting(True, 1.0, 99.0)] * 8, workers=2) == (0, 1, 2, 3)


queues = st.lists(st.tuples(st.booleans(), st.floats(0.1, 3.0), st.floats(0.1, 12.0)), min_size=1, max_size=10)


@settings(max_examples=100)
@given(ratios, queues)
def test_no_batch_makes_a_request_late_that_would_be_in_time_alone(
    times: BatchTimes, rows: list[tuple[bool, float, float]]
) -> None:
    first_s = rows[0][1]
    queue = [Waiting(k == 0 or same, first_s if k == 0 or same else s, d) for k, (same, s, d) in enumerate(rows)]
    members = batch_members(times, queue)
    assert members[0] == 0
    assert all(queue[k].same for k in members)
    batch_s = times.ratio(len(members)) * first_s
    alone_s, end_s = 0.0, batch_s * (MARGIN if len(members) > 1 else 1.0)
    for k, one in enumerate(queue):
        alone_s += one.service_s
        end_s += 0.0 if k in members else one.service_s
        if alone_s <= one.deadline_s:
            assert (batch_s if k in members else end_s) <= one.deadline_s + 1e-9
