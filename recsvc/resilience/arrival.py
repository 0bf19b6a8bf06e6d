"""Waits at start for servers that are started together with this one and may come later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from recsvc.resilience.backoff import Backoff

_log = structlog.get_logger(__name__)
_BACKOFF = Backoff(first_s=0.5, longest_s=5.0)
_Arrived = TypeVar("_Arrived")


class NotThereInTime(RuntimeError):
    """Occurs at start when a server that is needed did not come; says which, for how long, and why not."""


async def arrival(
    name: str, attempt: Callable[[], Awaitable[_Arrived]], *, is_absence: type[Exception], at_most_s: float
) -> _Arrived:
    """What the attempt returns, once it does; tried again with jittered pauses while it raises `is_absence`.

    name: of the server, for the log. at_most_s: after so many seconds no new attempt begins; 0 for a single one, whose
    error is passed on. Raises NotThereInTime.
    """
    start = time.monotonic()
    failures = 0
    while True:
        try:
            arrived = await attempt()
        except is_absence as error:
            if at_most_s <= 0:
                raise
            failures += 1
            waited_s = time.monotonic() - start
            reason = _reason(error)
            pause_s = min(_BACKOFF.pause_s(failures), at_most_s - waited_s)
            if pause_s <= 0:
                raise NotThereInTime(f"{name} has not been there for {waited_s:.0f} s: {reason}") from error
            _log.warning(
                "start.waiting",
                waiting_for=name,
                since_s=round(waited_s, 1),
                at_most_s=at_most_s,
                next_attempt_s=round(pause_s, 1),
                reason=reason,
            )
            await asyncio.sleep(pause_s)
        else:
            if failures:
                _log.info("start.arrived", waited_for=name, after_s=round(time.monotonic() - start, 1))
            return arrived


def _reason(error: Exception) -> str:
    """The first line of what the driver says, which names the address and no secret."""
    lines = str(error.__cause__ or error).strip().splitlines()
    return lines[0] if lines else type(error.__cause__ or error).__name__
