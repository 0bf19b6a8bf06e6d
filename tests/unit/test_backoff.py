"""Pauses between tries: jittered, growing, capped."""

from __future__ import annotations

import pytest

from recsvc.resilience.backoff import Backoff


@pytest.mark.parametrize(("failures", "longest_s"), [(1, 0.1), (2, 0.2), (4, 0.8), (5, 1.0), (10_000, 1.0)])
def test_pauses_spread_from_nothing_to_a_bound_that_doubles_up_to_the_cap(failures: int, longest_s: float) -> None:
    backoff = Backoff(first_s=0.1, longest_s=1.0)
    pauses = [backoff.pause_s(failures) for _ in range(1000)]
    assert min(pauses) >= 0
    assert max(pauses) <= longest_s
    assert min(pauses) < 0.1 * longest_s
    assert max(pauses) > 0.9 * longest_s
