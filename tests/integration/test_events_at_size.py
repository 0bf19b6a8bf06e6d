"""The event writer against PostgreSQL: large batches, concurrent ones, and counters that come out right."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from psycopg.rows import DictRow

from recsvc.app import Storage
from recsvc.domain.catalog import Item
from recsvc.domain.decay import log2_sum, log2_value, seconds_since_epoch
from recsvc.domain.events import Event, Recorded
from recsvc.domain.ids import EventId, ItemId, TenantKey, UserId
from recsvc.storage.events import EventRepository
from recsvc.storage.failures import ConnectionLost
from tests.conftest import RecordedChanges

_NOW = datetime.now(UTC)


def _event(number: int, items: int = 50, users: int = 20, **fields: object) -> Event:
    return Event(
        **{
            "event_id": EventId(str(number)),
            "event_type": "view",
            "item_id": ItemId(str(number % items)),
            "user_id": UserId(str(number % users)),
            "event_time": _NOW - timedelta(minutes=number),
            **fields,
        }
    )


async def _items(storage: Storage, tenant: TenantKey, count: int = 50) -> None:
    await storage.items.upsert_many(tenant, [Item(ItemId(str(number))) for number in range(count)])


def _stored(outcomes: list[object]) -> int:
    return sum(1 for outcome in outcomes if isinstance(outcome, Recorded) and not outcome.duplicate)


async def test_a_large_batch_is_stored_once_however_often_it_comes(storage: Storage, tenant: TenantKey) -> None:
    await _items(storage, tenant)
    events = [_event(number) for number in range(5000)]
    assert _stored(await storage.events.write(tenant, events)) == 5000
    assert _stored(await storage.events.write(tenant, events)) == 0
    assert _stored(await storage.events.write(tenant, events[:100])) == 0


async def test_concurrent_batches_of_the_same_events_store_each_once(storage: Storage, tenant: TenantKey) -> None:
    await _items(storage, tenant)
    events = [_event(number) for number in range(400)]
    shuffled = [events[::-1], events, events[200:] + events[:200], events[::2] + events[1::2]]
    outcomes = await asyncio.gather(*(storage.events.write(tenant, batch) for batch in shuffled))
    assert sum(map(_stored, outcomes)) == 400


async def test_every_touched_user_is_announced_with_a_higher_version(
    storage: Storage, tenant: TenantKey, changes: RecordedChanges
) -> None:
    await _items(storage, tenant)
    writer = EventRepository(storage.database, storage.replicas, changes, storage.counters, longest_transaction_s=60)
    await writer.write(tenant, [_event(1), _event(2)])
    await writer.write(tenant, [_event(21)])
    (_, first), (_, second) = changes.users
    assert len(first) == 2
    ((user, version),) = second.items()
    assert version > first[user]


async def test_an_event_whose_first_answer_was_lost_is_stored_once_and_its_user_announced(
    storage: Storage, tenant: TenantKey, changes: RecordedChanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _items(storage, tenant)
    writer = EventRepository(storage.database, storage.replicas, changes, storage.counters, longest_transaction_s=60)
    run_once, answers = storage.database.run_once, 0

    async def lose_the_first_answer(*args: Any, **kwargs: Any) -> list[DictRow]:
        nonlocal answers
        rows = await run_once(*args, **kwargs)
        answers += 1
        if answers == 1:
            raise ConnectionLost
        return rows

    monkeypatch.setattr(storage.database, "run_once", lose_the_first_answer)
    (outcome,) = await writer.write(tenant, [_event(1)])
    assert isinstance(outcome, Recorded)
    ((_, announced),) = changes.users
    assert len(announced) == 1
    assert [len(chunk) async for _, chunk in storage.events.export(tenant, None, None, _NOW)] == [1]


async def test_an_event_of_a_month_without_a_partition_is_stored(storage: Storage, tenant: TenantKey) -> None:
    await _items(storage, tenant)
    later = _NOW + timedelta(days=400)
    (outcome,) = await storage.events.write(tenant, [_event(1, event_time=later)])
    assert isinstance(outcome, Recorded)


async def test_counters_added_event_by_event_equal_a_computation_from_scratch(
    storage: Storage, tenant: TenantKey
) -> None:
    await _items(storage, tenant, 3)
    events = [_event(number, items=3) for number in range(60)]
    for start in range(0, 60, 7):
        await storage.events.write(tenant, events[start : start + 7])
    async with storage.database.tenant_transaction(tenant) as connection:
        cursor = await connection.execute(
            b"SELECT i.item_id, s.event_count, s.popularity, s.trend_day FROM item_stats s"
            b" JOIN items i USING (tenant_key, item_key) ORDER BY i.item_id"
        )
        rows = await cursor.fetchall()
    times = np.array([seconds_since_epoch(event.event_time) for event in events])
    codes = np.array([int(event.item_id) for event in events])
    for column, half_life_s in (("popularity", 90 * 86_400.0), ("trend_day", 86_400.0)):
        expected = log2_sum(log2_value(np.ones(60), times, half_life_s), codes, 3)
        assert np.allclose([row[column] for row in rows], expected, atol=1e-6)
    assert [row["event_count"] for row in rows] == [20, 20, 20]
