"""What other processes announce, as it happens: which users and tenants have new versions, which API keys changed.

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
from recsvc.cache.versions import KEYS_CHANNEL, changes_channel, user_key_in
from recsvc.domain.ids import TenantKey, UserKey
from recsvc.resilience.backoff import Backoff

_log = structlog.get_logger(__name__)
_SUBSCRIBE_S = 1.0
# A connection that broke without a word shows only by its silence: Redis is asked for a sign after the first of these
# without a message, and taken for lost after the last.
_READ_S = 0.5
_SILENT_READS = 4
_BACKOFF = Backoff(first_s=0.1, longest_s=5.0)
# The client finds its socket gone in the middle of a command, if another task has just seen the connection break: that
# is an AttributeError there.
_LOST = (RedisError, OSError, TimeoutError, AttributeError)

OnChange = Callable[[TenantKey, Sequence[UserKey], bool], None]
"""Told the tenant, the users with new versions, and whether the tenant itself has one."""
OnKey = Callable[[str], None]
"""Told the id of an API key that was rotated, revoked or deleted."""


@dataclass(slots=True)
class _Channel:
    """What is announced of one tenant. confirmed: set while Redis has said that it sends that here."""

    tenant_key: TenantKey
    followers: int = 0
    confirmed: asyncio.Event = field(default_factory=asyncio.Event)


class ChangeFeed:
    """An async context manager around one subscription of this process."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._on_change: list[OnChange] = []
        self._on_key: list[OnKey] = []
        self._on_gap: list[Callable[[], None]] = []
        self._channels: dict[str, _Channel] = {}
        self._subscription: Any = None
        self._is_heard = False
        self._failures = 0
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

    def listen(
        self, on_gap: Callable[[], None], *, on_change: OnChange | None = None, on_key: OnKey | None = None
    ) -> None:
        """Have these called from now on, in the event loop, where they must not linger.

        on_gap: when changes are heard of again after a time in which they were not. on_change: of tenants that
        somebody follows. on_key: of all API keys.
        """
        self._on_gap.append(on_gap)
        if on_change is not None:
            self._on_change.append(on_change)
        if on_key is not None:
            self._on_key.append(on_key)

    @property
    def is_connected(self) -> bool:
        """Whether changes are being heard of at present."""
        return self._is_heard

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
            with suppress(*_LOST):
                await self._subscription.subscribe(name)
        with suppress(TimeoutError):
            async with asyncio.timeout(_SUBSCRIBE_S):
                await channel.confirmed.wait()

    async def _unfollow(self, tenant_key: TenantKey) -> None:
        name = changes_channel(tenant_key)
        self._channels[name].followers -= 1
        if self._channels[name].followers > 0:
            return
        del self._channels[name]
        if self._subscription is not None:
            with suppress(*_LOST):
                await self._subscription.unsubscribe(name)

    async def _listen(self) -> None:
        while True:
            try:
                async with self._client.subscription() as subscription:
                    await self._hear_all(subscription)
            except _LOST as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    # To close the subscription failed in its turn, and that took the place of the cancellation.
                    raise asyncio.CancelledError from error
                _log.warning("change_feed.lost", error=type(error).__name__)
            finally:
                self._subscription, self._is_heard = None, False
                for channel in self._channels.values():
                    channel.confirmed.clear()
            self._failures += 1
            await asyncio.sleep(_BACKOFF.pause_s(self._failures))

    async def _hear_all(self, subscription: Any) -> None:
        known = set(self._channels)
        await subscription.subscribe(KEYS_CHANNEL, *known)
        self._subscription = subscription
        if missed := self._channels.keys() - known:
            await subscription.subscribe(*missed)
        silent_reads = 0
        while silent_reads < _SILENT_READS:
            message = await subscription.get_message(timeout=_READ_S)
            if message is None:
                silent_reads += 1
                if silent_reads == 1:
                    await subscription.ping()
                continue
            silent_reads = 0
            self._hear(message)
        raise TimeoutError

    def _hear(self, message: dict[str, Any]) -> None:
        name = message["channel"].decode() if message["channel"] is not None else ""
        if name == KEYS_CHANNEL:
            self._hear_of_keys(message)
        elif (channel := self._channels.get(name)) is None:
            return
        elif message["type"] == "subscribe":
            channel.confirmed.set()
        elif message["type"] == "message":
            users = [user_key_in(key) for key in message["data"].decode().split(" ")]
            known = [user for user in users if user is not None]
            for on_change in self._on_change:
                on_change(channel.tenant_key, known, len(known) < len(users))

    def _hear_of_keys(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            self._is_heard, self._failures = True, 0
            # What was announced before this moment was not heard.
            for on_gap in self._on_gap:
                on_gap()
        elif message["type"] == "message":
            for key_id in message["data"].decode().split(" "):
                for on_key in self._on_key:
                    on_key(key_id)
