"""Which failures are followed by another attempt: those worth it, a few times, in time, and within the budget."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

from recsvc.resilience.backoff import Backoff
from recsvc.resilience.retries import Retries, RetryPolicy

_QUICK = Backoff(first_s=0.001, longest_s=0.001)
_POLICY = RetryPolicy(attempts=3, backoff=_QUICK, longest_s=60.0)


class _Passing(Exception):
    """Worth another attempt."""


class _Lasting(Exception):
    """Not."""


@dataclass
class Work:
    """Fails as often as told; counts its attempts."""

    failures: int = 0
    error: type[Exception] = _Passing
    takes_s: float = 0.0
    attempts: int = 0
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.retries = Retries(lambda operation, outcome: self.outcomes.update([(operation, outcome)]))

    async def once(self) -> str:
        self.attempts += 1
        await asyncio.sleep(self.takes_s)
        if self.attempts <= self.failures:
            raise self.error
        return "done"

    async def run(self, policy: RetryPolicy = _POLICY) -> str:
        return await self.retries.run("work", self.once, policy, lambda error: isinstance(error, _Passing))


async def test_a_passing_failure_is_followed_by_another_attempt_that_is_counted() -> None:
    work = Work(failures=1)
    assert await work.run() == "done"
    assert (work.attempts, work.outcomes) == (2, {("work", "answered"): 1})


async def test_what_succeeds_at_once_is_not_counted() -> None:
    work = Work()
    await work.run()
    assert (work.attempts, work.outcomes) == (1, {})


async def test_the_last_failure_is_the_callers() -> None:
    work = Work(failures=10)
    with pytest.raises(_Passing):
        await work.run()
    assert (work.attempts, work.outcomes) == (3, {("work", "failed"): 2})


async def test_a_lasting_failure_is_passed_on_at_once() -> None:
    work = Work(failures=1, error=_Lasting)
    with pytest.raises(_Lasting):
        await work.run()
    assert work.attempts == 1


async def test_after_its_time_no_attempt_begins() -> None:
    work = Work(failures=10, takes_s=0.05)
    with pytest.raises(_Passing):
        await work.run(RetryPolicy(attempts=3, backoff=_QUICK, longest_s=0.02))
    assert (work.attempts, work.outcomes) == (1, {("work", "no_time"): 1})


async def test_whose_deadline_passes_makes_no_more_attempts() -> None:
    work = Work(failures=10)
    patient = RetryPolicy(attempts=10, backoff=Backoff(first_s=60.0, longest_s=60.0), longest_s=600.0)
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await work.run(patient)
    assert time.monotonic() - start < 5
    assert work.attempts < 10


async def test_while_everything_fails_further_attempts_are_a_fifth_of_the_calls() -> None:
    work = Work(failures=10**9)
    calls = 1000
    for _ in range(calls):
        with pytest.raises(_Passing):
            await work.run(RetryPolicy(attempts=2, backoff=_QUICK, longest_s=60.0))
    assert calls * 0.2 <= work.attempts - calls <= calls * 0.2 + 20
    assert work.outcomes["work", "no_budget"] == calls - (work.attempts - calls)


async def test_calls_that_succeed_bring_the_budget_back() -> None:
    work = Work(failures=10**9)
    for _ in range(100):
        with pytest.raises(_Passing):
            await work.run()
    work.failures = 0
    for _ in range(10):
        await work.run()
    work.failures, work.attempts = 1, 0
    assert await work.run() == "done"


async def test_what_may_help_is_done_before_another_attempt() -> None:
    work, seen = Work(failures=1), []

    async def help_it(error: Exception) -> None:
        seen.append((type(error), work.attempts))

    await work.retries.run("work", work.once, _POLICY, lambda _: True, before_another=help_it)
    assert seen == [(_Passing, 1)]
