"""Background loops: an end waits for the work at hand, and not for rests."""

from __future__ import annotations

import asyncio
import time

from recsvc.resilience.background import Background


async def test_the_end_waits_for_the_work_at_hand_and_cuts_nothing_off() -> None:
    background, done = Background(), []

    async def loop() -> None:
        while not background.is_ending:
            await asyncio.sleep(0.2)
            done.append("whole")

    background.begin([loop()])
    await asyncio.sleep(0.05)
    await background.end()
    assert done == ["whole"]


async def test_the_end_does_not_wait_for_a_rest() -> None:
    background = Background()

    async def loop() -> None:
        while not background.is_ending:
            await background.rest(60)

    background.begin([loop()])
    await asyncio.sleep(0)
    start = time.monotonic()
    await background.end()
    assert time.monotonic() - start < 1


async def test_work_that_does_not_end_in_time_is_cancelled() -> None:
    background = Background()
    cancelled = asyncio.Event()

    async def loop() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    background.begin([loop()])
    await asyncio.sleep(0)
    await background.end()
    assert cancelled.is_set()
