"""The audit log: appended to in the transaction that an entry tells of, read by whoever runs the service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from recsvc.domain.audit import AuditEntry, AuditQuestion
from recsvc.domain.ids import TenantId, TenantKey
from recsvc.storage.connection import Connection
from recsvc.storage.database import Database, execute
from recsvc.storage.statements import load

_SQL = load("audit_log")


async def append(connection: Connection, entry: AuditEntry | None) -> None:
    """Add an entry to the transaction of this connection, if there is one to add."""
    if entry is not None:
        parameters = {
            "tenant_key": entry.tenant_key,
            "tenant_id": entry.tenant_id,
            "actor": entry.actor,
            "action": entry.action,
            "targets": list(entry.targets),
            "outcome": entry.outcome,
            "request_id": entry.request_id,
        }
        await execute(connection, _SQL["append_entry"], parameters)


class AuditLog:
    """Entries of all tenants, so it works as the owner of the schema."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, entry: AuditEntry) -> None:
        """Add an entry by itself: of what was refused, and so changed nothing."""
        async with self._database.service_transaction() as connection:
            await append(connection, entry)

    async def list(self, question: AuditQuestion) -> Sequence[AuditEntry]:
        """Entries, newest first."""
        async with self._database.service_transaction() as connection:
            cursor = await execute(connection, _SQL["list_entries"], asdict(question))
            rows = await cursor.fetchall()
        return [
            AuditEntry(
                tenant_key=TenantKey(row["tenant_key"]) if row["tenant_key"] is not None else None,
                tenant_id=TenantId(row["tenant_id"]),
                actor=row["actor"],
                action=row["action"],
                targets=tuple(row["targets"]),
                outcome=row["outcome"],
                request_id=row["request_id"],
                key=row["entry_key"],
                time=row["entry_time"],
            )
            for row in rows
        ]

    async def delete_older(self, days: int, limit: int) -> int:
        """Delete up to so many entries older than this, 30 days at least; returns how many there were."""
        async with self._database.service_transaction() as connection:
            cursor = await execute(connection, _SQL["delete_old_entries"], {"days": days, "limit": limit})
            return int(cursor.rowcount)
