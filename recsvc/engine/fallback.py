"""What to answer when a fresh list cannot be had in time: the last list for this question, then one that is made from
what the process remembers, then what is trending.

Each step says in `degradation` what it is. What is answered from here is never kept in a cache.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeAlias

from recsvc.cache.lists import ListCache
from recsvc.domain.catalog import Item
from recsvc.domain.errors import DeadlinePassed, StorageUnavailable
from recsvc.domain.ids import ItemId, TenantKey
from recsvc.domain.recommendations import (
    Degradation,
    DegradationLevel,
    Recommendations,
    RecommendQuery,
    Strategy,
)
from recsvc.domain.tenancy import TenantProfile
from recsvc.engine.trending_memory import TrendingMemory
from recsvc.telemetry.metrics import Metrics

UNANSWERED = (StorageUnavailable, DeadlinePassed)
"""What a fresh list fails with when the database is away or crawls."""

Recall: TypeAlias = Callable[
    [TenantKey, RecommendQuery, datetime, Mapping[ItemId, Item] | None], Awaitable[Recommendations | None]
]
"""Makes a list out of memory; given items, out of those alone."""

_AWAY = "the database does not answer in time"


class Fallback:
    """Answers Recommend when the database does not."""

    def __init__(
        self, cache: ListCache, trending: TrendingMemory, metrics: Metrics, is_slow: Callable[[], bool]
    ) -> None:
        """is_slow: whether the database answers so slowly that it should be waited for only by whom nothing else can
        answer."""
        self._cache = cache
        self._trending = trending
        self._metrics = metrics
        self._is_slow = is_slow

    @property
    def is_preferred(self) -> bool:
        """Whether to look here first."""
        return self._is_slow()

    def keep_up(self, profile: TenantProfile) -> None:
        """Prepare for the time when the database will be away; returns at once."""
        self._trending.keep_up(profile)

    async def find(self, tenant_key: TenantKey, query: RecommendQuery, recall: Recall) -> Recommendations | None:
        """The best list that can be had without the database; None when there is not even that.

        recall: makes a personal list out of memory.
        """
        stale = await self._cache.find_stale(tenant_key, query.fingerprint())
        if stale is not None:
            self._metrics.degraded.labels("cache").inc()
            made = stale.generate_time.isoformat(timespec="seconds")
            return replace(stale, degradation=Degradation(DegradationLevel.STALE, f"{_AWAY}; the list is of {made}"))
        now = query.time or datetime.now(UTC)
        # Only of these is it known whether they match a filter, and what they are.
        known = self._trending.known(tenant_key, query, now) if query.filter is not None or query.item_fields else None
        partial = await recall(tenant_key, query, now, known)
        if partial is not None:
            self._metrics.degraded.labels("snapshot").inc()
            reason = f"{_AWAY}; the list is made from the catalogue and the history as they were a while ago"
            return replace(partial, degradation=Degradation(DegradationLevel.PARTIAL, reason))
        items = self._trending.find(tenant_key, query, now)
        if not items:
            return None
        self._metrics.degraded.labels("memory").inc()
        return Recommendations(
            items=tuple(items),
            strategy=Strategy.TRENDING,
            model_id="",
            generate_time=datetime.now(UTC),
            degradation=Degradation(DegradationLevel.FALLBACK, f"{_AWAY}; this is what trended a moment ago"),
        )
