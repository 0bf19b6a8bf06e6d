"""Which calls are repeated, when, and when no more.

gRPC itself repeats what got no answer, by the service config. What the service answered is repeated here: gRPC takes a
call for answered once headers have come, and every answer of recsvc has some.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from recsvc_client.errors import RecsvcError, explained
from recsvc_client.service_config import THROTTLING

_ATTEMPTS = 4
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_REPEATED = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED"})
_Answer = TypeVar("_Answer")


class Repeating:
    """Repeats calls of one client; its budget is common to all of them."""

    def __init__(self) -> None:
        self._tokens = THROTTLING.most

    async def answer(self, attempt: Callable[[float], Awaitable[_Answer]], timeout_s: float) -> _Answer:
        """What an attempt answers, the first or one that comes after as long as the service asked for.

        attempt: of a call that may be repeated, within so many seconds. timeout_s: for all attempts together. Raises
        RecsvcError.
        """
        until = time.monotonic() + timeout_s
        for failures in range(_ATTEMPTS):
            try:
                with explained():
                    answer = await attempt(until - time.monotonic())
            except RecsvcError as error:
                if error.code in _REPEATED:
                    self._tokens = max(0.0, self._tokens - 1.0)
                pause_s = _pause_before_another(error, failures)
                if pause_s is None or self._tokens <= THROTTLING.most / 2 or time.monotonic() + pause_s >= until:
                    raise
            else:
                self._tokens = min(THROTTLING.most, self._tokens + THROTTLING.back)
                return answer
            await asyncio.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")


class Outage:
    """Says when a stream that broke off is to be begun again; one for all streams that follow each other."""

    def __init__(self, give_up_after_s: float) -> None:
        self._give_up_after_s = give_up_after_s
        self._failures = 0
        self._since: float | None = None

    def end(self) -> None:
        """The service has answered."""
        self._failures, self._since = 0, None

    def pause_s(self, error: RecsvcError) -> float:
        """Seconds until the next attempt. Raises the error when that would not help, or nobody answered for so long."""
        if error.code not in _REPEATED or (error.code == "RESOURCE_EXHAUSTED" and error.retry_after_s is None):
            raise error
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        rest_s = pause_s(self._failures, error.retry_after_s or 0.0)
        if now + rest_s - self._since > self._give_up_after_s:
            raise error
        self._failures += 1
        return rest_s


def pause_s(failures: int, retry_after_s: float) -> float:
    """Exponential back-off with full jitter (Brooker 2015), on top of what the service asked for.

    The clients of a server that stops all lose it at one moment; jitter spreads their return.
    """
    longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(failures, 16))
    return retry_after_s + random.uniform(0, longest)  # noqa: S311


def _pause_before_another(error: RecsvcError, failures: int) -> float | None:
    """None when another attempt would not help, or is gRPC's business: the service did not ask for one."""
    if error.code not in _REPEATED or error.retry_after_s is None or failures + 1 == _ATTEMPTS:
        return None
    return pause_s(failures, error.retry_after_s)
