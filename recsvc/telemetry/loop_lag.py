"""Measures how late the event loop is: every call waits so long at each of its turns, whatever it asks for."""

from __future__ import annotations

import asyncio
import time
from typing import Self

from recsvc.telemetry.metrics import Metrics

# Often enough to meet whatever holds the loop up for a tenth of a second; costs nothing that can be measured.
_EVERY_S = 0.1


class LoopLag:
    """An async context manager around the measuring."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to measure."""
        self._task = asyncio.create_task(self._measure())
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _measure(self) -> None:
        while True:
            due = time.monotonic() + _EVERY_S
            await asyncio.sleep(_EVERY_S)
            # Loops wake to the millisecond, which may be a little early.
            self._metrics.loop_lag_seconds.observe(max(0.0, time.monotonic() - due))
