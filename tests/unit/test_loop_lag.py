"""Whatever holds the event loop up shows."""

from __future__ import annotations

import asyncio
import time

from recsvc.telemetry.loop_lag import LoopLag
from recsvc.telemetry.metrics import Metrics


async def test_a_loop_that_was_held_up_was_late_by_as_much() -> None:
    metrics = Metrics()
    async with LoopLag(metrics):
        await asyncio.sleep(0)
        time.sleep(0.5)  # noqa: ASYNC251 - what must not happen
        await asyncio.sleep(0.05)
    late_s = metrics.registry.get_sample_value("recsvc_event_loop_lag_seconds_sum") or 0.0
    assert late_s >= 0.35
