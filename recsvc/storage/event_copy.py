"""Large batches of events: what they name is looked up once each, and the rows go by COPY straight into their tables.

That costs PostgreSQL a third less than one statement that takes the rows from a temporary table. In return nothing may
be wrong with a row any more: its keys are looked up before, and an id that is stored already ends the transaction.

COPY cannot run under row-level security. It runs as the owner of the tables, and its rows do not say whose they are:
the default of that column is the tenant which the transaction names (`current_tenant_v1`), and without one they fail.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import numpy as np
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from recsvc.domain.decay import seconds_since_epoch
from recsvc.domain.errors import DomainError, EventTypeUnknown, ItemNotFound
from recsvc.domain.events import Event, event_signal
from recsvc.domain.ids import EventId, ItemKey, TenantKey, UserKey
from recsvc.storage.binary_copy import HEADER, TRAILER, signals_row
from recsvc.storage.connection import Connection
from recsvc.storage.database import execute
from recsvc.storage.statements import load

_SQL = load("event_copy")
_EventType = tuple[int, float]
"""Key and weight."""
_USER_KEY = 3
_Columns = Mapping[str, Sequence[Any]]
# No name holds one (domain.text).
_JOINT = "\n"
_ID_TYPES = ("text", "timestamptz")
_EVENT_TYPES = ("timestamptz", "text", "int4", "int8", "int8", "text", "float8", "text", "jsonb", "jsonb")


@dataclass(frozen=True, slots=True)
class Written:
    """What a batch changed. not_stored: why not, by event_id; None for what had been stored before."""

    not_stored: Mapping[EventId, DomainError | None]
    versions: Mapping[UserKey, int]


@dataclass(frozen=True, slots=True)
class _Named:
    """The keys of what the events of a batch name, as far as it is there."""

    event_types: Mapping[str, _EventType]
    items: Mapping[str, ItemKey]
    users: Mapping[str | None, UserKey]
    sessions: Mapping[str | None, UserKey]

    def user_keys(self, columns: _Columns) -> list[UserKey | None]:
        """For each event the key of whose it is; None for somebody new."""
        users, sessions = self.users, self.sessions
        return [
            users.get(user_id) if user_id is not None else sessions.get(session_id)
            for user_id, session_id in zip(columns["user_id"], columns["session_id"], strict=True)
        ]


async def copy_events(
    connection: Connection, tenant_key: TenantKey, events: Mapping[EventId, Event], stored: Collection[EventId]
) -> Written:
    """Store a batch in a transaction of the tenant; locks are taken in the order in which `write_events` takes them.

    stored: ids under which events are stored already. Raises UniqueViolation when there are others.
    """
    named = await _looked_up(connection, tenant_key, events.values())
    # In the order of their ids, so that batches with the same ones wait for each other at the first of them.
    in_order = [events[event_id] for event_id in sorted(events)]
    types, items = named.event_types, named.items
    not_stored = {
        event.event_id: refusal(event, has_type=event.event_type in types, has_item=event.item_id in items)
        for event in in_order
        if event.event_id in stored or event.event_type not in types or event.item_id not in items
    }
    good = [event for event in in_order if event.event_id not in not_stored] if not_stored else in_order
    if not good:
        return Written(not_stored, {})
    columns = _columns(good)
    await execute(connection, _SQL["leave_role"])
    await _copy_rows(
        connection, "copy_event_ids", _ID_TYPES, zip(columns["event_id"], columns["event_time"], strict=True)
    )
    user_keys = named.user_keys(columns)
    if None in user_keys:
        new = [event for event, user_key in zip(good, user_keys, strict=True) if user_key is None]
        await execute(connection, _SQL["take_role"])
        await execute(connection, _SQL["create_users"], {"tenant": tenant_key, **_ids_by_kind(new)})
        users, sessions = await _looked_up_users(connection, tenant_key, good)
        named = replace(named, users=users, sessions=sessions)
        user_keys = named.user_keys(columns)
        await execute(connection, _SQL["leave_role"])
    item_keys = [items[item_id] for item_id in columns["item_id"]]
    rows = zip(
        columns["event_time"],
        columns["event_id"],
        [types[event_type][0] for event_type in columns["event_type"]],
        user_keys,
        item_keys,
        columns["session_id"],
        columns["value"],
        columns["recommendation_id"],
        json_column(columns["context"]),
        json_column(columns["properties"]),
        strict=True,
    )
    # User by user: to put what belongs into one page of an index there in a row costs PostgreSQL a tenth less.
    await _copy_rows(connection, "copy_events", _EVENT_TYPES, sorted(rows, key=itemgetter(_USER_KEY)))
    await _copy_signals(connection, columns, types, item_keys)
    await execute(connection, _SQL["take_role"])
    params = {"tenant": tenant_key, "user_keys": list(set(user_keys))}
    cursor = await execute(connection, _SQL["touch_users"], params)
    touched = await cursor.fetchone()
    return Written(not_stored, dict(zip(touched["user_keys"], touched["versions"], strict=True)))


async def _looked_up(connection: Connection, tenant_key: TenantKey, events: Collection[Event]) -> _Named:
    params = {"tenant": tenant_key, "event_types": list({event.event_type for event in events})}
    cursor = await execute(connection, _SQL["look_up_event_types"], params)
    event_types = {row["event_type"]: (row["event_type_key"], row["weight"]) for row in await cursor.fetchall()}
    params = {"tenant": tenant_key, "item_ids": _JOINT.join({event.item_id for event in events})}
    cursor = await execute(connection, _SQL["look_up_items"], params)
    items = _keys(await cursor.fetchone())
    return _Named(event_types, items, *await _looked_up_users(connection, tenant_key, events))


async def _looked_up_users(
    connection: Connection, tenant_key: TenantKey, events: Collection[Event]
) -> tuple[Mapping[str | None, UserKey], Mapping[str | None, UserKey]]:
    """The keys of users, and those of sessions."""
    cursor = await execute(connection, _SQL["look_up_users"], {"tenant": tenant_key, **_ids_by_kind(events)})
    users, sessions = await cursor.fetchall()
    return _keys(users), _keys(sessions)


def _ids_by_kind(events: Iterable[Event]) -> dict[str, str]:
    users = {event.user_id for event in events if event.user_id is not None}
    sessions = {str(event.session_id) for event in events if event.user_id is None}
    return {"user_ids": _JOINT.join(users), "session_ids": _JOINT.join(sessions)}


def _keys(row: DictRow) -> dict[Any, Any]:
    """Keys by name."""
    return dict(zip(row["ids"] or (), row["keys"] or (), strict=True))


def refusal(event: Event, *, has_type: bool, has_item: bool) -> DomainError | None:
    """Why an event cannot be stored that names what is not there."""
    if not has_type:
        return EventTypeUnknown("event_type", f"the tenant has no event type {event.event_type!r}")
    if not has_item:
        return ItemNotFound(event.item_id, field="item_id")
    return None


def json_column(structs: Iterable[Mapping[str, object]]) -> list[Jsonb | None]:
    """Contexts or properties of events as their columns have them: NULL where there is nothing to say."""
    return [Jsonb(dict(struct)) if struct else None for struct in structs]


def _columns(events: Sequence[Event]) -> _Columns:
    """The fields of events, each as one column: to take a field out of every event costs more than to turn all."""
    return dict(zip(Event._fields, zip(*events, strict=True), strict=True))


async def _copy_rows(
    connection: Connection, statement: str, types: Sequence[str], rows: Iterable[tuple[object, ...]]
) -> None:
    async with connection.cursor() as cursor, cursor.copy(_SQL[statement].encode()) as copy:
        copy.set_types(types)
        for row in rows:
            await copy.write_row(row)


async def _copy_signals(
    connection: Connection, columns: _Columns, event_types: Mapping[str, _EventType], item_keys: Sequence[ItemKey]
) -> None:
    """What the events say about their items, to be added to the counters of these."""
    # Most say one of a few things.
    kinds = list(zip(columns["event_type"], columns["value"], strict=True))
    of_kind = {kind: event_signal(*kind, event_types[kind[0]][1]) for kind in set(kinds)}
    signals = np.array([of_kind[kind] for kind in kinds])
    is_positive = signals > 0
    if not is_positive.any():
        return
    keys = np.array(item_keys, dtype=np.int64)
    ages_s = np.array(list(map(seconds_since_epoch, columns["event_time"])))
    row = signals_row(keys[is_positive], np.log2(signals[is_positive]), ages_s[is_positive])
    async with connection.cursor() as cursor, cursor.copy(_SQL["copy_item_signals"].encode()) as copy:
        await copy.write(HEADER + row + TRAILER)
