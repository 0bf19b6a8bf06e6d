"""What other processes announce, as it happens: which users and tenants have new versions.

Redis delivers at most once. Whoever listens is therefore told of gaps too: after one, anything may have changed.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import structlog
from redis.exceptions import RedisError

from recsvc.cache.redis_client import RedisClient
from recsvc.cache.versions import changes_channel, user_key_in
from recsvc.domain.ids import TenantKey, UserKey

_log = structlog.get_logger(__name__)
_BASE_CHANNEL = "recsvc:feed"
_SUBSCRIBE_S = 1.0
_READ_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0

OnChange = Callable[[TenantKey, Sequence[UserKey], bool], None]
"""Told the tenant, the users with new versions, and whether the tenant itself has one."""


class ChangeFeed:
    """An async context manager around one subscription of this process."""

    def __init__(self, client: RedisClient, on_change: OnChange, on_gap: Callable[[], None]) -> None:
        self._client = client
        self._on_change = on_change
        self._on_gap = on_gap
        self._followers: Counter[TenantKey] = Counter()
        self._tenants: dict[str, TenantKey] = {}
        self._confirmed: dict[str, asyncio.Event] = {}
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
        channel = changes_channel(tenant_key)
        self._followers[tenant_key] += 1
        self._tenants[channel] = tenant_key
        confirmed = self._confirmed.setdefault(channel, asyncio.Event())
        if self._followers[tenant_key] == 1 and self._subscription is not None:
            with suppress(RedisError, OSError, TimeoutError):
                await self._subscription.subscribe(channel)
        if self._subscription is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(confirmed.wait(), _SUBSCRIBE_S)

    async def _unfollow(self, tenant_key: TenantKey) -> None:
        self._followers[tenant_key] -= 1
        if self._followers[tenant_key] > 0:
            return
        channel = changes_channel(tenant_key)
        del self._followers[tenant_key], self._tenants[channel], self._confirmed[channel]
        if self._subscription is not None:
            with suppress(RedisError, OSError, TimeoutError):
                await self._subscription.unsubscribe(channel)

    async def _listen(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                async with self._client.subscription() as subscription:
                    await subscription.subscribe(_BASE_CHANNEL, *self._tenants)
                    self._subscription = subscription
                    # What was announced before this moment was not heard.
                    self._on_gap()
                    pause_s = _FIRST_PAUSE_S
                    while True:
                        self._hear(await subscription.get_message(timeout=_READ_S))
            except (RedisError, OSError, TimeoutError) as error:
                _log.warning("change_feed.lost", error=type(error).__name__)
            finally:
                self._subscription = None
                for confirmed in self._confirmed.values():
                    confirmed.clear()
            self._on_gap()
            await asyncio.sleep(random.uniform(0, pause_s))  # noqa: S311  (jitter)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _hear(self, message: dict[str, Any] | None) -> None:
        if message is None:
            return
        channel = message["channel"].decode()
        if message["type"] == "subscribe" and channel in self._confirmed:
            self._confirmed[channel].set()
        elif message["type"] == "message" and channel in self._tenants:
            users = [user_key_in(key) for key in message["data"].decode().split(" ")]
            known = [user for user in users if user is not None]
            self._on_change(self._tenants[channel], known, len(known) < len(users))
