"""Waits for work no longer than there is time, whatever the work makes of being cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from recsvc.domain.errors import DeadlinePassed

_SECOND_CANCEL_S = 0.5
_Answer = TypeVar("_Answer")


async def in_time(work: Coroutine[Any, Any, _Answer], budget_s: float) -> _Answer:
    """What the work returns within so many seconds. Raises DeadlinePassed; then the work is cancelled, not waited for.

    A driver may wait long for a server that does not react to having a statement cancelled. Nobody waits for that here,
    and a second cancellation ends it.
    """
    task = asyncio.create_task(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=budget_s)
    except asyncio.CancelledError:
        _abandon(task)
        raise
    if task not in done:
        _abandon(task)
        raise DeadlinePassed
    return task.result()


def _abandon(task: asyncio.Task[Any]) -> None:
    task.cancel()
    second = asyncio.get_running_loop().call_later(_SECOND_CANCEL_S, task.cancel)

    def ended(task: asyncio.Task[Any]) -> None:
        second.cancel()
        if not task.cancelled():
            # Looked at, so that asyncio does not complain that nobody did.
            task.exception()

    task.add_done_callback(ended)
