"""Decayed counters: the stored logarithm must mean the same at every later time."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsvc.domain.decay import (
    EMPTY,
    EPOCH,
    decayed_count,
    log2_add,
    log2_sum,
    log2_value,
    seconds_since_epoch,
)

DAY_S = 86_400.0
TEN_YEARS_S = 3650 * DAY_S

an_event = st.tuples(
    st.floats(min_value=0.01, max_value=100.0), st.floats(min_value=-TEN_YEARS_S, max_value=TEN_YEARS_S)
)
events = st.lists(an_event, min_size=1, max_size=30)
half_lives = st.sampled_from([3600.0, DAY_S, 7 * DAY_S, 90 * DAY_S])


def counter(history: list[tuple[float, float]], half_life_s: float) -> float:
    value = np.asarray(EMPTY)
    for weight, time_s in history:
        value = log2_add(value, log2_value(weight, time_s, half_life_s))
    return float(value)


@given(events, half_lives)
def test_adding_events_one_by_one_equals_counting_from_scratch(
    history: list[tuple[float, float]], half_life_s: float
) -> None:
    weights, times = (np.array(column) for column in zip(*history, strict=True))
    scratch = log2_sum(log2_value(weights, times, half_life_s), np.zeros(len(history), dtype=np.int64), 1)
    assert counter(history, half_life_s) == pytest.approx(scratch[0], abs=1e-9)


@given(events, events, half_lives, st.floats(min_value=0, max_value=20))
def test_order_of_the_logarithms_is_the_order_of_the_counts_at_any_later_time(
    one: list[tuple[float, float]], other: list[tuple[float, float]], half_life_s: float, later: float
) -> None:
    now_s = max(time_s for _, time_s in one + other) + later * half_life_s
    first, second = counter(one, half_life_s), counter(other, half_life_s)

    def counted(history: list[tuple[float, float]]) -> float:
        return sum(weight * 2.0 ** (-(now_s - time_s) / half_life_s) for weight, time_s in history)

    if abs(first - second) > 1e-9 and max(counted(one), counted(other)) > 1e-280:
        assert (first > second) == (counted(one) > counted(other))


@given(events, half_lives)
def test_decayed_count_is_the_sum_of_the_decayed_weights(
    history: list[tuple[float, float]], half_life_s: float
) -> None:
    now_s = max(time_s for _, time_s in history)
    expected = sum(weight * 2.0 ** (-(now_s - time_s) / half_life_s) for weight, time_s in history)
    assert float(decayed_count(counter(history, half_life_s), now_s, half_life_s)) == pytest.approx(expected, rel=1e-6)


def test_a_count_halves_after_one_half_life() -> None:
    value = log2_value(8.0, 0.0, DAY_S)
    assert float(decayed_count(value, DAY_S, DAY_S)) == pytest.approx(4.0)


def test_the_empty_counter_counts_nothing_and_adds_nothing() -> None:
    assert float(decayed_count(EMPTY, 0.0, DAY_S)) == 0.0
    assert float(log2_add(EMPTY, EMPTY)) == EMPTY
    assert float(log2_add(EMPTY, 3.0)) == 3.0


def test_weights_that_are_not_positive_count_as_nothing() -> None:
    assert np.array_equal(log2_value([0.0, -2.0], [5.0, 5.0], DAY_S), [EMPTY, EMPTY])


def test_items_without_an_event_get_the_empty_counter() -> None:
    sums = log2_sum(np.array([1.0, 1.0, EMPTY]), np.array([2, 2, 0]), 4)
    assert np.array_equal(sums, [EMPTY, EMPTY, 2.0, EMPTY])


def test_seconds_count_from_the_fixed_epoch() -> None:
    assert seconds_since_epoch(EPOCH) == 0.0
    assert seconds_since_epoch(datetime(2020, 1, 2, tzinfo=UTC)) == DAY_S
