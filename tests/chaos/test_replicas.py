"""Streaming replication: what becomes of reads and of the pool when a replica lags or dies and the primary changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime

import pytest
from pydantic import SecretStr

from recsvc.app import open_storage
from recsvc.domain.catalog import Item
from recsvc.domain.consistency import NO_REPLICA
from recsvc.domain.errors import StorageUnavailable
from recsvc.domain.ids import ItemId, TenantId, TenantKey
from recsvc.domain.tenancy import TenantSettings
from recsvc.settings import PostgresSettings, Settings
from recsvc.storage.candidates import NO_MODEL
from recsvc.storage.database import Database, ReplicaBehind
from recsvc.storage.replicas import Replicas
from recsvc.telemetry.metrics import Metrics
from tests.chaos.replication import ReplicatedPair, replicated_pair, run

_PATIENCE_S = 20


@pytest.fixture(scope="module")
async def streaming() -> AsyncIterator[ReplicatedPair]:
    """A primary and its replica, both there at the end of every test."""
    async with replicated_pair() as started:
        yield started


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
        await pair.replicate_synchronously()
        for number in range(50):
            await _write(database, number)
        pair.kill(pair.primary)
        start = time.monotonic()
        await pair.promote()
        promoted_s = time.monotonic() - start
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


async def test_what_a_synchronous_replica_has_not_got_is_not_acknowledged(pair: ReplicatedPair) -> None:
    await pair.replicate_synchronously()
    pair.kill(pair.replica)
    settings = PostgresSettings(statement_timeout_s=0.2)
    async with Database(pair.primary.url, settings, Metrics()) as database:
        with pytest.raises(StorageUnavailable):
            await database.fetch_all(TenantKey(1), "SELECT pg_logical_emit_message(true, 'test', 'a change')::text", {})


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


def _with_replica(pair: ReplicatedPair, max_lag_s: float) -> PostgresSettings:
    return PostgresSettings(
        replica_urls=[SecretStr(pair.replica.url)],
        replica_max_lag_s=max_lag_s,
        replica_check_s=0.2,
        breaker_reset_s=0.2,
    )


@asynccontextmanager
async def _routed(pair: ReplicatedPair, wait_s: float = 0.1) -> AsyncIterator[Replicas]:
    settings = _with_replica(pair, max_lag_s=0.5).model_copy(update={"replica_wait_s": wait_s})
    async with (
        Database(pair.primary.url, settings, Metrics()) as primary,
        Replicas(primary, settings, Metrics()) as replicas,
    ):
        await _until(replicas, {"replica1"})
        yield replicas


async def _until(replicas: Replicas, fresh: set[str]) -> float:
    """Seconds until these replicas are in the set."""
    start = time.monotonic()
    async with asyncio.timeout(_PATIENCE_S):
        while replicas.fresh != fresh:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return time.monotonic() - start


async def _is_replica(database: Database) -> bool:
    async with database.service_transaction() as connection:
        row = await (await connection.execute(b"SELECT pg_is_in_recovery() AS is_replica")).fetchone()
    return bool(row and row["is_replica"])


async def test_a_read_that_may_be_old_goes_to_a_replica(streaming: ReplicatedPair) -> None:
    async with _routed(streaming) as replicas:
        assert await replicas.read(_is_replica)


async def test_a_replica_that_lags_leaves_the_set_and_comes_back(streaming: ReplicatedPair) -> None:
    async with _routed(streaming) as replicas:
        await streaming.pause_replay()
        try:
            await run(streaming.primary.url, b"SELECT pg_logical_emit_message(true, 'test', 'a change')::text")
            left_s = await _until(replicas, set())
            assert not await replicas.read(_is_replica)
        finally:
            await streaming.resume_replay()
        print(f"\nleft after {left_s:.2f} s, back after {await _until(replicas, {'replica1'}):.2f} s")


async def test_an_idle_primary_does_not_make_a_replica_look_late(streaming: ReplicatedPair) -> None:
    async with _routed(streaming) as replicas:
        await asyncio.sleep(1.0)
        assert replicas.fresh == {"replica1"}


async def test_what_a_replica_lacks_is_read_from_the_primary(streaming: ReplicatedPair) -> None:
    async def newest(database: Database) -> bool:
        if await _is_replica(database):
            raise ReplicaBehind
        return True

    async with _routed(streaming) as replicas:
        assert await replicas.read(newest)
        assert replicas.fresh == {"replica1"}


async def test_a_replica_that_says_nothing_is_waited_for_no_longer_than_said(streaming: ReplicatedPair) -> None:
    async def question(database: Database) -> bool:
        if is_replica := await _is_replica(database):
            await asyncio.sleep(10)
        return is_replica

    async with _routed(streaming) as replicas:
        start = time.monotonic()
        assert not await replicas.read(question, patience_s=0.2)
        assert time.monotonic() - start < 5


async def test_a_position_that_replicas_do_not_come_to_is_waited_for_once(streaming: ReplicatedPair) -> None:
    async with _routed(streaming, wait_s=2.0) as replicas:
        start = time.monotonic()
        assert not await replicas.read(_is_replica, position=NO_REPLICA - 1)
        assert 1.9 < time.monotonic() - start < 3.9


async def test_a_token_of_a_primary_that_was_away_is_not_waited_for(streaming: ReplicatedPair) -> None:
    async with _routed(streaming, wait_s=2.0) as replicas:
        start = time.monotonic()
        assert not await replicas.read(_is_replica, position=NO_REPLICA)
        assert time.monotonic() - start < 1.9


async def test_reads_of_a_killed_replica_are_answered_by_the_primary(streaming: ReplicatedPair) -> None:
    async with _routed(streaming) as replicas:
        streaming.kill(streaming.replica)
        try:
            answers = [await replicas.read(_is_replica) for _ in range(200)]
        finally:
            await asyncio.to_thread(streaming.replica.start)
        assert answers == [False] * 200
        print(f"\n200 of 200 reads answered; back after {await _until(replicas, {'replica1'}):.2f} s")


async def test_a_snapshot_is_never_older_than_the_version_that_it_goes_under(
    streaming: ReplicatedPair, settings: Settings
) -> None:
    changed = {
        "database_url": SecretStr(streaming.primary.url),
        "postgres": _with_replica(streaming, max_lag_s=60.0),
    }
    async with open_storage(settings.model_copy(update=changed)) as storage:
        tenant_key = (await storage.tenants.create(TenantId("shop"), "", TenantSettings())).tenant_key
        await _until(storage.replicas, {"replica1"})
        await streaming.pause_replay()
        try:
            await storage.items.upsert_many(tenant_key, [Item(ItemId("a"))])
            version = (await storage.tenants.profile(tenant_key)).version
            snapshot = await storage.snapshots.read(tenant_key, NO_MODEL, 10, version)
        finally:
            await streaming.resume_replay()
        assert list(snapshot.item_ids) == ["a"]
        assert storage.replicas.fresh == {"replica1"}


async def test_the_moment_of_an_export_is_before_what_the_replica_lacks(streaming: ReplicatedPair) -> None:
    async def moment(database: Database) -> datetime:
        async with database.service_transaction() as connection:
            return await database.snapshot_time(connection, 0.0)

    async with database_of(streaming.primary.url) as primary, database_of(streaming.replica.url) as replica:
        await streaming.pause_replay()
        try:
            before = await moment(primary)
            await run(streaming.primary.url, b"SELECT pg_logical_emit_message(true, 'test', 'a change')::text")
            await asyncio.sleep(0.2)
            assert await moment(replica) <= before
        finally:
            await streaming.resume_replay()
