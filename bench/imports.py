"""Bulk import of events against the floor: a raw binary COPY of the same rows into the same indexed table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from recsvc.app import Storage
from recsvc.datasets import seed_dataset
from recsvc.domain.events import Event
from recsvc.domain.ids import TenantId
from recsvc.domain.tenancy import TenantSettings

_CHUNK = 20_000
_COPY_EVENTS = (
    b"COPY events (tenant_key, event_time, create_time, event_id, event_type_key, user_key, item_key,"
    b" session_id, value, recommendation_id) FROM STDIN (FORMAT BINARY)"
)
_COPY_IDS = b"COPY event_ids (tenant_key, event_id, event_time) FROM STDIN (FORMAT BINARY)"
_ID_TYPES = ("int8", "text", "timestamptz")
_COPY_TYPES = ("int8", "timestamptz", "timestamptz", "text", "int4", "int8", "int8", "text", "float8", "text")


@dataclass(frozen=True, slots=True)
class ImportResult:
    """Rows a second."""

    rows: int
    import_rows_per_s: float
    copy_rows_per_s: float


async def measure(storage: Storage, items: int, users: int, events_per_user: float) -> tuple[TenantId, ImportResult]:
    """Import a generated data set into a new tenant, then copy the same rows raw; the tenant stays for training."""
    tenant_id = TenantId("bench-import")
    tenant = await storage.tenants.create(tenant_id, "", TenantSettings())
    now = datetime.now(UTC)
    dataset = seed_dataset(items=items, users=users, events_per_user=events_per_user, seed=7, now=now)
    await storage.items.upsert_many(tenant.tenant_key, list(dataset.items()))
    events = list(dataset.events())
    start = time.perf_counter()
    for first in range(0, len(events), _CHUNK):
        await storage.events.write(tenant.tenant_key, events[first : first + _CHUNK], timeout_s=600)
    import_s = time.perf_counter() - start
    copied = await raw_copy(storage, events)
    await storage.database.analyze()
    return tenant_id, ImportResult(len(events), len(events) / import_s, copied)


async def raw_copy(storage: Storage, events: Sequence[Event], *, with_ids: bool = False) -> float:
    """Rows a second of a raw binary COPY of these events into the very table, from keys that are known already.

    with_ids: also into the table whose index makes an event_id unique, as a table of its own must have.
    """
    # A tenant that is nobody's, so that the rows can be told from all others.
    tenant_key, now = -1, datetime.now(UTC)
    keys: dict[str | None, int] = {}
    async with storage.database.connection() as connection:
        start = time.perf_counter()
        for first in range(0, len(events), _CHUNK):
            async with connection.transaction(), connection.cursor() as cursor:
                async with cursor.copy(_COPY_EVENTS) as copy:
                    copy.set_types(_COPY_TYPES)
                    for event in events[first : first + _CHUNK]:
                        user = keys.setdefault(event.user_id or event.session_id, len(keys))
                        item = keys.setdefault(event.item_id, len(keys))
                        row = (tenant_key, event.event_time, now, event.event_id, 1, user)
                        await copy.write_row((*row, item, event.session_id, event.value, event.recommendation_id))
                if with_ids:
                    async with cursor.copy(_COPY_IDS) as copy:
                        copy.set_types(_ID_TYPES)
                        for event in events[first : first + _CHUNK]:
                            await copy.write_row((tenant_key, event.event_id, event.event_time))
        copy_s = time.perf_counter() - start
        await connection.execute(b"DELETE FROM events WHERE tenant_key = -1")
        await connection.execute(b"DELETE FROM event_ids WHERE tenant_key = -1")
        # Else PostgreSQL does so by itself, beside what is measured next.
        await connection.execute(b"VACUUM events, event_ids")
    return len(events) / copy_s
