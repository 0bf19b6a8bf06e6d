"""How the start waits for a server that comes later, and how it ends if none comes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import structlog

from recsvc.resilience.arrival import NotThereInTime, arrival
from recsvc.resilience.backoff import Backoff


class _Absent(Exception):
    """The server is not there."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsvc.resilience.arrival._BACKOFF", Backoff(first_s=0.01, longest_s=0.02))


def _coming_at(
    attempt_that_succeeds: int, error: Exception | None = None
) -> tuple[list[int], Callable[[], Awaitable[str]]]:
    attempts: list[int] = []

    async def attempt() -> str:
        attempts.append(len(attempts) + 1)
        if len(attempts) < attempt_that_succeeds:
            raise error or _Absent("connection refused\nIs the server running?")
        return "here"

    return attempts, attempt


async def test_it_is_tried_again_until_it_is_there() -> None:
    attempts, attempt = _coming_at(4)
    assert await arrival("Store", attempt, is_absence=_Absent, at_most_s=30) == "here"
    assert attempts == [1, 2, 3, 4]


async def test_each_wait_says_for_what_since_when_and_why() -> None:
    _, attempt = _coming_at(2)
    with structlog.testing.capture_logs() as lines:
        await arrival("Store", attempt, is_absence=_Absent, at_most_s=30)
    waiting, arrived = lines
    assert (waiting["event"], waiting["waiting_for"], waiting["reason"]) == (
        "start.waiting",
        "Store",
        "connection refused",
    )
    assert waiting["since_s"] == pytest.approx(0, abs=1)
    assert (arrived["event"], arrived["waited_for"]) == ("start.arrived", "Store")


async def test_after_the_longest_wait_there_is_a_clear_error() -> None:
    _, attempt = _coming_at(10_000)
    with pytest.raises(NotThereInTime, match=r"^Store has not been there for 0 s: connection refused$"):
        await arrival("Store", attempt, is_absence=_Absent, at_most_s=0.05)


async def test_without_a_wait_the_first_error_is_passed_on() -> None:
    attempts, attempt = _coming_at(2)
    with pytest.raises(_Absent):
        await arrival("Store", attempt, is_absence=_Absent, at_most_s=0)
    assert attempts == [1]


async def test_what_waiting_does_not_cure_is_passed_on_at_once() -> None:
    attempts, attempt = _coming_at(2, ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        await arrival("Store", attempt, is_absence=_Absent, at_most_s=30)
    assert attempts == [1]
