"""Background loops that end between two pieces of their work, so that a clean end cuts no statement off."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

_GRACE_S = 1.0
_STOP_S = 5.0


class Background:
    """Tasks that are told when to end, and cancelled only when they do not.

    What they do is to look at `is_ending` before each piece of work, and to `rest` in between.
    """

    def __init__(self) -> None:
        self._ending = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_ending(self) -> bool:
        """Whether no new piece of work should begin."""
        return self._ending.is_set()

    def begin(self, loops: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Run these until the end is asked for."""
        self._tasks.extend(asyncio.create_task(loop) for loop in loops)

    async def rest(self, seconds: float) -> None:
        """Wait so long, or until the end is asked for."""
        try:
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        except TimeoutError:
            return

    async def end(self) -> None:
        """Ask for the end, and wait for it: a second for the work at hand, then five for its cancellation."""
        self._ending.set()
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=_GRACE_S)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_STOP_S)
