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
        self.answers_pings = True
        self.fails_to_close = False
        self.opened = 0
        self._may_subscribe = asyncio.Event()
        self._may_subscribe.set()
        self._messages: asyncio.Queue[Any] = asyncio.Queue()

    async def __aenter__(self) -> Subscription:
        self.channels, self.opened = set(), self.opened + 1
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.fails_to_close:
            raise RedisConnectionError

    def delay_next_subscribe(self) -> asyncio.Event:
        """Let the next subscription begin only once this is set."""
        self._may_subscribe = asyncio.Event()
        return self._may_subscribe

    async def subscribe(self, *channels: str) -> None:
        await self._may_subscribe.wait()
        self.channels.update(channels)
        if self.confirms:
            for channel in channels:
                self._messages.put_nowait({"type": "subscribe", "channel": channel.encode()})

    async def unsubscribe(self, *channels: str) -> None:
        self.channels.difference_update(channels)

    async def ping(self) -> None:
        if self.answers_pings:
            self._messages.put_nowait({"type": "pong", "channel": None, "data": b""})

    async def get_message(self, *, timeout: float) -> Any:  # noqa: ASYNC109  (as the client of Redis has it)
        try:
            message = await asyncio.wait_for(self._messages.get(), timeout)
        except TimeoutError:
            return None
        if isinstance(message, Exception):
            raise message
        return message

    def publish(self, channel: str, data: str) -> None:
        self._messages.put_nowait({"type": "message", "channel": channel.encode(), "data": data.encode()})

    def fail(self, error: Exception | None = None) -> None:
        self._messages.put_nowait(error or RedisConnectionError())

    def subscription(self) -> Subscription:
        return self


async def until(holds: Callable[[], bool]) -> None:
    """Return once this holds."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110  (nobody is told when it does)
            await asyncio.sleep(0.001)
