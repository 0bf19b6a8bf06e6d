"""The meter behind rate limits, against a plain bucket of permits that is counted in exact fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsvc.domain.limits import Quota, available, taken, wait_s

_RATES = st.sampled_from([0.5, 1, 3, 7, 10, 30, 1000, 44_100, 1_000_000])
# Milliseconds until the next question, and permits asked for.
_STEPS = st.lists(st.tuples(st.integers(0, 5_000), st.integers(1, 60)), max_size=60)


@given(per_s=_RATES, burst=st.integers(1, 50), steps=_STEPS)
def test_gcra_admits_what_a_plain_bucket_admits(per_s: float, burst: int, steps: list[tuple[int, int]]) -> None:
    quota, tat_s, now_ms = Quota(per_s, burst), 0.0, 0
    held, then_ms = Fraction(burst), 0
    for pause_ms, permits in steps:
        now_ms += pause_ms
        held = min(Fraction(burst), held + Fraction(per_s) * Fraction(now_ms - then_ms, 1000))
        then_ms = now_ms
        assert available(tat_s, now_ms / 1000, quota) == int(held)
        if permits <= held:
            held -= permits
            tat_s = taken(tat_s, now_ms / 1000, quota, permits)


@given(per_s=_RATES, burst=st.integers(1, 50), used=st.floats(0, 1), permits=st.integers(1, 50))
def test_after_exactly_the_wait_the_permits_are_there(per_s: float, burst: int, used: float, permits: int) -> None:
    quota = Quota(per_s, burst)
    permits, ahead_s = min(permits, burst), used * burst * quota.interval_s
    wait = wait_s(ahead_s, 0.0, quota, permits)
    assert available(ahead_s, wait, quota) >= permits
    if wait > 1e-3:
        assert available(ahead_s, wait * 0.99, quota) < permits


def test_a_bucket_that_was_never_used_is_full() -> None:
    assert available(0.0, 1e6, Quota(1.0, 7)) == 7


def test_a_raised_quota_does_not_wait_for_what_was_taken_under_the_old_one() -> None:
    tat_s = taken(0.0, 0.0, Quota(1.0, 100), 100)
    assert wait_s(tat_s, 0.0, Quota(1000.0, 100), 1) == pytest.approx(0.001)


def test_the_share_of_a_key_is_never_nothing() -> None:
    assert Quota(10.0, 10).share(0.01).burst == 1


def test_rounding_takes_no_permit_away() -> None:
    quota = Quota(10.0, 1)
    # In floats 0.2 + 0.1 is more than 0.3.
    assert available(taken(0.0, 0.2, quota, 1), 0.3, quota) == 1
