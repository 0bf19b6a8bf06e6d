"""A stream of requests of which a test can say how much was taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator


class Source:
    """Numbers from 0, counting how many were taken."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken = 0

    async def __aiter__(self) -> AsyncIterator[int]:
        while self.taken < self.size:
            self.taken += 1
            yield self.taken - 1


async def settle() -> None:
    """Let everything happen that waits for nothing."""
    for _ in range(50):
        await asyncio.sleep(0)
