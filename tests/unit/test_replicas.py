"""How far a replica lags, by where the primary's log was seen."""

from __future__ import annotations

from math import inf

from recsvc.storage.replicas import PrimaryPositions


def _seen(*looks: tuple[float, int]) -> PrimaryPositions:
    positions = PrimaryPositions(3)
    for moment_s, position in looks:
        positions.add(moment_s, position)
    return positions


def test_who_has_all_that_was_seen_does_not_lag() -> None:
    assert _seen((1.0, 10), (2.0, 20)).lag_s(9.0, 20) == 0.0


def test_the_lag_is_the_age_of_the_first_position_that_is_lacking() -> None:
    assert _seen((1.0, 10), (2.0, 20), (3.0, 30)).lag_s(9.0, 10) == 7.0


def test_looks_at_an_idle_primary_do_not_push_out_what_is_lacking() -> None:
    assert _seen((1.0, 10), (2.0, 20), *((moment, 30) for moment in (3.0, 4.0, 5.0, 6.0))).lag_s(9.0, 10) == 7.0


def test_a_replica_that_does_not_answer_lags_for_ever() -> None:
    assert _seen((1.0, 10)).lag_s(9.0, None) == inf


def test_a_primary_that_begins_earlier_after_a_failover_is_what_counts() -> None:
    assert _seen((1.0, 30), (2.0, 20)).lag_s(9.0, 20) == 0.0
