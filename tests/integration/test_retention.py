"""What was kept for as long as it should be is deleted; everything else stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from recsvc.app import Storage
from recsvc.domain.catalog import Item
from recsvc.domain.errors import StorageUnavailable
from recsvc.domain.events import Event, Recorded
from recsvc.domain.ids import EventId, ItemId, TenantKey, UserId
from recsvc.domain.tenancy import Tenant, TenantSettings
from recsvc.domain.users import UserKind
from recsvc.engine.retention import Retention
from recsvc.storage.shown import ShownList
from tests.rivals import rows

_KEPT_DAYS = 30
_DOCUMENT = f'{{"event_retention": "{_KEPT_DAYS * 86_400}s"}}'


@pytest.fixture
async def shop(storage: Storage, new_tenant: Tenant) -> AsyncIterator[TenantKey]:
    """A tenant with one item that keeps events for a month; afterwards for ever, as the others do."""
    tenant_key = new_tenant.tenant_key
    await storage.items.upsert_many(tenant_key, [Item(ItemId("a"))])
    await storage.tenants.update(
        new_tenant.tenant_id, lambda tenant: replace(tenant, settings=TenantSettings(_DOCUMENT))
    )
    yield tenant_key
    await storage.tenants.update(new_tenant.tenant_id, lambda tenant: replace(tenant, settings=TenantSettings()))


def _view(event_id: str, *, days_ago: float, user_id: str = "u") -> Event:
    moment = datetime.now(UTC) - timedelta(days=days_ago)
    return Event(EventId(event_id), "view", ItemId("a"), moment, user_id=UserId(user_id))


async def _event_ids(storage: Storage, tenant: TenantKey) -> list[str]:
    found = await rows(
        storage.database, tenant, b"SELECT event_id FROM events WHERE tenant_key = %(tenant)s ORDER BY event_id"
    )
    return [row["event_id"] for row in found]


async def _versions(storage: Storage, tenant: TenantKey) -> dict[str, int]:
    found = await rows(
        storage.database,
        tenant,
        b"SELECT u.user_id, s.version FROM user_state s JOIN users u USING (tenant_key, user_key)"
        b" WHERE tenant_key = %(tenant)s",
    )
    return {row["user_id"]: row["version"] for row in found}


async def test_events_past_their_tenants_retention_are_deleted(storage: Storage, shop: TenantKey) -> None:
    young, old = _view("young", days_ago=_KEPT_DAYS - 1), _view("old", days_ago=_KEPT_DAYS + 1)
    await storage.events.write(shop, [young, old])
    assert await storage.events.delete_expired(1000) == 1
    assert await _event_ids(storage, shop) == ["young"]


async def test_a_tenant_without_a_retention_keeps_its_events(storage: Storage, tenant: TenantKey) -> None:
    await storage.items.upsert_many(tenant, [Item(ItemId("a"))])
    await storage.events.write(tenant, [_view("ancient", days_ago=9000)])
    assert await storage.events.delete_expired(1000) == 0
    assert await _event_ids(storage, tenant) == ["ancient"]


async def test_no_more_are_deleted_at_once_than_was_said(storage: Storage, shop: TenantKey) -> None:
    await storage.events.write(shop, [_view(str(number), days_ago=40 + number) for number in range(5)])
    assert await storage.events.delete_expired(3) == 3
    # The oldest first.
    assert await _event_ids(storage, shop) == ["0", "1"]


async def test_the_states_of_their_users_follow(storage: Storage, shop: TenantKey) -> None:
    await storage.events.write(
        shop, [_view("1", days_ago=40), _view("2", days_ago=1), _view("3", days_ago=1, user_id="other")]
    )
    before = await _versions(storage, shop)
    await storage.events.delete_expired(1000)
    assert await _versions(storage, shop) == {"u": before["u"] + 1, "other": before["other"]}


async def test_an_id_that_was_deleted_is_free_again(storage: Storage, shop: TenantKey) -> None:
    await storage.events.write(shop, [_view("1", days_ago=40)])
    await storage.events.delete_expired(1000)
    assert await storage.events.write(shop, [_view("1", days_ago=1)]) == [Recorded(EventId("1"), duplicate=False)]


async def test_events_written_meanwhile_stand_in_nobodys_way(storage: Storage, shop: TenantKey) -> None:
    await storage.events.write(shop, [_view(f"old{n}", days_ago=40, user_id=f"u{n % 7}") for n in range(300)])
    fresh: list[Sequence[Event]] = [
        [_view(f"new{batch}-{n}", days_ago=0, user_id=f"u{n}") for n in range(7)] for batch in range(20)
    ]
    deleted, *_ = await asyncio.gather(
        _all_expired(storage), *(storage.events.write(shop, batch) for batch in fresh), _all_expired(storage)
    )
    assert deleted <= 300
    assert len(await _event_ids(storage, shop)) == 140


async def _all_expired(storage: Storage) -> int:
    total = 0
    while found := await storage.events.delete_expired(50):
        total += found
    return total


async def test_lists_shown_long_ago_are_forgotten(storage: Storage, tenant: TenantKey) -> None:
    now = datetime.now(UTC)
    await storage.shown.insert(
        tenant,
        [
            ShownList(f"{days} days", UserKind.USER, None, "AUTO", "", "", (), now - timedelta(days=days))
            for days in (89, 91)
        ],
    )
    assert await storage.shown.delete_older(90, 1000) >= 1
    left = await rows(storage.database, tenant, b"SELECT recommendation_id FROM shown WHERE tenant_key = %(tenant)s")
    assert [row["recommendation_id"] for row in left] == ["89 days"]


async def test_deleting_goes_on_batch_by_batch_and_after_a_failure() -> None:
    asked: list[str] = []
    done = asyncio.Event()

    async def failing(_limit: int) -> int:
        asked.append("failing")
        raise StorageUnavailable

    async def in_two_batches(limit: int) -> int:
        asked.append("batch")
        if asked.count("batch") < 2:
            return limit
        done.set()
        return limit - 1

    async with Retention({"failing": failing, "whole": in_two_batches}, every_s=0.01), asyncio.timeout(10):
        await done.wait()
    assert asked[:3] == ["failing", "batch", "batch"]
