"""What follows events: users are folded in by one projector each, and what is said of items is counted exactly once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import numpy as np
import pytest

from recsvc.app import Storage, build_engine, build_projector
from recsvc.domain.catalog import Item
from recsvc.domain.events import Event
from recsvc.domain.ids import EventId, ItemId, TenantKey, UserId, UserKey
from recsvc.storage.user_states import UserState
from tests.rivals import rows, run, until_blocked

_NOW = datetime.now(UTC)
_COUNTS = (
    b"SELECT i.item_id, s.event_count FROM item_stats s JOIN items i USING (tenant_key, item_key)"
    b" WHERE tenant_key = %(tenant)s ORDER BY i.item_id"
)


def _view(number: int, user_id: str, item_id: str) -> Event:
    return Event(EventId(str(number)), "view", ItemId(item_id), _NOW, user_id=UserId(user_id))


@pytest.fixture
async def shop(storage: Storage, tenant: TenantKey) -> TenantKey:
    """A catalogue of three items."""
    await storage.items.upsert_many(tenant, [Item(ItemId(name)) for name in "abc"])
    return tenant


async def _users(storage: Storage, tenant: TenantKey) -> list[UserKey]:
    found = await rows(
        storage.database, tenant, b"SELECT user_key FROM users WHERE tenant_key = %(tenant)s ORDER BY user_key"
    )
    return [UserKey(row["user_key"]) for row in found]


def _empty_state(user_key: UserKey) -> UserState:
    none = np.empty(0, dtype=np.int64)
    return UserState(user_key, 1, item_keys=none, weights=np.empty(0), ages=none, seen_keys=none, vector=None)


async def _counts(storage: Storage, tenant: TenantKey) -> dict[str, int]:
    return {row["item_id"]: row["event_count"] for row in await rows(storage.database, tenant, _COUNTS)}


async def _dirty(storage: Storage, tenant: TenantKey) -> int:
    (row,) = await rows(
        storage.database, tenant, b"SELECT count(*) AS users FROM dirty_users WHERE tenant_key = %(tenant)s"
    )
    return int(row["users"])


async def test_storing_states_locks_users_in_the_order_in_which_events_do(storage: Storage, shop: TenantKey) -> None:
    # Two that hold what the other wants stand still for a second, until PostgreSQL ends one of them.
    await storage.events.write(shop, [_view(1, "u", "a"), _view(2, "v", "a"), _view(3, "w", "a")])
    first, *others = await _users(storage, shop)
    hold = b"SELECT FROM user_state WHERE tenant_key = %(tenant)s AND user_key = ANY (%(users)s)"
    async with storage.database.tenant_transaction(shop) as rival:
        await run(rival, shop, hold + b" FOR UPDATE", users=[first])
        storing = asyncio.create_task(
            storage.states.store(shop, None, [_empty_state(user) for user in (*reversed(others), first)])
        )
        await until_blocked(storage.database)
        await run(rival, shop, hold + b" FOR UPDATE NOWAIT", users=others)
    await storing


async def test_a_dirty_user_is_given_to_one_projector_only(storage: Storage, shop: TenantKey) -> None:
    await storage.events.write(shop, [_view(number, f"u{number}", "a") for number in range(400)])
    # Those whom other tests have left dirty have waited longer.
    async with storage.database.service_transaction() as connection:
        await run(connection, shop, b"DELETE FROM dirty_users WHERE tenant_key <> %(tenant)s")
    taken = await asyncio.gather(*(storage.states.take_dirty_users(100) for _ in range(2)))
    taken.append(await storage.states.take_dirty_users(100))
    users = [user for found in taken for user in found.get(shop, ())]
    assert users
    assert len(users) == len(set(users))


async def test_a_user_whose_events_came_while_they_were_folded_in_stays_dirty(
    storage: Storage, shop: TenantKey
) -> None:
    for number in range(5):
        await storage.events.write(shop, [_view(number, "u", "a")])
    (user,) = await _users(storage, shop)
    lagging = b"SELECT version > folded_version AS lags FROM user_state WHERE tenant_key = %(tenant)s"
    since = b"SELECT since FROM dirty_users WHERE tenant_key = %(tenant)s"
    async with storage.database.tenant_transaction(shop) as rival:
        await run(rival, shop, b"SELECT FROM user_state WHERE tenant_key = %(tenant)s FOR UPDATE")
        await run(rival, shop, b"UPDATE user_state SET version = version + 1 WHERE tenant_key = %(tenant)s")
        waiting = await run(rival, shop, since)
        storing = asyncio.create_task(storage.states.store(shop, None, [_empty_state(user)]))
        await until_blocked(storage.database)
        await run(rival, shop, b"UPDATE dirty_users SET taken_until = now() + '1 minute' WHERE tenant_key = %(tenant)s")
    await storing
    assert await rows(storage.database, shop, lagging) == [{"lags": True}]
    assert len(waiting) == 1
    assert await rows(storage.database, shop, since) == waiting


async def test_a_user_who_is_folded_in_is_dirty_no_more(storage: Storage, shop: TenantKey) -> None:
    await storage.events.write(shop, [_view(1, "u", "a")])
    (user,) = await _users(storage, shop)
    await storage.states.store(shop, None, [_empty_state(user)])
    assert await _dirty(storage, shop) == 0


async def test_erasing_a_user_takes_them_off_the_queue(storage: Storage, shop: TenantKey) -> None:
    await storage.events.write(shop, [_view(1, "u", "a")])
    await storage.users.erase(shop, UserId("u"))
    assert await _dirty(storage, shop) == 0


async def test_a_user_who_is_erased_while_being_folded_in_does_not_come_back(storage: Storage, shop: TenantKey) -> None:
    await storage.events.write(shop, [_view(1, "u", "a")])
    (user,) = await _users(storage, shop)
    (history,) = await storage.states.histories(shop, [user], 10)
    await storage.users.erase(shop, UserId("u"))
    await storage.states.store(shop, None, [_empty_state(history.user_key)])
    count = b"SELECT count(*) AS states FROM user_state WHERE tenant_key = %(tenant)s"
    assert await rows(storage.database, shop, count) == [{"states": 0}]
    assert await _dirty(storage, shop) == 0


async def test_an_item_that_is_deleted_while_users_are_folded_in_leaves_them_dirty(
    storage: Storage, shop: TenantKey
) -> None:
    await storage.events.write(shop, [_view(1, "u", "a"), _view(2, "u", "b")])
    (user,) = await _users(storage, shop)
    (history,) = await storage.states.histories(shop, [user], 10)
    stale = UserState(
        user, history.version, history.item_keys, history.signals, np.ones(2, dtype=np.int64), history.item_keys, None
    )
    await storage.items.delete(shop, [ItemId("a")])
    await storage.states.store(shop, None, [stale])
    (present,) = await storage.states.histories(shop, [user], 10)
    assert present.version > history.version, "what was folded in before the deletion must not count as the present"
    await build_engine(storage).fold_in.refresh(shop, None, [user], by="test")
    kept = b"SELECT cardinality(item_keys) AS items, folded_version = version AS clean FROM user_state"
    assert await rows(storage.database, shop, kept + b" WHERE tenant_key = %(tenant)s") == [{"items": 1, "clean": True}]


async def test_what_many_count_at_once_is_counted_once(storage: Storage, shop: TenantKey) -> None:
    for batch in range(30):
        events = [_view(10 * batch + number, f"u{number}", "abc"[number % 3]) for number in range(9)]
        await storage.events.write(shop, events, count_at_once=False)
    await asyncio.gather(*(storage.counters.count_all() for _ in range(4)))
    async with asyncio.timeout(5):
        # The service of other tests counts, too, and may not have committed yet.
        while sum((await _counts(storage, shop)).values()) < 270:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert await _counts(storage, shop) == {"a": 90, "b": 90, "c": 90}


async def test_what_was_said_about_an_item_that_is_gone_hinders_nobody(storage: Storage, shop: TenantKey) -> None:
    async with storage.database.service_transaction() as rival:
        # Nobody counts meanwhile.
        await rival.execute(b"LOCK TABLE item_stats IN SHARE ROW EXCLUSIVE MODE")
        await storage.events.write(shop, [_view(1, "u", "a"), _view(2, "u", "b")], count_at_once=False)
    await storage.items.delete(shop, [ItemId("a")])
    await storage.counters.count_all()
    async with asyncio.timeout(5):
        while not await _counts(storage, shop):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert await _counts(storage, shop) == {"b": 1}


async def test_the_lag_is_that_of_whoever_has_waited_longest(storage: Storage, shop: TenantKey) -> None:
    await storage.events.write(shop, [_view(1, "u", "a"), _view(2, "v", "a"), _view(3, "w", "a")])
    projector = build_projector(storage, build_engine(storage))
    # Taken, so that no projector of another test folds them in meanwhile.
    waiting = (
        b"INSERT INTO dirty_users (tenant_key, user_key, since, taken_until)"
        b" SELECT tenant_key, user_key, now() - interval '20 minutes' * row_number() OVER (), now() + interval '1 hour'"
        b" FROM user_state WHERE tenant_key = %(tenant)s"
        b" ON CONFLICT (tenant_key, user_key) DO UPDATE SET since = excluded.since, taken_until = excluded.taken_until"
    )
    async with storage.database.tenant_transaction(shop) as connection:
        await run(connection, shop, waiting)
    await projector.measure_once()
    assert 3600 <= _metric(storage, "recsvc_oldest_dirty_user_seconds") < 3660
    assert _metric(storage, "recsvc_dirty_users") >= 3
    assert (await storage.states.lag(2)).users == 2
    async with storage.database.tenant_transaction(shop) as connection:
        await run(connection, shop, b"DELETE FROM dirty_users WHERE tenant_key = %(tenant)s")
    await projector.measure_once()
    assert _metric(storage, "recsvc_oldest_dirty_user_seconds") < 3600


def _metric(storage: Storage, name: str) -> float:
    value = storage.metrics.registry.get_sample_value(name)
    assert value is not None
    return value


async def test_an_error_that_nobody_foresaw_does_not_end_the_projector(
    storage: Storage, shop: TenantKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts, counted, count_once = 0, asyncio.Event(), storage.counters.count_once

    async def count_unless_it_is_the_first_time() -> int:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise RuntimeError
        counted.set()
        return await count_once()

    monkeypatch.setattr(storage.counters, "count_once", count_unless_it_is_the_first_time)
    monkeypatch.setattr("recsvc.engine.projector._CRASHED_S", 0.01)
    async with build_projector(storage, build_engine(storage)), asyncio.timeout(10):
        await counted.wait()
