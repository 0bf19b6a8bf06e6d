"""Lists that update themselves: a watcher gets the present list, then a new one whenever it has changed.

A change of the user, the model or the catalogue wakes those watchers whose lists it may concern; each asks for its list
again and sends it only if it differs. However often it is woken, a watcher has one question under way at most and rests
for its interval after each list, so that changes in between become one. Questions of all watchers share a few slots,
tenant by tenant, those about what a user did apart from those about the whole catalogue: thousands of watchers cannot
hold other calls up, nor each other for long.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Self

import structlog

from recsvc.cache.change_feed import ChangeFeed
from recsvc.domain.errors import Code, DeadlinePassed, DomainError, Overloaded, ServerDraining
from recsvc.domain.ids import TenantKey, UserKey
from recsvc.domain.recommendations import Recommendations, RecommendQuery
from recsvc.domain.users import Identity, UserKind
from recsvc.engine.arrivals import Arrivals
from recsvc.engine.fair_slots import FairSlots
from recsvc.engine.recommender import Recommender
from recsvc.engine.watch_index import Watcher, WatchIndex
from recsvc.resilience.backoff import Backoff
from recsvc.settings import WatchSettings
from recsvc.storage.user_states import UserStateRepository
from recsvc.telemetry.metrics import Metrics
from recsvc.telemetry.spans import WATCH_LIST
from recsvc.telemetry.stages import stage

_log = structlog.get_logger(__name__)
_RETRIED = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED})
_BACKOFF = Backoff(first_s=1.0, longest_s=15.0)
_STOP_S = 1.0
# Thousands that are woken in one step of the loop hold everything else up until each has taken its turn.
_WOKEN_AT_ONCE = 32
# Changes of a catalogue within it become one.
_BETWEEN_WAVES_S = 0.1


@dataclass(frozen=True, slots=True)
class Update:
    """A list that differs from the one before, or none: a heartbeat. digest: of the list that the watcher has now."""

    found: Recommendations | None
    digest: str


@dataclass(frozen=True, slots=True)
class _Answer:
    """A list, and the key of its user, if that was asked for and there is one."""

    found: Recommendations
    user_key: UserKey | None


class WatchHub:
    """An async context manager around the watchers of this process."""

    def __init__(
        self,
        recommender: Recommender,
        states: UserStateRepository,
        feed: ChangeFeed,
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
        self._feed = feed
        feed.listen(self._hear_of_gap, on_change=self._hear)
        self._index = WatchIndex()
        self._arrivals = Arrivals(self._index, states)
        self._slots = FairSlots(settings.questions_in_flight)
        metrics.watch_queue("watch_questions", lambda: self._slots.waiting, settings.watchers)
        self._waiting: dict[Hashable, asyncio.Task[_Answer]] = {}
        self._changed_tenants: set[TenantKey] = set()
        self._some_changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Begin to wake watchers."""
        loops = (self._arrivals.run, self._wake_tenants, self._poll, self._send_elsewhere)
        self._tasks = [asyncio.create_task(loop()) for loop in loops]
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Wake nobody any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks, timeout=_STOP_S)

    async def updates(
        self, tenant_key: TenantKey, query: RecommendQuery, *, min_interval_s: float, known: str = ""
    ) -> AsyncIterator[Update]:
        """The present list, unless it is the known one; then each other one, and heartbeats in between.

        min_interval_s: least time between two lists; known: the digest of a list that the caller has. Raises
        Overloaded when there are too many watchers, ServerDraining when this process is about to stop, and whatever
        `Recommender.find` raises at first; later a list that cannot be had is tried again.
        """
        # Two queries of one fingerprint ask for the same list, if they want it equally fresh.
        question = (query.fingerprint(), query.max_staleness)
        async with self._registered(tenant_key, query) as watcher:
            digest, beat = known, time.monotonic()
            has_answered, failures = False, 0
            while not self._draining.is_set():
                watcher.changed.clear()
                rest_s = 0.0
                try:
                    found = await self._found(watcher, query, question)
                except DomainError as error:
                    if not has_answered or error.code not in _RETRIED:
                        raise
                    _log.info("watch.retried", error=error.reason)
                    watcher.changed.set()
                    failures += 1
                    rest_s = (error.retry_after_s or 0.0) + _BACKOFF.pause_s(failures)
                else:
                    failures = 0
                    if (present := _digest_of(found)) != digest:
                        digest, beat = present, time.monotonic()
                        yield Update(await self._recommender.tell(tenant_key, query, found), digest)
                        self._metrics.watch_updates.inc()
                        rest_s = min_interval_s
                    elif not has_answered:
                        beat = time.monotonic()
                        yield Update(None, digest)
                    has_answered = True
                if rest_s:
                    await self._is_set(self._draining, rest_s)
                # Without any change items are published and expire, and a change may go unheard: so the list is asked
                # for again with every heartbeat.
                is_changed = await self._is_set(watcher.changed, beat + self._settings.heartbeat_s - time.monotonic())
                if not is_changed and time.monotonic() - beat >= self._settings.heartbeat_s:
                    beat = time.monotonic()
                    yield Update(None, digest)
            raise ServerDraining

    async def _found(self, watcher: Watcher, query: RecommendQuery, question: Hashable) -> Recommendations:
        """The watcher's list, by a computation that begins from now on; watchers of one question share it."""
        unknown = watcher.identity if not watcher.is_key_checked else None
        if unknown is not None:
            # Before the key is looked for, so that whoever is seen for the first time meanwhile is not missed.
            self._index.forget_key(watcher)
        lane = (watcher.tenant_key, watcher.is_urgent)
        watcher.is_urgent = False
        # What is drawn by chance is each watcher's own.
        key = (lane, question, unknown, watcher if query.exploration else None)
        asked = self._waiting.get(key)
        if asked is None:
            asked = asyncio.create_task(self._answered(key, lane, watcher.tenant_key, query, unknown))
            asked.add_done_callback(_retrieve)
            self._waiting[key] = asked
        # Whoever leaves does not take the answer of the others along.
        answer = await asyncio.shield(asked)
        if answer.user_key is not None and watcher.user_key is None:
            self._index.learn_key(watcher, answer.user_key)
        return answer.found

    @stage(WATCH_LIST)
    async def _answered(
        self, key: Hashable, lane: Hashable, tenant_key: TenantKey, query: RecommendQuery, unknown: Identity | None
    ) -> _Answer:
        async with self._slots.held(lane):
            # Whoever is woken from here on needs a list that is newer than this one may be.
            del self._waiting[key]
            try:
                async with asyncio.timeout(self._settings.question_s):
                    user_key = await self._states.user_key(tenant_key, *unknown) if unknown is not None else None
                    if unknown is not None and user_key is None:
                        # Whoever has not been seen gets what anybody gets, which is kept for all of them together.
                        query = replace(query, user_id=None, session_id=None)
                    return _Answer(await self._recommender.find(tenant_key, query), user_key)
            except TimeoutError:
                raise DeadlinePassed from None

    @asynccontextmanager
    async def _registered(self, tenant_key: TenantKey, query: RecommendQuery) -> AsyncIterator[Watcher]:
        if len(self._index) >= self._settings.watchers:
            raise Overloaded("too many lists are being watched at this server", retry_after_s=1.0)
        watcher = Watcher(tenant_key, _identity(query))
        self._index.add(watcher)
        self._metrics.watchers.set(len(self._index))
        try:
            # Only what is asked for after this is sure to be followed by what changes it.
            async with self._feed.following(tenant_key):
                yield watcher
        finally:
            self._index.remove(watcher)
            self._metrics.watchers.set(len(self._index))

    @staticmethod
    async def _is_set(event: asyncio.Event, at_most_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, at_most_s)):
                await event.wait()
        return event.is_set()

    def _hear(self, tenant_key: TenantKey, users: Sequence[UserKey], is_tenant: bool) -> None:
        for watcher in self._index.of_users(tenant_key, users):
            watcher.is_key_checked = False
            watcher.wake(is_urgent=True)
        if users:
            self._arrivals.note(tenant_key, users)
        if is_tenant:
            self._changed_tenants.add(tenant_key)
            self._some_changed.set()

    def _hear_of_gap(self) -> None:
        for watcher in self._index:
            watcher.is_key_checked = False
            self._changed_tenants.add(watcher.tenant_key)
        self._some_changed.set()

    async def _wake_tenants(self) -> None:
        while True:
            await self._some_changed.wait()
            self._some_changed.clear()
            changed, self._changed_tenants = self._changed_tenants, set()
            for tenant_key in changed:
                for number, watcher in enumerate(self._index.of_tenant(tenant_key)):
                    if number % _WOKEN_AT_ONCE == 0:
                        await asyncio.sleep(0)
                    watcher.wake(is_urgent=False)
            await asyncio.sleep(_BETWEEN_WAVES_S)

    async def _poll(self) -> None:
        """While nothing is heard of changes, have all lists looked at from time to time."""
        while True:
            await asyncio.sleep(self._settings.poll_s)
            if not self._feed.is_connected:
                self._hear_of_gap()

    async def _send_elsewhere(self) -> None:
        await self._draining.wait()
        for watcher in self._index:
            watcher.wake(is_urgent=False)


def _identity(query: RecommendQuery) -> Identity | None:
    if query.user_id is not None:
        return UserKind.USER, query.user_id
    return (UserKind.SESSION, query.session_id) if query.session_id is not None else None


def _retrieve(asked: asyncio.Task[_Answer]) -> None:
    """Take notice of a failure, even if all who asked have left."""
    if not asked.cancelled():
        asked.exception()


def _digest_of(found: Recommendations) -> str:
    """What makes two lists the same to a watcher: items, order, strategy and how good the answer is."""
    parts = [found.strategy.value, found.degradation.level.name, *(item.item_id for item in found.items)]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=12).hexdigest()
