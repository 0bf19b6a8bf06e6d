"""Events: written in batches, each in one transaction, and read back as pages and snapshots.

`write` is the only way in. A batch that is small goes as arrays in one statement, a large one by COPY (`event_copy`).
What it promises: when it returns, every event that it calls recorded is on disk, exactly once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from psycopg.errors import CheckViolation, DeadlockDetected, UniqueViolation
from psycopg.rows import DictRow

from recsvc.domain.cleaning import are_plain, clean_event
from recsvc.domain.consistency import STRONG, Consistency
from recsvc.domain.errors import DomainError, StorageUnavailable
from recsvc.domain.events import Event, Recorded, StoredEvent
from recsvc.domain.filters import Tree
from recsvc.domain.ids import EventId, ItemId, SessionId, TenantKey, UserId, UserKey
from recsvc.domain.users import UserKind
from recsvc.resilience.backoff import Backoff
from recsvc.resilience.retries import RetryPolicy
from recsvc.storage.changes import Changes
from recsvc.storage.database import Database, execute
from recsvc.storage.event_copy import Written, copy_events, json_column, refusal
from recsvc.storage.failures import ConnectionLost, NoConnection
from recsvc.storage.filter_sql import EVENT_COLUMNS, compile_filter
from recsvc.storage.item_counters import ItemCounterRepository
from recsvc.storage.listing import PageQuestion, fetch_page
from recsvc.storage.replicas import Replicas
from recsvc.storage.retries import CONFLICTS, despite_deadlocks
from recsvc.storage.statements import compose, load

_SQL = load("events")
# Below this many events the round trips of copying cost more than they save.
_COPY_FROM = 2000
_EXPORT_TIMEOUT_S = 3600.0
# One for the month, and some for items and users that others delete, merge and create again meanwhile.
_AGAIN = RetryPolicy(attempts=6, backoff=Backoff(first_s=0.01, longest_s=0.1), longest_s=4.0)
_EXPORT_CHUNK = 1000
# So many are looked at, or cleaned, before others have their turn: the most hostile take a millisecond each to clean.
_LOOKED_AT_AT_ONCE = 1000
_CLEANED_AT_ONCE = 50

Outcome = Recorded | DomainError
_Unique = Mapping[EventId, Event]


class EventRepository:
    """Writes and reads the events of a tenant."""

    def __init__(
        self,
        database: Database,
        replicas: Replicas,
        changes: Changes,
        counters: ItemCounterRepository,
        *,
        longest_transaction_s: float,
    ) -> None:
        """longest_transaction_s: no write takes longer; an incremental export must look back so far."""
        self._database = database
        self._replicas = replicas
        self._changes = changes
        self._counters = counters
        self._longest_transaction_s = longest_transaction_s

    async def write(
        self,
        tenant_key: TenantKey,
        events: Sequence[Event],
        *,
        count_at_once: bool = True,
        timeout_s: float | None = None,
    ) -> list[Outcome]:
        """Store events, each exactly once by its event_id; unknown users are created.

        count_at_once: the counters of items tell of the events when this returns, rather than a moment later. Returns
        one outcome per event, in order: Recorded, or the error that refused it (EventTypeUnknown, ItemNotFound,
        InvalidField). Caches know of the change before this returns.
        """
        judged = await _judged(events)
        good = [event for event in judged if isinstance(event, Event)]
        if not good:
            return [error for error in judged if isinstance(error, DomainError)]
        # An event_id that stands twice is stored once; the later ones are duplicates of the first.
        first = {event.event_id: event for event in reversed(good)}
        written = await self._write_retrying(tenant_key, first, timeout_s)
        repeated = [first[event_id] for event_id, refusal in written.not_stored.items() if refusal is None]
        # Whoever stored these may have died, or lost the answer, before it could say so.
        versions = {**await self._present_versions(tenant_key, repeated), **written.versions}
        if versions:
            await self._changes.users_changed(tenant_key, versions)
        if written.versions and count_at_once:
            await self._counters.count_all()
        if len(first) == len(judged) and not written.not_stored:
            # Nothing was refused and nothing repeated, as is usual.
            return [Recorded(event.event_id, False) for event in good]
        return _outcomes(judged, written.not_stored)

    async def list(
        self, tenant_key: TenantKey, question: PageQuestion, consistency: Consistency = STRONG
    ) -> list[StoredEvent]:
        """A page of events that match."""
        rows = await self._replicas.read_as(
            consistency,
            lambda database: fetch_page(database, tenant_key, _SQL["list_events"], EVENT_COLUMNS, question),
        )
        return [_stored_event(row) for row in rows]

    async def export(
        self,
        tenant_key: TenantKey,
        tree: Tree | None,
        modified_after: datetime | None,
        now: datetime,
        *,
        may_lag: bool = True,
    ) -> AsyncIterator[tuple[datetime, Sequence[StoredEvent]]]:
        """All events that match, in chunks, from one consistent snapshot; with each the moment of the snapshot.

        may_lag: whether a replica may answer.
        """
        condition = compile_filter(tree, EVENT_COLUMNS, now)
        query = compose(_SQL["export_events"], filter=condition.condition)
        params = {"tenant": tenant_key, "modified_after": modified_after, **condition.params}
        async with self._replicas.export_transaction(
            tenant_key, timeout_s=_EXPORT_TIMEOUT_S, may_lag=may_lag
        ) as connection:
            snapshot_time = await self._database.snapshot_time(connection, self._longest_transaction_s)
            sent = False
            async with connection.cursor("export_events") as rows:
                await rows.execute(query, params)
                while chunk := await rows.fetchmany(_EXPORT_CHUNK):
                    sent = True
                    yield snapshot_time, [_stored_event(row) for row in chunk]
            if not sent:
                yield snapshot_time, []

    async def delete_expired(self, limit: int) -> int:
        """Delete up to so many events, of all tenants, that are older than their tenant keeps them; returns how many.

        Their ids go with them, and the states of their users follow.
        """

        async def delete() -> list[DictRow]:
            async with self._database.service_transaction() as connection:
                cursor = await execute(connection, _SQL["delete_expired"], {"limit": limit})
                return list(await cursor.fetchall())

        rows = await despite_deadlocks(self._database, "delete_expired", delete)
        for row in rows:
            versions = dict(zip(row["user_keys"] or (), row["versions"] or (), strict=True))
            await self._changes.users_changed(TenantKey(row["tenant_key"]), versions)
        return sum(row["deleted"] for row in rows)

    async def _write_retrying(self, tenant_key: TenantKey, events: _Unique, timeout_s: float | None) -> Written:
        async def make_way(error: Exception) -> None:
            if isinstance(error, CheckViolation):
                # No partition for this month yet: the month has just begun.
                await self._ensure_partitions([event.event_time for event in events.values()])

        try:
            return await self._database.retries.run(
                "write_events",
                lambda: self._write_once(tenant_key, events, timeout_s),
                _AGAIN,
                self._is_worth_another,
                before_another=make_way,
            )
        except DeadlockDetected as error:
            raise StorageUnavailable from error

    def _is_worth_another(self, error: Exception) -> bool:
        """Events have ids, so that writing them twice stores them once, whatever became of the first attempt."""
        if isinstance(error, NoConnection):
            # One will be free; while the server is away none would.
            return self._database.is_slow()
        return isinstance(error, (*CONFLICTS, CheckViolation, UniqueViolation, ConnectionLost))

    async def _write_once(self, tenant_key: TenantKey, events: _Unique, timeout_s: float | None) -> Written:
        if len(events) < _COPY_FROM:
            return await self._write_arrays(tenant_key, events)
        try:
            return await self._copy(tenant_key, events, frozenset(), timeout_s)
        except UniqueViolation:
            # Somebody sends again what is stored already, which is rare: it is looked for only now.
            stored = await self._stored_ids(tenant_key, events)
            return await self._copy(tenant_key, events, stored, timeout_s)

    async def _write_arrays(self, tenant_key: TenantKey, events: _Unique) -> Written:
        params = {"tenant": tenant_key, **_arrays(events.values())}
        *not_stored, touched = await self._database.run_once(
            tenant_key, _SQL["write_events"], params, setting=_SQL["keep_referenced"].encode()
        )
        return Written(
            {
                row["event_id"]: refusal(
                    events[row["event_id"]], has_type=not row["unknown_type"], has_item=not row["unknown_item"]
                )
                for row in not_stored
            },
            dict(zip(touched["user_keys"] or (), touched["versions"] or (), strict=True)),
        )

    async def _copy(
        self, tenant_key: TenantKey, events: _Unique, stored: Collection[EventId], timeout_s: float | None
    ) -> Written:
        async with self._database.tenant_transaction(tenant_key, timeout_s=timeout_s) as connection:
            await execute(connection, _SQL["keep_referenced"])
            return await copy_events(connection, tenant_key, events, stored)

    async def _stored_ids(self, tenant_key: TenantKey, event_ids: Iterable[EventId]) -> frozenset[EventId]:
        """Those under which events are stored."""
        params = {"tenant": tenant_key, "event_ids": list(event_ids)}
        rows = await self._database.fetch_all(tenant_key, _SQL["stored_event_ids"], params)
        return frozenset(EventId(row["event_id"]) for row in rows)

    async def _present_versions(self, tenant_key: TenantKey, events: Sequence[Event]) -> dict[UserKey, int]:
        """Of the users that these stored events are of."""
        if not events:
            return {}
        arrays = _arrays(events)
        params = {"tenant": tenant_key, "kinds": arrays["kinds"], "user_ids": arrays["user_ids"]}
        rows = await self._database.fetch_all(tenant_key, _SQL["present_versions"], params)
        return {UserKey(row["user_key"]): row["version"] for row in rows}

    async def _ensure_partitions(self, moments: Sequence[datetime]) -> None:
        async with self._database.service_transaction() as connection:
            months = sorted({moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0) for moment in moments})
            await execute(
                connection, _SQL["ensure_partitions"], {"moments": [month + timedelta(days=14) for month in months]}
            )


async def _judged(events: Sequence[Event]) -> list[Event | DomainError]:
    """Each event as it is to be stored, or what is wrong with it."""
    judged: list[Event | DomainError] = []
    for first in range(0, len(events), _LOOKED_AT_AT_ONCE):
        some = events[first : first + _LOOKED_AT_AT_ONCE]
        judged += some if are_plain(some) else await _cleaned(some)
        if len(judged) < len(events):
            await asyncio.sleep(0)
    return judged


async def _cleaned(events: Sequence[Event]) -> list[Event | DomainError]:
    cleaned: list[Event | DomainError] = []
    for position, event in enumerate(events, start=1):
        try:
            cleaned.append(clean_event(event))
        except DomainError as error:
            cleaned.append(error)
        if position % _CLEANED_AT_ONCE == 0:
            await asyncio.sleep(0)
    return cleaned


def _outcomes(judged: Sequence[Event | DomainError], not_stored: Mapping[EventId, DomainError | None]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    told: set[EventId] = set()
    for event in judged:
        if isinstance(event, DomainError):
            outcomes.append(event)
            continue
        duplicate = event.event_id in not_stored or event.event_id in told
        outcomes.append(not_stored.get(event.event_id) or Recorded(event.event_id, duplicate))
        told.add(event.event_id)
    return outcomes


def _row(event: Event) -> tuple[object, ...]:
    known = event.user_id is not None
    return (
        event.event_id,
        event.event_type,
        UserKind.USER.value if known else UserKind.SESSION.value,
        event.user_id if known else event.session_id,
        event.session_id,
        event.item_id,
        event.value,
        event.event_time,
        event.recommendation_id,
        *json_column((event.context, event.properties)),
    )


_ARRAYS = (
    "event_ids",
    "event_types",
    "kinds",
    "user_ids",
    "session_ids",
    "item_ids",
    "event_values",
    "event_times",
    "recommendation_ids",
    "contexts",
    "properties",
)


def _arrays(events: Iterable[Event]) -> dict[str, list[object] | None]:
    columns = zip(*map(_row, events), strict=True)
    # Most events have no value, context or properties: that need not be said a thousand times.
    return {
        name: list(column) if any(value is not None for value in column) else None
        for name, column in zip(_ARRAYS, columns, strict=True)
    }


def _stored_event(row: DictRow) -> StoredEvent:
    return StoredEvent(
        event=Event(
            event_id=EventId(row["event_id"]),
            event_type=row["event_type"],
            item_id=ItemId(row["item_id"]),
            event_time=row["event_time"],
            user_id=UserId(row["user_id"]) if row["user_id"] is not None else None,
            session_id=SessionId(row["session_id"]) if row["session_id"] is not None else None,
            value=row["value"],
            context=row["context"] or {},
            recommendation_id=row["recommendation_id"],
            properties=row["properties"] or {},
        ),
        create_time=row["create_time"],
    )
