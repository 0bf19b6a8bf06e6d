"""Tells watchers of somebody unknown that this somebody has been seen, at last.

An announcement names keys, such a watcher has a name only. So the keys that are announced while anybody waits are
gathered, and once in an interval one statement says whose they are: its cost follows the announcements of the interval,
and not how many wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from recsvc.domain.errors import DomainError
from recsvc.domain.ids import TenantKey, UserKey
from recsvc.engine.watch_index import WatchIndex
from recsvc.storage.user_states import UserStateRepository

_log = structlog.get_logger(__name__)
_INTERVAL_S = 0.1
_STATEMENT_S = 5.0
# Beyond it those who wait look for themselves.
_GATHERED = 10_000


class Arrivals:
    """What was announced and has not been looked at yet."""

    def __init__(self, index: WatchIndex, states: UserStateRepository) -> None:
        self._index = index
        self._states = states
        self._gathered: dict[TenantKey, set[UserKey]] = {}
        self._some = asyncio.Event()

    def note(self, tenant_key: TenantKey, user_keys: Iterable[UserKey]) -> None:
        """Take announced keys; those whom they concern are woken soon."""
        if not self._index.has_strangers(tenant_key):
            return
        gathered = self._gathered.setdefault(tenant_key, set())
        gathered.update(user_keys)
        if len(gathered) > _GATHERED:
            del self._gathered[tenant_key]
            self._wake_strangers(tenant_key)
        self._some.set()

    async def run(self) -> None:
        """Look at what is gathered, for ever."""
        while True:
            await self._some.wait()
            self._some.clear()
            gathered, self._gathered = self._gathered, {}
            for tenant_key, user_keys in gathered.items():
                await self._look(tenant_key, user_keys)
            await asyncio.sleep(_INTERVAL_S)

    async def _look(self, tenant_key: TenantKey, user_keys: set[UserKey]) -> None:
        try:
            async with asyncio.timeout(_STATEMENT_S):
                identities = await self._states.identities(tenant_key, sorted(user_keys))
        except (DomainError, TimeoutError) as error:
            _log.warning("arrivals.failed", error=type(error).__name__)
            self._wake_strangers(tenant_key)
            return
        for user_key, identity in identities.items():
            for watcher in self._index.of_identity(tenant_key, identity):
                self._index.learn_key(watcher, user_key)
                watcher.wake(is_urgent=True)

    def _wake_strangers(self, tenant_key: TenantKey) -> None:
        for watcher in self._index.strangers(tenant_key):
            watcher.wake(is_urgent=False)
