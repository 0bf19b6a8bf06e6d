"""No event without a user, an item and a type, though these go while it is being written.

Events have no foreign keys, which would cost more than all the rest of them. Users are guarded by the key that their
state has; items and event types by a lock of the tenant.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from recsvc.app import Storage
from recsvc.domain.catalog import Item
from recsvc.domain.errors import EventTypeInUse, StorageUnavailable
from recsvc.domain.events import Event, Recorded
from recsvc.domain.ids import EventId, ItemId, TenantId, TenantKey, UserId
from recsvc.domain.tenancy import TenantSettings
from recsvc.domain.users import UserKind
from recsvc.storage.database import Database
from tests.rivals import rows, run, until_blocked

_NOW = datetime.now(UTC)
_GOES, _STAYS = ItemId("goes"), ItemId("stays")
# By one statement, and by COPY.
_SIZES = [2, 2500]


@pytest.fixture
def shop(tenant: TenantKey) -> TenantKey:
    return tenant


@pytest.fixture(autouse=True)
async def _items(storage: Storage, shop: TenantKey) -> None:
    await storage.items.upsert_many(shop, [Item(_GOES), Item(_STAYS)])


def _events(size: int, **fields: Any) -> list[Event]:
    """Of one user, and half of them of the item that goes."""
    return [
        Event(
            **{
                "event_id": EventId(f"e{number:05}"),
                "event_type": "view",
                "item_id": (_GOES, _STAYS)[number % 2],
                "event_time": _NOW,
                "user_id": UserId("u"),
                **fields,
            }
        )
        for number in range(size)
    ]


async def _write(storage: Storage, shop: TenantKey, events: Sequence[Event]) -> list[str]:
    """Write events; of each what became of it."""
    outcomes = await storage.events.write(shop, events)
    return ["stored" if isinstance(outcome, Recorded) else outcome.reason for outcome in outcomes]


@asynccontextmanager
async def _stopped_after_the_look_up(
    storage: Storage, database: Database, shop: TenantKey, events: Sequence[Event]
) -> AsyncIterator[asyncio.Task[list[str]]]:
    """A batch that has found what its events name, and waits within its transaction until this is left."""
    async with database.tenant_transaction(shop) as rival:
        # A transaction that may yet store an event of the same id, and does not.
        await run(
            rival, shop, b"INSERT INTO event_ids VALUES (%(tenant)s, %(event_id)s, now())", event_id=events[-1].event_id
        )
        writing = asyncio.create_task(_write(storage, shop, events))
        await until_blocked(database)
        yield writing
        await run(rival, shop, b"DELETE FROM event_ids WHERE event_id = %(event_id)s", event_id=events[-1].event_id)


async def _until_done_or_blocked(database: Database, task: asyncio.Task[Any], count: int) -> None:
    blocked = asyncio.create_task(until_blocked(database, count))
    await asyncio.wait([blocked, task], return_when=asyncio.FIRST_COMPLETED)
    blocked.cancel()


async def _left(database: Database, shop: TenantKey) -> dict[str, int]:
    """How many events there are, and of how many there is no id, user, item or type."""
    (row,) = await rows(
        database,
        shop,
        b"SELECT count(*) AS events, count(*) FILTER (WHERE n.event_id IS NULL) AS without_id,"
        b" count(*) FILTER (WHERE u.user_key IS NULL) AS without_user,"
        b" count(*) FILTER (WHERE i.item_key IS NULL) AS without_item,"
        b" count(*) FILTER (WHERE t.event_type_key IS NULL) AS without_type"
        b" FROM events e LEFT JOIN event_ids n USING (tenant_key, event_id)"
        b" LEFT JOIN users u USING (tenant_key, user_key) LEFT JOIN items i USING (tenant_key, item_key)"
        b" LEFT JOIN event_types t USING (tenant_key, event_type_key)",
    )
    return {what: number for what, number in row.items() if number}


async def _erase(storage: Storage, shop: TenantKey) -> None:
    await storage.users.erase(shop, UserId("u"))


async def _merge(storage: Storage, shop: TenantKey) -> None:
    await storage.users.merge(shop, UserKind.USER, "u", UserId("v"))


@pytest.mark.parametrize("size", _SIZES)
@pytest.mark.parametrize("has_state", [True, False])
@pytest.mark.parametrize("leave", [_erase, _merge])
async def test_events_are_of_a_new_user_when_theirs_goes_meanwhile(
    storage: Storage,
    database: Database,
    shop: TenantKey,
    leave: Callable[[Storage, TenantKey], Awaitable[None]],
    has_state: bool,
    size: int,
) -> None:
    if has_state:
        await _write(storage, shop, _events(1, event_id=EventId("before")))
    else:
        await storage.users.change(shop, UserId("u"), lambda user: user, allow_missing=True)
    async with _stopped_after_the_look_up(storage, database, shop, _events(size)) as writing:
        await leave(storage, shop)
    assert await writing == ["stored"] * size
    moved = int(has_state and leave is _merge)
    assert await _left(database, shop) == {"events": size + moved}


@pytest.mark.parametrize("size", _SIZES)
async def test_events_that_are_being_written_go_with_their_item(
    storage: Storage, database: Database, shop: TenantKey, size: int
) -> None:
    async with _stopped_after_the_look_up(storage, database, shop, _events(size)) as writing:
        deleting = asyncio.create_task(storage.items.delete(shop, [_GOES]))
        await _until_done_or_blocked(database, deleting, 2)
    assert await writing == ["stored"] * size
    assert await deleting == {_GOES}
    assert await _left(database, shop) == {"events": size // 2}


@pytest.mark.parametrize("size", _SIZES)
async def test_events_that_come_while_their_item_is_deleted_find_none(
    storage: Storage, database: Database, shop: TenantKey, size: int
) -> None:
    await _write(storage, shop, _events(2, event_id=EventId("before")))
    async with database.tenant_transaction(shop) as rival:
        # What a deletion changes last.
        await run(rival, shop, b"SELECT FROM user_state FOR UPDATE")
        deleting = asyncio.create_task(storage.items.delete(shop, [_GOES]))
        await until_blocked(database)
        writing = asyncio.create_task(_write(storage, shop, _events(size)))
        await until_blocked(database, 2)
    assert await deleting == {_GOES}
    assert await writing == ["ITEM_NOT_FOUND", "stored"] * (size // 2)
    assert await _left(database, shop) == {"events": size // 2}


async def test_users_of_an_event_that_goes_while_it_is_being_written_are_dirty(
    storage: Storage, database: Database, shop: TenantKey
) -> None:
    async with _stopped_after_the_look_up(storage, database, shop, _events(2)) as writing:
        deleting = asyncio.create_task(storage.items.delete(shop, [_GOES]))
        await _until_done_or_blocked(database, deleting, 2)
    await asyncio.gather(writing, deleting)
    assert await rows(database, shop, b"SELECT version, folded_version FROM user_state") == [
        {"version": 2, "folded_version": 0}
    ]


@pytest.mark.parametrize("size", _SIZES)
async def test_an_event_type_stays_while_its_first_events_are_being_written(
    storage: Storage, database: Database, shop: TenantKey, size: int
) -> None:
    await storage.event_types.update(shop, "stare", lambda kind: kind, allow_missing=True)
    events = _events(size, event_type="stare")
    async with _stopped_after_the_look_up(storage, database, shop, events) as writing:
        deleting = asyncio.create_task(storage.event_types.delete(shop, "stare"))
        await _until_done_or_blocked(database, deleting, 2)
    assert await writing == ["stored"] * size
    with pytest.raises(EventTypeInUse):
        await deleting
    assert await _left(database, shop) == {"events": size}


async def test_a_deletion_gives_up_when_a_writer_is_stuck_and_the_others_go_on(
    storage: Storage, database: Database, shop: TenantKey
) -> None:
    async with _stopped_after_the_look_up(storage, database, shop, _events(2)):
        with pytest.raises(StorageUnavailable):
            await storage.items.delete(shop, [_GOES])
        others = _events(1, event_id=EventId("of another"), user_id=UserId("another"))
        assert await _write(storage, shop, others) == ["stored"]
    assert await storage.items.get(shop, _GOES)


async def test_writers_of_other_tenants_do_not_wait_for_each_other(
    storage: Storage, database: Database, shop: TenantKey
) -> None:
    stranger = await storage.tenants.create(TenantId(f"stranger-{uuid.uuid4()}"), "", TenantSettings())
    await storage.items.upsert_many(stranger.tenant_key, [Item(_GOES)])
    async with _stopped_after_the_look_up(storage, database, shop, _events(2)):
        assert await storage.items.delete(stranger.tenant_key, [_GOES]) == {_GOES}
