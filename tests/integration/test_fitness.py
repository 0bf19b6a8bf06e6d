"""What a look at PostgreSQL finds: well, away, or without what this version needs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from recsvc.app import open_storage
from recsvc.resilience.dependencies import Condition
from recsvc.settings import Settings
from recsvc.storage.database import Database
from recsvc.storage.fitness import look
from recsvc.storage.migrator import MigrationError, migrate, migrations
from recsvc.telemetry.metrics import Metrics
from tests.databases import own_database


@pytest.fixture
async def own_url(database_url: str) -> AsyncIterator[str]:
    """A migrated database that the test may spoil."""
    async with own_database(database_url, "fitness") as url:
        await migrate(url)
        yield url


@asynccontextmanager
async def _opened(url: str, settings: Settings) -> AsyncIterator[Database]:
    async with Database(url, settings.postgres, Metrics()) as database:
        yield database


async def _spoil(url: str, statement: bytes | sql.Composed) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(statement)


async def test_a_migrated_database_is_well(database: Database) -> None:
    assert (await look(database)).condition is Condition.WELL


async def test_migrations_of_a_newer_version_do_no_harm(own_url: str, settings: Settings) -> None:
    await _spoil(own_url, b"INSERT INTO schema_migrations (version, name, checksum) VALUES (9999, 'newer', '')")
    async with _opened(own_url, settings) as own:
        assert (await look(own)).condition is Condition.WELL


async def test_a_missing_migration_is_named(own_url: str, settings: Settings) -> None:
    last = migrations()[-1].version
    await _spoil(own_url, b"DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations)")
    async with _opened(own_url, settings) as own:
        found = await look(own)
    assert (found.condition, found.detail) == (Condition.UNFIT, f"migrations are missing: {last}")


async def test_an_empty_database_is_told_as_such(own_url: str, settings: Settings) -> None:
    await _spoil(own_url, b"DROP TABLE schema_migrations")
    async with _opened(own_url, settings) as own:
        found = await look(own)
    assert (found.condition, found.detail) == (Condition.UNFIT, "the database was never migrated")


async def test_the_service_does_not_start_on_a_pgvector_that_is_too_old(own_url: str, settings: Settings) -> None:
    await _spoil(own_url, b"UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'")
    changed = settings.model_copy(update={"database_url": SecretStr(own_url)})
    with pytest.raises(MigrationError, match=r"pgvector is 0\.7\.4, and 0\.8 or later is needed"):
        await open_storage(changed).__aenter__()


async def test_a_database_that_is_gone_is_away(own_url: str, settings: Settings) -> None:
    async with _opened(own_url, settings) as own:
        name = sql.Identifier(str(conninfo_to_dict(own_url)["dbname"]))
        drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name)
        await _spoil(make_conninfo(own_url, dbname="postgres"), drop)
        found = await look(own)
    assert found.condition is Condition.AWAY
