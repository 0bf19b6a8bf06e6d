"""Large batches of events: what they name is looked up once each, and the rows go by COPY straight into their tables.

That costs PostgreSQL half of what a statement does that takes the rows from elsewhere. In return nothing may be wrong
with a row any more: its keys are looked up before, and an id that is stored already ends the transaction.

COPY cannot run under row-level security. It runs as the owner of the tables, and its rows do not say whose they are:
the default of that column is the tenant which the transaction names (`current_tenant_v1`), and without one they fail.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from recsvc.domain.decay import seconds_since_epoch
from recsvc.domain.errors import DomainError, EventTypeUnknown, ItemNotFound
from recsvc.domain.events import Event, event_signal
from recsvc.domain.ids import EventId, ItemKey, TenantKey, UserKey
from recsvc.domain.users import UserKind
from recsvc.storage.binary_copy import HEADER, TRAILER, signals_row
from recsvc.storage.connection import Connection
from recsvc.storage.database import execute
from recsvc.storage.statements import load

_SQL = load("event_copy")
_ID_COLUMNS = ("text", "timestamptz")
_EVENT_COLUMNS = ("timestamptz", "text", "int4", "int8", "int8", "text", "float8", "text", "jsonb", "jsonb")


@dataclass(frozen=True, slots=True)
class Written:
    """What a batch changed. not_stored: why not, by event_id; None for what had been stored before."""

    not_stored: Mapping[EventId, DomainError | None]
    versions: Mapping[UserKey, int]


@dataclass(frozen=True, slots=True)
class _Named:
    """What the events of a batch name, as far as it is there. event_types: key and weight."""

    event_types: Mapping[str, tuple[int, float]]
    items: Mapping[str, ItemKey]
    users: dict[str | None, UserKey]
    sessions: dict[str | None, UserKey]

    def user_of(self, event: Event) -> UserKey | None:
        """The key of whose event it is."""
        return self.sessions.get(event.session_id) if event.user_id is None else self.users.get(event.user_id)


async def copy_events(
    connection: Connection, tenant_key: TenantKey, events: Mapping[EventId, Event], stored: Collection[EventId]
) -> Written:
    """Store a batch in a transaction of the tenant; locks are taken in the order in which `write_events` takes them.

    stored: ids under which events are stored already. Raises UniqueViolation when there are others.
    """
    named = await _looked_up(connection, tenant_key, events.values())
    not_stored: dict[EventId, DomainError | None] = {}
    # In the order of their ids, so that batches with the same ones wait for each other at the first of them.
    good: list[Event] = []
    for event_id in sorted(events):
        event = events[event_id]
        error = refusal(event, has_type=event.event_type in named.event_types, has_item=event.item_id in named.items)
        if error is not None or event_id in stored:
            not_stored[event_id] = error
        else:
            good.append(event)
    if not good:
        return Written(not_stored, {})
    await execute(connection, _SQL["leave_role"])
    await _copy_ids(connection, good)
    if unknown := [event for event in good if named.user_of(event) is None]:
        await execute(connection, _SQL["take_role"])
        await _create_users(connection, tenant_key, unknown, named)
        await execute(connection, _SQL["leave_role"])
    user_keys = [named.user_of(event) for event in good]
    await _copy_rows(connection, good, user_keys, named)
    await _copy_signals(connection, good, named)
    await execute(connection, _SQL["take_role"])
    params = {"tenant": tenant_key, "user_keys": list(set(user_keys))}
    cursor = await execute(connection, _SQL["touch_users"], params)
    return Written(not_stored, {UserKey(row["user_key"]): row["version"] for row in await cursor.fetchall()})


async def _looked_up(connection: Connection, tenant_key: TenantKey, events: Collection[Event]) -> _Named:
    params = {"tenant": tenant_key, "event_types": list({event.event_type for event in events})}
    event_types = await execute(connection, _SQL["look_up_event_types"], params)
    params = {"tenant": tenant_key, "item_ids": list({event.item_id for event in events})}
    items = await execute(connection, _SQL["look_up_items"], params)
    users = await execute(connection, _SQL["look_up_users"], {"tenant": tenant_key, **_ids_by_kind(events)})
    return _Named(
        {row["event_type"]: (row["event_type_key"], row["weight"]) for row in await event_types.fetchall()},
        {row["item_id"]: ItemKey(row["item_key"]) for row in await items.fetchall()},
        *_keys_by_kind(await users.fetchall()),
    )


async def _create_users(connection: Connection, tenant_key: TenantKey, events: Iterable[Event], named: _Named) -> None:
    """Create those whose events these are."""
    cursor = await execute(connection, _SQL["create_users"], {"tenant": tenant_key, **_ids_by_kind(events)})
    users, sessions = _keys_by_kind(await cursor.fetchall())
    named.users.update(users)
    named.sessions.update(sessions)


def _ids_by_kind(events: Iterable[Event]) -> dict[str, list[str | None]]:
    users = {event.user_id for event in events} - {None}
    sessions = {event.session_id for event in events if event.user_id is None}
    return {"user_ids": list(users), "session_ids": list(sessions)}


def _keys_by_kind(rows: Iterable[DictRow]) -> tuple[dict[str | None, UserKey], dict[str | None, UserKey]]:
    """The keys of users, and those of sessions."""
    users: dict[str | None, UserKey] = {}
    sessions: dict[str | None, UserKey] = {}
    for row in rows:
        (users if row["kind"] == UserKind.USER else sessions)[row["user_id"]] = UserKey(row["user_key"])
    return users, sessions


def refusal(event: Event, *, has_type: bool, has_item: bool) -> DomainError | None:
    """Why an event cannot be stored that names what is not there."""
    if not has_type:
        return EventTypeUnknown("event_type", f"the tenant has no event type {event.event_type!r}")
    if not has_item:
        return ItemNotFound(event.item_id, field="item_id")
    return None


async def _copy_ids(connection: Connection, events: Iterable[Event]) -> None:
    async with connection.cursor() as cursor, cursor.copy(_SQL["copy_event_ids"].encode()) as copy:
        copy.set_types(_ID_COLUMNS)
        for event in events:
            await copy.write_row((event.event_id, event.event_time))


async def _copy_rows(
    connection: Connection, events: Iterable[Event], user_keys: Iterable[UserKey | None], named: _Named
) -> None:
    async with connection.cursor() as cursor, cursor.copy(_SQL["copy_events"].encode()) as copy:
        copy.set_types(_EVENT_COLUMNS)
        for event, user_key in zip(events, user_keys, strict=True):
            await copy.write_row(
                (
                    event.event_time,
                    event.event_id,
                    named.event_types[event.event_type][0],
                    user_key,
                    named.items[event.item_id],
                    event.session_id,
                    event.value,
                    event.recommendation_id,
                    Jsonb(dict(event.context)) if event.context else None,
                    Jsonb(dict(event.properties)) if event.properties else None,
                )
            )


async def _copy_signals(connection: Connection, events: Sequence[Event], named: _Named) -> None:
    """What the events say about their items, to be added to the counters of these."""
    signals = np.array([event_signal(event, named.event_types[event.event_type][1]) for event in events])
    is_positive = signals > 0
    if not is_positive.any():
        return
    item_keys = np.array([named.items[event.item_id] for event in events], dtype=np.int64)
    ages_s = np.array([seconds_since_epoch(event.event_time) for event in events])
    row = signals_row(item_keys[is_positive], np.log2(signals[is_positive]), ages_s[is_positive])
    async with connection.cursor() as cursor, cursor.copy(_SQL["copy_item_signals"].encode()) as copy:
        await copy.write(HEADER + row + TRAILER)
