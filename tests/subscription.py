"""A subscription without Redis, for what must be told of gaps, confirmations and changes at chosen moments."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError


class Subscription:
    """Redis as one subscription sees it: it notes channels, and confirms and fails as it is told to."""

    def __init__(self) -> None:
        self.channels: set[str] = set()
        self.confirms = True
        self.opened = 0
        self._messages: asyncio.Queue[Any] = asyncio.Queue()

    async def __aenter__(self) -> Subscription:
        self.channels, self.opened = set(), self.opened + 1
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def subscribe(self, *channels: str) -> None:
        self.channels.update(channels)
        if self.confirms:
            for channel in channels:
                self._messages.put_nowait({"type": "subscribe", "channel": channel.encode()})

    async def unsubscribe(self, *channels: str) -> None:
        self.channels.difference_update(channels)

    async def get_message(self, **_: float) -> Any:
        message = await self._messages.get()
        if isinstance(message, Exception):
            raise message
        return message

    def publish(self, channel: str, data: str) -> None:
        self._messages.put_nowait({"type": "message", "channel": channel.encode(), "data": data.encode()})

    def fail(self) -> None:
        self._messages.put_nowait(RedisConnectionError())

    def subscription(self) -> Subscription:
        return self


async def until(holds: Callable[[], bool]) -> None:
    """Return once this holds."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110  (nobody is told when it does)
            await asyncio.sleep(0.001)
