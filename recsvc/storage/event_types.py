"""Event types: how much each kind of event tells about taste, per tenant."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import numpy as np
from psycopg.rows import DictRow

from recsvc.domain.cleaning import check_name
from recsvc.domain.errors import EventTypeInUse, EventTypeNotFound
from recsvc.domain.events import EventType
from recsvc.domain.ids import TenantKey
from recsvc.storage.changes import Changes
from recsvc.storage.database import Database, execute
from recsvc.storage.event_references import await_event_writers
from recsvc.storage.statements import load
from recsvc.storage.tenants import raise_version

_SQL = load("events")


class EventTypeRepository:
    """Event types of a tenant. A change makes every user of the tenant dirty, since it changes what all events mean."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def list(self, tenant_key: TenantKey, after: str, limit: int) -> list[EventType]:
        """Event types by name, after the given name."""
        rows = await self._database.fetch_all(
            tenant_key, _SQL["list_event_types"], {"tenant": tenant_key, "after": after, "limit": limit}
        )
        return [_event_type(row) for row in rows]

    async def update(
        self, tenant_key: TenantKey, name: str, change: Callable[[EventType], EventType], *, allow_missing: bool
    ) -> EventType:
        """Apply a change to the type as it is now, or to a blank one. Raises EventTypeNotFound and InvalidField."""
        check_name(name, "event_type.event_type")
        async with self._database.tenant_transaction(tenant_key, timeout_s=60) as connection:
            cursor = await execute(connection, _SQL["get_event_type"], {"tenant": tenant_key, "event_type": name})
            row = await cursor.fetchone()
            if row is None and not allow_missing:
                raise EventTypeNotFound(name)
            changed = change(_event_type(row) if row else EventType(name, weight=0.0, counts_as_seen=False))
            parameters = {
                "tenant": tenant_key,
                "event_type": name,
                # The column has single precision, and PostgreSQL refuses what becomes zero by it.
                "weight": float(np.float32(changed.weight)),
                "half_life_s": changed.half_life.total_seconds() if changed.half_life else None,
                "counts_as_seen": changed.counts_as_seen,
                "conversion": changed.conversion,
            }
            cursor = await execute(connection, _SQL["upsert_event_type"], parameters)
            stored = _event_type(await cursor.fetchone())
            if row is not None:
                await execute(connection, _SQL["dirty_all_users"], {"tenant": tenant_key})
            version = await raise_version(connection, tenant_key)
        await self._changes.tenant_changed(tenant_key, version)
        return stored

    async def delete(self, tenant_key: TenantKey, name: str) -> None:
        """Raises EventTypeNotFound, or EventTypeInUse while events of the type are stored."""
        async with self._database.tenant_transaction(tenant_key) as connection:
            parameters = {"tenant": tenant_key, "event_type": name}
            cursor = await execute(connection, _SQL["get_event_type"], parameters)
            row = await cursor.fetchone()
            if row is None:
                raise EventTypeNotFound(name)
            await await_event_writers(connection)
            cursor = await execute(
                connection,
                _SQL["event_type_in_use"],
                {"tenant": tenant_key, "event_type_key": row["event_type_key"]},
            )
            if (await cursor.fetchone())["used"]:
                raise EventTypeInUse(f"events of type {name!r} are stored; set its weight to 0 instead")
            await execute(connection, _SQL["delete_event_type"], parameters)


def _event_type(row: DictRow) -> EventType:
    half_life_s = row["half_life_s"]
    return EventType(
        event_type=row["event_type"],
        weight=row["weight"],
        half_life=timedelta(seconds=half_life_s) if half_life_s is not None else None,
        counts_as_seen=row["counts_as_seen"],
        conversion=row["conversion"],
        create_time=row["create_time"],
        update_time=row["update_time"],
    )
