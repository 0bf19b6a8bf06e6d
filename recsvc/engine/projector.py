"""Folds dirty users in behind the events, counts what these say about items, carries users over to a new model, gives
new items their vectors, and repairs what caches may have missed.

Any number of projectors may run: each takes users that no other one holds. A reader that meets a dirty user does not
wait for a projector, so this is about speed and repair, never about right answers.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Self

import structlog

from recsvc.cache.versions import VersionAnnouncer
from recsvc.domain.errors import DomainError, TenantNotFound
from recsvc.engine.fold_in import FoldIn
from recsvc.engine.item_fold_in import ItemFoldIn
from recsvc.engine.profiles import TenantProfiles
from recsvc.resilience.background import Background
from recsvc.storage.item_counters import ItemCounterRepository
from recsvc.storage.tenants import TenantRepository
from recsvc.storage.user_states import UserStateRepository
from recsvc.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)
_IDLE_S = 0.2
_BATCH = 50
# Seconds of rest for each second of work.
_REST_WHILE_BUSY = 19.0
_REPAIR_EVERY_S = 1.0
_CRASHED_S = 5.0
# Longer than any announcement may lag behind its commit.
_REPAIR_WINDOW_S = 15.0
_MEASURE_EVERY_S = 5.0
# More are far too many, however many.
_COUNTED_DIRTY = 10_000


class Projector:
    """An async context manager around the loop."""

    def __init__(
        self,
        states: UserStateRepository,
        counters: ItemCounterRepository,
        tenants: TenantRepository,
        profiles: TenantProfiles,
        fold_in: FoldIn,
        item_fold_in: ItemFoldIn,
        announcer: VersionAnnouncer,
        metrics: Metrics,
        is_busy: Callable[[], bool],
    ) -> None:
        """is_busy: whether this process has much to do for its callers just now."""
        self._states = states
        self._counters = counters
        self._tenants = tenants
        self._profiles = profiles
        self._fold_in = fold_in
        self._item_fold_in = item_fold_in
        self._announcer = announcer
        self._metrics = metrics
        self._is_busy = is_busy
        self._background = Background()

    async def __aenter__(self) -> Self:
        """Begin to work."""
        self._background.begin([self._fold(), self._count(), self._derive(), self._repair(), self._measure()])
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop; what is not folded in stays dirty."""
        await self._background.end()

    async def fold_once(self) -> int:
        """Fold one batch of dirty users in; returns how many there were."""
        dirty = await self._states.take_dirty_users(_BATCH)
        for tenant_key, users in dirty.items():
            try:
                profile = await self._profiles.get_current(tenant_key)
            except TenantNotFound:
                continue  # deleted meanwhile
            await self._fold_in.refresh(tenant_key, profile.model, users, by="projector")
        return sum(len(users) for users in dirty.values())

    async def renew_once(self) -> int:
        """Fold one batch of users anew whose state is of another model than the active one; returns how many."""
        outdated = await self._states.states_of_other_models(_BATCH)
        for tenant_key, users in outdated.items():
            try:
                profile = await self._profiles.get_current(tenant_key)
            except TenantNotFound:
                continue  # deleted meanwhile
            await self._fold_in.refresh(tenant_key, profile.model, users, by="projector")
        return sum(len(users) for users in outdated.values())

    async def measure_once(self) -> None:
        """Set the metrics of how far states lag behind."""
        lag = await self._states.lag(_COUNTED_DIRTY)
        self._metrics.dirty_users.set(lag.users)
        self._metrics.oldest_dirty_user_seconds.set(lag.oldest_s)

    async def _considerately(self, work: Callable[[], Awaitable[int]], rest: float) -> int:
        """A batch of work, and then a rest in proportion, so that a switch of models does not slow calls down.

        While many events come in the rest is longer: whoever asks for the list of somebody dirty folds them in at once,
        and the longer a user waits here, the more of their events are folded in together.
        """
        start = time.monotonic()
        done = await work()
        rest = max(rest, _REST_WHILE_BUSY if self._is_busy() else 0.0)
        if done and rest:
            await self._background.rest(rest * (time.monotonic() - start))
        return done

    async def _fold(self) -> None:
        async def fold() -> int:
            folded = await self._considerately(self.fold_once, 0.0)
            # What events changed comes first.
            return folded if folded >= _BATCH else folded + await self._considerately(self.renew_once, 1.0)

        while not self._background.is_ending:
            if await self._despite_errors(fold) < _BATCH:
                await self._background.rest(_IDLE_S)

    async def _count(self) -> None:
        while not self._background.is_ending:
            await self._despite_errors(lambda: self._considerately(self._counters.count_once, 0.0))
            # Not at once again: what gathers meanwhile is added up together.
            await self._background.rest(_IDLE_S)

    async def _derive(self) -> None:
        """Give items that training has not seen their vectors."""
        while not self._background.is_ending:
            if not await self._despite_errors(lambda: self._considerately(self._item_fold_in.refresh_once, 1.0)):
                await self._background.rest(_IDLE_S)

    async def _repair(self) -> None:
        """Announce again what a process that died between commit and announcement left unsaid."""
        while not self._background.is_ending:
            await self._background.rest(_REPAIR_EVERY_S)
            await self._despite_errors(self._repair_once)

    async def _repair_once(self) -> None:
        await self._announcer.offer_again()
        for tenant_key, version in (await self._tenants.recent_versions(_REPAIR_WINDOW_S)).items():
            await self._announcer.tenant_changed(tenant_key, version)

    async def _measure(self) -> None:
        while not self._background.is_ending:
            await self._despite_errors(self.measure_once)
            await self._background.rest(_MEASURE_EVERY_S)

    async def _despite_errors(self, work: Callable[[], Awaitable[int | None]]) -> int:
        """What the work returns; 0 when it failed, which must not end the loop that it is done in."""
        try:
            return await work() or 0
        except DomainError as error:
            _log.warning("projector.failed", error=error.reason)
        except Exception:
            _log.exception("projector.crashed")
            # It may well happen again, and again.
            await self._background.rest(_CRASHED_S)
        return 0
