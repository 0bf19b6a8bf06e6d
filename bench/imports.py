"""Bulk import of events against the floor: a raw binary COPY of the same rows into a table with the same indexes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from recsvc.app import Storage
from recsvc.datasets import seed_dataset
from recsvc.domain.ids import TenantId
from recsvc.domain.tenancy import TenantSettings

_CHUNK = 20_000
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
    item_codes = {item.item_id: code for code, item in enumerate(dataset.items())}
    user_codes = {event.user_id or event.session_id: code for code, event in enumerate(events)}
    async with storage.database.connection() as connection:
        # Partitioned tables copy their indexes, not their partitions: one table with the same indexes is the floor.
        await connection.execute(b"CREATE TABLE bench_events (LIKE events INCLUDING DEFAULTS INCLUDING INDEXES)")
        try:
            start = time.perf_counter()
            for first in range(0, len(events), _CHUNK):
                async with (
                    connection.transaction(),
                    connection.cursor() as cursor,
                    cursor.copy(
                        b"COPY bench_events (tenant_key, event_time, create_time, event_id, event_type_key, user_key,"
                        b" item_key, session_id, value, recommendation_id) FROM STDIN (FORMAT BINARY)"
                    ) as copy,
                ):
                    copy.set_types(_COPY_TYPES)
                    for event in events[first : first + _CHUNK]:
                        user = user_codes[event.user_id or event.session_id]
                        row = (tenant.tenant_key, event.event_time, now, event.event_id, 1, user)
                        item = item_codes[event.item_id]
                        await copy.write_row((*row, item, event.session_id, event.value, event.recommendation_id))
            copy_s = time.perf_counter() - start
        finally:
            await connection.execute(b"DROP TABLE bench_events")
    await storage.database.analyze()
    return tenant_id, ImportResult(len(events), len(events) / import_s, len(events) / copy_s)
