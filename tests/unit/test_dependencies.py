"""When a dependency's condition changes, and that one odd look does not change it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from recsvc.resilience.dependencies import Condition, DependencyWatch, Finding, Steady

_WELL, _AWAY, _UNFIT = Condition.WELL, Condition.AWAY, Condition.UNFIT


@pytest.mark.parametrize(
    ("before", "seen", "after"),
    [
        (_WELL, [_AWAY, _AWAY], _WELL),
        (_WELL, [_AWAY, _AWAY, _WELL, _AWAY, _AWAY], _WELL),
        (_WELL, [_AWAY, _UNFIT, _AWAY, _UNFIT], _WELL),
        (_WELL, [_AWAY, _AWAY, _AWAY], _AWAY),
        (_WELL, [_UNFIT, _UNFIT, _UNFIT], _UNFIT),
        (_AWAY, [_WELL], _AWAY),
        (_AWAY, [_WELL, _AWAY, _WELL], _AWAY),
        (_AWAY, [_WELL, _WELL], _WELL),
    ],
)
def test_a_condition_gives_way_to_one_found_often_enough_in_a_row(
    before: Condition, seen: Sequence[Condition], after: Condition
) -> None:
    steady = Steady(before)
    for condition in seen:
        steady.saw(condition)
    assert steady.condition is after


async def test_the_first_look_counts_and_changes_are_told_once() -> None:
    found = Finding(_AWAY)
    told: list[tuple[str, Condition]] = []

    async def look() -> Finding:
        return found

    async with DependencyWatch({"it": look}, lambda name, condition: told.append((name, condition)), every_s=0.002):
        assert told == [("it", _AWAY)]
        found = Finding(_WELL)
        await asyncio.sleep(0.1)
    assert told == [("it", _AWAY), ("it", _WELL)]


async def test_a_look_that_breaks_counts_as_away_and_does_not_end_the_looks() -> None:
    looks = 0

    async def look() -> Finding:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise ZeroDivisionError
        return Finding(_WELL)

    told: list[Condition] = []
    async with DependencyWatch({"it": look}, lambda _, condition: told.append(condition), every_s=0.002):
        await asyncio.sleep(0.1)
    assert told == [_AWAY, _WELL]


async def test_a_look_that_hangs_is_away_after_its_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsvc.resilience.dependencies._TIMEOUT_S", 0.01)
    told: list[Condition] = []

    async def look() -> Finding:
        await asyncio.sleep(60)
        return Finding(_WELL)

    async with asyncio.timeout(1), DependencyWatch({"it": look}, lambda _, found: told.append(found), every_s=60):
        assert told == [_AWAY]
