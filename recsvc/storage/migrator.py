"""Brings the schema to this version: the numbered files of migrations/, each once, in order, all in one transaction.

Expand/contract: version N and N − 1 of the service run on either schema, so that a rolling release needs no pause.
An advisory lock lets any number of processes start at once; one migrates, the others wait and find the work done. It is
held by the transaction, not by the session: a pooler in between may give every transaction another session.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

import psycopg

from recsvc.storage.failures import translated_errors

# Any constant will do, as long as every version of the service uses the same.
_LOCK = 7_264_737_663

_CREATE_LEDGER = b"""
CREATE TABLE IF NOT EXISTS schema_migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    apply_time timestamptz NOT NULL DEFAULT now()
)"""


class MigrationError(RuntimeError):
    """Occurs when the database was migrated by other files than ours; says which."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: 0001_initial.sql is version 1 with name `initial`."""

    version: int
    name: str
    script: str

    @property
    def checksum(self) -> str:
        """Of the script: an applied file must never change."""
        return hashlib.sha256(self.script.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All files of this version of the service, in order."""
    found = []
    for entry in (resources.files("recsvc.storage") / "migrations").iterdir():
        if entry.name.endswith(".sql"):
            number, _, name = entry.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, entry.read_text(encoding="utf-8")))
    return sorted(found, key=lambda migration: migration.version)


async def migrate(url: str) -> list[Migration]:
    """Apply what is missing; returns what was applied. Raises MigrationError when an applied file has changed."""
    with translated_errors():
        connection = await psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=10)
    async with connection, connection.transaction():
        await connection.execute(b"SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        await connection.execute(_CREATE_LEDGER)
        cursor = await connection.execute(b"SELECT version, checksum FROM schema_migrations")
        applied: dict[int, str] = dict(await cursor.fetchall())
        done = []
        for migration in migrations():
            checksum = applied.get(migration.version)
            if checksum is not None:
                if checksum != migration.checksum:
                    raise MigrationError(
                        f"migration {migration.version} ({migration.name}) differs from the one applied"
                    )
                continue
            async with connection.transaction():
                await connection.execute(migration.script.encode())
                await connection.execute(
                    b"INSERT INTO schema_migrations (version, name, checksum) VALUES (%s, %s, %s)",
                    [migration.version, migration.name, migration.checksum],
                )
            done.append(migration)
        return done


async def pending(url: str) -> int:
    """How many migrations are still to be applied; 0 when the schema is current."""
    with translated_errors():
        connection = await psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=10)
    async with connection:
        cursor = await connection.execute(b"SELECT to_regclass('schema_migrations')")
        row = await cursor.fetchone()
        if row is None or row[0] is None:
            return len(migrations())
        cursor = await connection.execute(b"SELECT count(*) FROM schema_migrations")
        row = await cursor.fetchone()
        return len(migrations()) - int(row[0] if row else 0)
