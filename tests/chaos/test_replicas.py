"""Streaming replication: what becomes of reads and of the pool when a replica lags or dies and the primary changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from recsvc.domain.errors import StorageUnavailable
from recsvc.settings import PostgresSettings
from recsvc.storage.database import Database
from recsvc.telemetry.metrics import Metrics
from tests.chaos.replication import ReplicatedPair, replicated_pair

_PATIENCE_S = 20


@pytest.fixture
async def pair() -> AsyncIterator[ReplicatedPair]:
    """A primary and its replica, of the test's own."""
    async with replicated_pair() as started:
        yield started


async def _write(database: Database, number: int) -> None:
    async with database.service_transaction() as connection:
        await connection.execute(b"INSERT INTO failover VALUES (%s)", [number])


async def _written_in_the_end(database: Database, number: int) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            with suppress(StorageUnavailable):
                return await _write(database, number)
            await asyncio.sleep(0.05)


async def test_a_pool_finds_the_new_primary_and_loses_nothing_that_was_acknowledged(pair: ReplicatedPair) -> None:
    settings = PostgresSettings(pool_min_size=4)
    async with Database(pair.url, settings, Metrics()) as database:
        async with database.connection() as connection:
            await connection.execute(b"CREATE TABLE failover (number int PRIMARY KEY)")
            await connection.execute(b"ALTER SYSTEM SET synchronous_standby_names = '*'")
            await connection.execute(b"SELECT pg_reload_conf()")
        for number in range(50):
            await _write(database, number)
        pair.kill(pair.primary)
        start = time.monotonic()
        await pair.promote()
        promoted_s = time.monotonic() - start
        # The new primary has the setting, too, and nobody who follows it.
        async with database_of(pair.replica.url) as promoted, promoted.connection() as connection:
            await connection.execute(b"ALTER SYSTEM RESET synchronous_standby_names")
            await connection.execute(b"SELECT pg_reload_conf()")
        await _written_in_the_end(database, 50)
        print(f"\npromoted after {promoted_s:.2f} s, written again after {time.monotonic() - start:.2f} s")
        async with database.connection() as connection:
            row = await (
                await connection.execute(b"SELECT array_agg(number ORDER BY number) AS n FROM failover")
            ).fetchone()
    assert row == {"n": list(range(51))}


def database_of(url: str) -> Database:
    """A pool to that server."""
    return Database(url, PostgresSettings(), Metrics())


async def test_connections_to_a_demoted_primary_are_replaced(pair: ReplicatedPair) -> None:
    settings = PostgresSettings(pool_min_size=3, pool_size=3)
    async with Database(pair.primary.url, settings, Metrics()) as database:
        before = await _backends(database, settings.pool_size)
        async with database.connection() as connection:
            await connection.execute(b"CREATE TABLE failover (number int)")
        with pytest.raises(StorageUnavailable):
            await _write_read_only(database)
        assert not before & await _backends(database, settings.pool_size)


async def _write_read_only(database: Database) -> None:
    """As a server answers that follows another one now."""
    async with database.connection() as connection, connection.transaction():
        await connection.execute(b"SET TRANSACTION READ ONLY")
        await connection.execute(b"INSERT INTO failover VALUES (1)")


async def _backends(database: Database, size: int) -> set[int]:
    """The process ids behind all of a pool's connections."""
    together = asyncio.Barrier(size)

    async def backend() -> int:
        async with database.connection() as connection:
            await together.wait()
            row = await (await connection.execute(b"SELECT pg_backend_pid() AS pid")).fetchone()
            return int(row["pid"]) if row else 0

    return set(await asyncio.gather(*(backend() for _ in range(size))))
