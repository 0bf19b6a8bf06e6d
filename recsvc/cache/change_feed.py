"""What other processes announce, as it happens: which users and tenants have new versions.

Redis delivers at most once. Whoever listens is therefore told of gaps too: after one, anything may have changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

import structlog
from redis.exceptions import RedisError

from recsvc.cache.redis_client import RedisClient
from recsvc.cache.versions import changes_channel, user_key_in
from recsvc.domain.ids import TenantKey, UserKey
from recsvc.resilience.backoff import Backoff

_log = structlog.get_logger(__name__)
_BASE_CHANNEL = "recsvc:feed"
_SUBSCRIBE_S = 1.0
_READ_S = 5.0
_BACKOFF = Backoff(first_s=0.1, longest_s=5.0)

OnChange = Callable[[TenantKey, Sequence[UserKey], bool], None]
"""Told the tenant, the users with new versions, and whether the tenant itself has one."""


@dataclass(slots=True)
class _Channel:
    """What is announced of one tenant. confirmed: set while Redis has said that it sends that here."""

    tenant_key: TenantKey
    followers: int = 0
    confirmed: asyncio.Event = field(default_factory=asyncio.Event)


class ChangeFeed:
    """An async context manager around one subscription of this process."""

    def __init__(self, client: RedisClient, on_change: OnChange, on_gap: Callable[[], None]) -> None:
        """on_gap: called when changes are heard of again after a time in which they were not."""
        self._client = client
        self._on_change = on_change
        self._on_gap = on_gap
        self._channels: dict[str, _Channel] = {}
        self._subscription: Any = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to listen; without Redis go on trying."""
        self._task = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_SUBSCRIBE_S)

    @property
    def is_connected(self) -> bool:
        """Whether changes are being heard of at present."""
        return self._subscription is not None

    @asynccontextmanager
    async def following(self, tenant_key: TenantKey) -> AsyncIterator[None]:
        """Hear of a tenant's changes inside; entered once that is so, or at once without Redis."""
        try:
            await self._follow(tenant_key)
            yield
        finally:
            await self._unfollow(tenant_key)

    async def _follow(self, tenant_key: TenantKey) -> None:
        name = changes_channel(tenant_key)
        channel = self._channels.setdefault(name, _Channel(tenant_key))
        channel.followers += 1
        if self._subscription is None:
            return
        if channel.followers == 1:
            with suppress(RedisError, OSError, TimeoutError):
                await self._subscription.subscribe(name)
        with suppress(TimeoutError):
            await asyncio.wait_for(channel.confirmed.wait(), _SUBSCRIBE_S)

    async def _unfollow(self, tenant_key: TenantKey) -> None:
        name = changes_channel(tenant_key)
        self._channels[name].followers -= 1
        if self._channels[name].followers > 0:
            return
        del self._channels[name]
        if self._subscription is not None:
            with suppress(RedisError, OSError, TimeoutError):
                await self._subscription.unsubscribe(name)

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                async with self._client.subscription() as subscription:
                    await subscription.subscribe(_BASE_CHANNEL, *self._channels)
                    self._subscription = subscription
                    # What was announced before this moment was not heard.
                    self._on_gap()
                    failures = 0
                    while True:
                        self._hear(await subscription.get_message(timeout=_READ_S))
            except (RedisError, OSError, TimeoutError) as error:
                _log.warning("change_feed.lost", error=type(error).__name__)
            finally:
                self._subscription = None
                for channel in self._channels.values():
                    channel.confirmed.clear()
            failures += 1
            await asyncio.sleep(_BACKOFF.pause_s(failures))

    def _hear(self, message: dict[str, Any] | None) -> None:
        if message is None or (channel := self._channels.get(message["channel"].decode())) is None:
            return
        if message["type"] == "subscribe":
            channel.confirmed.set()
        elif message["type"] == "message":
            users = [user_key_in(key) for key in message["data"].decode().split(" ")]
            known = [user for user in users if user is not None]
            self._on_change(channel.tenant_key, known, len(known) < len(users))
