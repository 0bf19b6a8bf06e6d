"""The one policy by which work is done again inside the service.

Only what may safely be done twice comes here; who calls says which errors are worth another attempt. Attempts are few,
pauses grow with full jitter, none begins after its time, and all of them together share a budget, so that a dependency
in trouble is not asked several times as much as one that is well (gRFC A6; Finagle's RetryBudget). A caller whose
deadline passes is cancelled, and with it the attempts made for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from recsvc.resilience.backoff import Backoff

_SHARE = 0.2
_BURST = 20.0
_Result = TypeVar("_Result")

ANSWERED, FAILED, NO_TIME, NO_BUDGET = "answered", "failed", "no_time", "no_budget"
"""What is told of a further attempt: how it ended, or why it was not made."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """attempts: the first one included. longest_s: after so long since the first none begins."""

    attempts: int
    backoff: Backoff
    longest_s: float


class RetryBudget:
    """Tokens, one for each further attempt: every call brings a fifth of one, and at most 20 gather."""

    def __init__(self) -> None:
        self._tokens = _BURST

    def earn(self) -> None:
        """Count a call."""
        self._tokens = min(_BURST, self._tokens + _SHARE)

    def spend(self) -> bool:
        """Pay for one further attempt; False when there is not enough."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Retries:
    """Further attempts at one dependency, out of one budget."""

    def __init__(self, count: Callable[[str, str], None]) -> None:
        """count: told the operation and the outcome of each further attempt, or why there was none."""
        self._count = count
        self._budget = RetryBudget()

    async def run(
        self,
        operation: str,
        attempt: Callable[[], Awaitable[_Result]],
        policy: RetryPolicy,
        is_worth_another: Callable[[Exception], bool],
        *,
        before_another: Callable[[Exception], Awaitable[None]] | None = None,
    ) -> _Result:
        """What an attempt returns, the first or a further one; what the last one raised, if none succeeds.

        operation: for the count. before_another: what may make the next attempt succeed, given the error.
        """
        self._budget.earn()
        start = time.monotonic()
        for number in range(1, policy.attempts + 1):
            try:
                result = await attempt()
            except Exception as error:
                if number > 1:
                    self._count(operation, FAILED)
                if number == policy.attempts or not is_worth_another(error):
                    raise
                pause_s = policy.backoff.pause_s(number)
                if time.monotonic() + pause_s > start + policy.longest_s:
                    self._count(operation, NO_TIME)
                    raise
                if not self._budget.spend():
                    self._count(operation, NO_BUDGET)
                    raise
                if before_another is not None:
                    await before_another(error)
                await asyncio.sleep(pause_s)
            else:
                if number > 1:
                    self._count(operation, ANSWERED)
                return result
        raise AssertionError("the last attempt returns or raises")
