"""Lists that update themselves: a watcher gets the present list, then a new one whenever it has changed.

A change of the user, the model or the catalogue wakes those watchers whose lists it may concern; each asks for its list
again and sends it only if it differs. However often it is woken, a watcher has one question under way at most and rests
for its interval after each list, so that changes in between become one. Questions of all watchers share a few slots,
first come first served: thousands of them cannot hold other calls up, nor each other for long.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

import structlog

from recsvc.cache.change_feed import ChangeFeed
from recsvc.cache.redis_client import RedisClient
from recsvc.domain.errors import Code, DomainError, Overloaded, ServerDraining
from recsvc.domain.ids import TenantKey, UserKey
from recsvc.domain.recommendations import Recommendations, RecommendQuery
from recsvc.domain.users import UserKind
from recsvc.engine.recommender import Recommender
from recsvc.settings import WatchSettings
from recsvc.storage.user_states import UserStateRepository
from recsvc.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)
_RETRIED = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED})


@dataclass(frozen=True, slots=True)
class Update:
    """A list that differs from the one before, or none: a heartbeat. digest: of the list that the watcher has now."""

    found: Recommendations | None
    digest: str


@dataclass(slots=True, eq=False)
class _Watcher:
    """user_key: whose changes wake it; None as long as nobody of that id has done anything."""

    tenant_key: TenantKey
    is_personal: bool
    user_key: UserKey | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class WatchHub:
    """An async context manager around the watchers of this process."""

    def __init__(
        self,
        recommender: Recommender,
        states: UserStateRepository,
        redis: RedisClient,
        draining: asyncio.Event,
        settings: WatchSettings,
        metrics: Metrics,
    ) -> None:
        """draining: once set, watchers are sent elsewhere."""
        self._recommender = recommender
        self._states = states
        self._draining = draining
        self._settings = settings
        self._metrics = metrics
        self._feed = ChangeFeed(redis, self._wake, self._wake_all)
        self._watchers: dict[TenantKey, set[_Watcher]] = {}
        self._count = 0
        self._slots = asyncio.Semaphore(settings.questions_in_flight)

    async def __aenter__(self) -> Self:
        """Begin to hear of changes."""
        await self._feed.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Hear no more."""
        await self._feed.__aexit__(*exc)

    async def updates(
        self, tenant_key: TenantKey, query: RecommendQuery, *, min_interval_s: float, known: str = ""
    ) -> AsyncIterator[Update]:
        """The present list, unless it is the known one; then each other one, and heartbeats in between.

        min_interval_s: least time between two lists; known: the digest of a list that the caller has. Raises
        Overloaded when there are too many watchers, ServerDraining when this process is about to stop, and whatever
        `Recommender.find` raises at first; later a list that cannot be had is tried again.
        """
        async with self._registered(tenant_key, query) as watcher:
            digest, beat = known, time.monotonic()
            has_answered = False
            while not self._draining.is_set():
                watcher.changed.clear()
                rest_s = 0.0
                try:
                    found = await self._found(watcher, query)
                except DomainError as error:
                    if not has_answered or error.code not in _RETRIED:
                        raise
                    _log.info("watch.retried", error=error.reason)
                    watcher.changed.set()
                    rest_s = random.uniform(0.5, 1.5) * (error.retry_after_s or 1.0)  # noqa: S311  (jitter)
                else:
                    if (present := _digest_of(found)) != digest:
                        digest, beat = present, time.monotonic()
                        yield Update(await self._recommender.tell(tenant_key, query, found), digest)
                        self._metrics.watch_updates.inc()
                        rest_s = min_interval_s
                    elif not has_answered:
                        beat = time.monotonic()
                        yield Update(None, digest)
                    has_answered = True
                await self._rest(rest_s)
                # Without any change items are published and expire, and a change may go unheard: so the list is asked
                # for again with every heartbeat.
                is_changed = await self._woken(watcher, beat + self._settings.heartbeat_s - time.monotonic())
                if not is_changed and time.monotonic() - beat >= self._settings.heartbeat_s:
                    beat = time.monotonic()
                    yield Update(None, digest)
            raise ServerDraining

    async def _found(self, watcher: _Watcher, query: RecommendQuery) -> Recommendations:
        async with self._slots, asyncio.timeout(self._settings.question_s):
            if watcher.is_personal and watcher.user_key is None:
                watcher.user_key = await self._user_key(watcher.tenant_key, query)
            return await self._recommender.find(watcher.tenant_key, query)

    async def _user_key(self, tenant_key: TenantKey, query: RecommendQuery) -> UserKey | None:
        if query.user_id is not None:
            return await self._states.user_key(tenant_key, UserKind.USER, query.user_id)
        return await self._states.user_key(tenant_key, UserKind.SESSION, str(query.session_id))

    @asynccontextmanager
    async def _registered(self, tenant_key: TenantKey, query: RecommendQuery) -> AsyncIterator[_Watcher]:
        if self._count >= self._settings.watchers:
            raise Overloaded("too many lists are being watched at this server", retry_after_s=1.0)
        watcher = _Watcher(tenant_key, query.user_id is not None or query.session_id is not None)
        self._count += 1
        self._metrics.watchers.set(self._count)
        self._watchers.setdefault(tenant_key, set()).add(watcher)
        try:
            # Only what is asked for after this is sure to be followed by what changes it.
            async with self._feed.following(tenant_key):
                yield watcher
        finally:
            self._count -= 1
            self._metrics.watchers.set(self._count)
            of_tenant = self._watchers[tenant_key]
            of_tenant.discard(watcher)
            if not of_tenant:
                del self._watchers[tenant_key]

    async def _woken(self, watcher: _Watcher, at_most_s: float) -> bool:
        """Whether something changed; False when the time is over or the process is about to stop."""
        if not self._feed.is_connected:
            at_most_s = min(at_most_s, self._settings.poll_s)
        return await self._first_of(watcher.changed, at_most_s) and not self._draining.is_set()

    async def _rest(self, seconds: float) -> None:
        if seconds > 0 and not self._draining.is_set():
            await self._first_of(None, seconds)

    async def _first_of(self, event: asyncio.Event | None, at_most_s: float) -> bool:
        """Wait for an event, the end of this process or the time; returns whether the event is set."""
        waits = [asyncio.ensure_future(each.wait()) for each in (event, self._draining) if each is not None]
        try:
            await asyncio.wait(waits, timeout=max(0.0, at_most_s), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return event is not None and event.is_set()

    def _wake(self, tenant_key: TenantKey, users: Sequence[UserKey], is_tenant: bool) -> None:
        concerned = set(users)
        for watcher in self._watchers.get(tenant_key, ()):
            if is_tenant or (watcher.is_personal and (watcher.user_key is None or watcher.user_key in concerned)):
                watcher.changed.set()
            if watcher.user_key in concerned:
                # Whoever is erased and comes back has another key.
                watcher.user_key = None

    def _wake_all(self) -> None:
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.changed.set()


def _digest_of(found: Recommendations) -> str:
    """What makes two lists the same to a watcher: items, order, strategy and how good the answer is."""
    parts = [found.strategy.value, found.degradation.level.name, *(item.item_id for item in found.items)]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=12).hexdigest()
