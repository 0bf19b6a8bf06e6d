"""Large batches, which go by COPY: what is stored, what is refused, and whose it is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from recsvc.app import Storage
from recsvc.domain.catalog import Item
from recsvc.domain.events import Event, Recorded, StoredEvent
from recsvc.domain.ids import EventId, ItemId, SessionId, TenantId, TenantKey, UserId
from recsvc.domain.tenancy import TenantSettings
from recsvc.storage.event_copy import copy_events
from recsvc.storage.events import EventRepository
from tests.conftest import RecordedChanges

_NOW = datetime.now(UTC)
# More than one statement is given.
_MANY = 2500


def _event(number: int, **fields: object) -> Event:
    """Events of every make: of users and sessions, with and without what they may have."""
    if number % 3 == 0:
        fields = {"session_id": SessionId(f"s{number % 7}"), **fields}
    if number % 3 != 0 or number % 2 == 0:
        fields = {"user_id": UserId(f"u{number % 11}"), **fields}
    if number % 5 == 0:
        fields = {"event_type": "rate", "value": number % 6, "context": {"page": number}, **fields}
    if number % 4 == 0:
        fields = {"recommendation_id": f"r{number}", "properties": {"names": ["é", number]}, **fields}
    return Event(
        **{
            "event_id": EventId(f"e{number * 7919 % 100_000}"),
            "event_type": "view",
            "item_id": ItemId(str(number % 50)),
            "event_time": _NOW - timedelta(minutes=number * 13 % 500_000),
            **fields,
        }
    )


@asynccontextmanager
async def _a_shop(storage: Storage, name: str) -> AsyncIterator[TenantKey]:
    """A tenant with items, that leaves nothing for projectors to do."""
    tenant = await storage.tenants.create(TenantId(f"test-{os.getpid()}-{name}"), "", TenantSettings())
    await storage.items.upsert_many(tenant.tenant_key, [Item(ItemId(str(number))) for number in range(50)])
    yield tenant.tenant_key
    await storage.tenants.delete(tenant.tenant_id)


@pytest.fixture
async def shop(storage: Storage) -> AsyncIterator[TenantKey]:
    async with _a_shop(storage, "shop") as shop:
        yield shop


async def _stored(storage: Storage, tenant: TenantKey) -> list[StoredEvent]:
    parts = [part async for _, part in storage.events.export(tenant, None, None, _NOW)]
    return sorted((each for part in parts for each in part), key=lambda each: each.event.event_id)


async def _counters(storage: Storage, tenant: TenantKey) -> dict[str, tuple[float, ...]]:
    await storage.counters.count_all()
    async with storage.database.tenant_transaction(tenant) as connection:
        cursor = await connection.execute(
            b"SELECT i.item_id, s.event_count, s.popularity, s.trend_day, s.trend_week"
            b" FROM item_stats s JOIN items i USING (tenant_key, item_key)"
        )
        return {row.pop("item_id"): tuple(row.values()) for row in await cursor.fetchall()}


async def test_a_large_batch_leaves_what_small_ones_leave(storage: Storage, shop: TenantKey) -> None:
    events = [_event(number) for number in range(_MANY)]
    await storage.events.write(shop, events)
    async with _a_shop(storage, "other") as other:
        for start in range(0, _MANY, 500):
            await storage.events.write(other, events[start : start + 500])
        large = [each.event for each in await _stored(storage, shop)]
        small = [each.event for each in await _stored(storage, other)]
        counted, counted_apart = await _counters(storage, shop), await _counters(storage, other)
    assert large == small
    assert counted == {item_id: pytest.approx(counters) for item_id, counters in counted_apart.items()}


async def test_a_large_batch_tells_stored_repeated_and_refused_events_apart(storage: Storage, shop: TenantKey) -> None:
    await storage.events.write(shop, [_event(10), _event(_MANY - 1)])
    events = [_event(number) for number in range(_MANY)]
    events[3] = _event(3, item_id=ItemId("nowhere"))
    events[4] = _event(4, event_type="unheard-of")
    events[5] = events[6]
    outcomes = await storage.events.write(shop, events)
    repeated = [place for place, each in enumerate(outcomes) if isinstance(each, Recorded) and each.duplicate]
    refused = {place: each.reason for place, each in enumerate(outcomes) if not isinstance(each, Recorded)}
    assert repeated == [6, 10, _MANY - 1]
    assert refused == {3: "ITEM_NOT_FOUND", 4: "EVENT_TYPE_UNKNOWN"}
    assert len(await _stored(storage, shop)) == _MANY - 3


async def test_an_event_that_is_refused_is_so_although_its_id_is_stored(storage: Storage, shop: TenantKey) -> None:
    await storage.events.write(shop, [_event(number) for number in range(_MANY)])
    wrong = [_event(number, item_id=ItemId("nowhere")) for number in range(1, _MANY)]
    outcomes = await storage.events.write(shop, [_event(0), *wrong])
    assert [isinstance(each, Recorded) for each in outcomes] == [True, *([False] * len(wrong))]


async def test_large_batches_with_the_same_events_store_each_once(storage: Storage, shop: TenantKey) -> None:
    events = [_event(number) for number in range(_MANY + 1000)]
    batches = [events[:_MANY], events[1000:][::-1], events[500 : _MANY + 500]]
    outcomes = await asyncio.gather(*(storage.events.write(shop, batch) for batch in batches))
    recorded = [each for batch in outcomes for each in batch if isinstance(each, Recorded)]
    assert len(recorded) == 3 * _MANY
    assert sum(not each.duplicate for each in recorded) == len(events)
    assert len(await _stored(storage, shop)) == len(events)


async def test_every_user_of_a_large_batch_is_announced(
    storage: Storage, shop: TenantKey, changes: RecordedChanges
) -> None:
    writer = EventRepository(storage.database, storage.replicas, changes, storage.counters, longest_transaction_s=60)
    await writer.write(shop, [_event(number, user_id=UserId(f"u{number % 300}")) for number in range(_MANY)])
    ((_, announced),) = changes.users
    assert len(announced) == 300


async def test_a_large_batch_of_a_month_without_a_partition_is_stored(storage: Storage, shop: TenantKey) -> None:
    later = _NOW + timedelta(days=500)
    outcomes = await storage.events.write(shop, [_event(number, event_time=later) for number in range(_MANY)])
    assert all(isinstance(each, Recorded) for each in outcomes)


async def test_rows_that_are_copied_are_of_the_transactions_tenant(storage: Storage, shop: TenantKey) -> None:
    async with storage.database.tenant_transaction(shop) as connection:
        await copy_events(connection, shop, {EventId("1"): _event(0, event_id=EventId("1"))}, frozenset())
        cursor = await connection.execute(
            b"SELECT current_user AS role, array(SELECT tenant_key FROM events UNION SELECT tenant_key FROM event_ids"
            b" UNION SELECT tenant_key FROM item_signals) AS tenants"
        )
        assert await cursor.fetchone() == {"role": "recsvc_app", "tenants": [shop]}


@pytest.mark.parametrize("table", ["events", "event_ids", "item_signals"])
async def test_rows_that_say_nothing_of_their_tenant_need_one_of_the_transaction(storage: Storage, table: str) -> None:
    statement = {
        "events": b"INSERT INTO events (event_time, event_id, event_type_key, user_key, item_key)"
        b" VALUES (now(), '1', 1, 1, 1)",
        "event_ids": b"INSERT INTO event_ids (event_id, event_time) VALUES ('1', now())",
        "item_signals": b"INSERT INTO item_signals (item_keys, log_weights, ages_s) VALUES ('{1}', '{1}', '{1}')",
    }[table]
    async with storage.database.service_transaction() as connection:
        with pytest.raises(psycopg.errors.NotNullViolation):
            await connection.execute(statement)
