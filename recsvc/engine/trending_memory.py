"""What is trending with each tenant, kept in the process for the time when the database does not answer.

Read anew in the background, about once a minute for tenants that ask; a list out of here needs neither PostgreSQL nor
Redis. Filters are decided here as PostgreSQL decides them.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Self

import structlog

from recsvc.domain.catalog import Item
from recsvc.domain.errors import DomainError
from recsvc.domain.filters import ITEM_FIELDS, evaluate
from recsvc.domain.ids import ItemId, TenantKey
from recsvc.domain.recommendations import RecommendedItem, RecommendQuery, Source, Strategy
from recsvc.domain.tenancy import TenantProfile
from recsvc.engine.ranking import rank, weights_for
from recsvc.storage.candidates import CandidateQuestion, CandidateRepository
from recsvc.storage.items import ItemRepository

_log = structlog.get_logger(__name__)
_LIFE_S = 60.0
_ITEMS = 300
_TENANTS = 100
_STOP_S = 5.0
_NAMES = tuple(field.name for field in fields(Item))


@dataclass(frozen=True, slots=True)
class _Remembered:
    items: Sequence[tuple[Item, float]]
    read: float


class TrendingMemory:
    """The items that trend most, of the tenants that asked last; an async context manager around its reading."""

    def __init__(self, candidates: CandidateRepository, items: ItemRepository) -> None:
        self._candidates = candidates
        self._items = items
        self._remembered: OrderedDict[TenantKey, _Remembered] = OrderedDict()
        self._reading: dict[TenantKey, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        """Nothing is read before a tenant asks."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop reading."""
        tasks = list(self._reading.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_S)

    def keep_up(self, profile: TenantProfile) -> None:
        """Have what is remembered of this tenant read anew if it is old; returns at once."""
        held = self._remembered.get(profile.tenant_key)
        if held is not None and time.monotonic() - held.read < _LIFE_S:
            self._remembered.move_to_end(profile.tenant_key)
        elif profile.tenant_key not in self._reading and len(self._reading) < _TENANTS:
            # It serves all, so it is no part of the call that happens to be the first: of its trace, or its deadline.
            reading = asyncio.create_task(self._read(profile), context=Context())
            self._reading[profile.tenant_key] = reading

    def find(self, tenant_key: TenantKey, query: RecommendQuery, now: datetime) -> Sequence[RecommendedItem]:
        """The best of what is remembered that the query lets through; none for a tenant that has not asked lately."""
        found = [
            RecommendedItem(item.item_id, score, Source.TRENDING, item=item if query.item_fields else None)
            for item, score in self._allowed(tenant_key, query, now)
        ]
        return found[: query.count]

    def known(self, tenant_key: TenantKey, query: RecommendQuery, now: datetime) -> Mapping[ItemId, Item]:
        """All that is remembered that the query lets through."""
        return {item.item_id: item for item, _ in self._allowed(tenant_key, query, now)}

    def _allowed(self, tenant_key: TenantKey, query: RecommendQuery, now: datetime) -> Iterator[tuple[Item, float]]:
        held = self._remembered.get(tenant_key)
        excluded = {*query.exclude_item_ids, *query.session_item_ids}
        for item, score in held.items if held is not None else ():
            if item.item_id not in excluded and _is_open(item, now) and _matches(item, query, now):
                yield item, score

    async def _read(self, profile: TenantProfile) -> None:
        tenant_key = profile.tenant_key
        try:
            items = await self._trending(profile)
        except DomainError as error:
            # Tried again by whoever asks next; what was remembered is better than nothing.
            _log.warning("trending_memory.failed", tenant_key=tenant_key, error=error.reason)
            items = self._remembered[tenant_key].items if tenant_key in self._remembered else ()
        except Exception:
            _log.exception("trending_memory.crashed", tenant_key=tenant_key)
            items = self._remembered[tenant_key].items if tenant_key in self._remembered else ()
        finally:
            del self._reading[tenant_key]
        self._remembered[tenant_key] = _Remembered(items, time.monotonic())
        self._remembered.move_to_end(tenant_key)
        while len(self._remembered) > _TENANTS:
            self._remembered.popitem(last=False)

    async def _trending(self, profile: TenantProfile) -> Sequence[tuple[Item, float]]:
        question = CandidateQuestion(limits={"trending": _ITEMS, "popular": _ITEMS})
        found = await self._candidates.find(profile.tenant_key, None, question, datetime.now(UTC))
        query = RecommendQuery(count=_ITEMS, strategy=Strategy.TRENDING)
        ranked = rank(found, query, weights_for(Strategy.TRENDING, {}), seed=0)
        best = [(found.item_ids[at], float(ranked.scores[at])) for at in ranked.positions.tolist()]
        details = await self._items.get_many(profile.tenant_key, [item_id for item_id, _ in best])
        return [(details[item_id], score) for item_id, score in best if item_id in details]


def _is_open(item: Item, now: datetime) -> bool:
    return (
        item.available
        and not item.hidden
        and (item.publish_time is None or item.publish_time <= now)
        and (item.expire_time is None or item.expire_time > now)
    )


def _matches(item: Item, query: RecommendQuery, now: datetime) -> bool:
    if query.filter is None:
        return True
    return evaluate(query.filter, {name: getattr(item, name) for name in _NAMES}, ITEM_FIELDS, now)
