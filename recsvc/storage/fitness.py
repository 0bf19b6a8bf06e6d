"""Whether the database answers, and whether it has what this version needs: all migrations, and pgvector."""

from __future__ import annotations

from functools import cache

import psycopg

from recsvc.domain.errors import DeadlinePassed, StorageUnavailable
from recsvc.resilience.dependencies import Condition, Finding
from recsvc.storage.database import Database, execute
from recsvc.storage.migrator import migrations
from recsvc.storage.statements import load

_SQL = load("schema")
# The first with halfvec and iterative index scans.
_VECTOR_VERSION = (0, 8)


async def look(database: Database) -> Finding:
    """One statement, or none while the breaker leaves PostgreSQL alone: its prober asks then."""
    try:
        async with database.service_transaction() as connection:
            cursor = await execute(connection, _SQL["schema_state"])
            row = await cursor.fetchone()
    except StorageUnavailable as error:
        return Finding(Condition.AWAY, type(error.__cause__).__name__)
    except DeadlinePassed:
        return Finding(Condition.AWAY, "the statement took too long")
    except psycopg.errors.UndefinedTable:
        return Finding(Condition.UNFIT, "the database was never migrated")
    fault = _vector_fault(row["vector_version"]) or _migration_fault(row["applied"] or [])
    return Finding(Condition.UNFIT, fault) if fault else Finding(Condition.WELL)


def _vector_fault(version: str | None) -> str:
    if version is None:
        return "the extension vector is missing"
    if tuple(int(part) for part in version.split(".")[:2]) < _VECTOR_VERSION:
        needed = ".".join(map(str, _VECTOR_VERSION))
        return f"pgvector is {version}, and {needed} or later is needed: ALTER EXTENSION vector UPDATE"
    return ""


def _migration_fault(applied: list[int]) -> str:
    # More than ours is fine: a newer version of the service may have migrated already.
    missing = sorted(_our_versions() - set(applied))
    return f"migrations are missing: {', '.join(map(str, missing))}" if missing else ""


@cache
def _our_versions() -> frozenset[int]:
    return frozenset(migration.version for migration in migrations())
