"""Connections and transactions: what a cancelled call leaves behind, and how failures are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from recsvc.domain.errors import DeadlinePassed, StorageUnavailable
from recsvc.domain.ids import TenantKey
from recsvc.settings import Settings
from recsvc.storage.database import Database
from recsvc.storage.retries import despite_deadlocks
from recsvc.telemetry.metrics import Metrics


async def _sleepers(database: Database) -> int:
    async with database.connection() as connection:
        cursor = await connection.execute(
            b"SELECT count(*) AS n FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%%pg_sleep(60)%%'"
            b" AND pid <> pg_backend_pid()",
            prepare=False,
        )
        row = await cursor.fetchone()
    assert row is not None
    return int(row["n"])


async def test_a_cancelled_call_is_cancelled_and_so_is_its_sql(database: Database, tenant: TenantKey) -> None:
    # The server may read the request to cancel before the statement: sixty times near the start meets that.
    for pause_s in (*(0.0001 * step for step in range(60)), 0.01, 0.05, 0.2):
        task = asyncio.create_task(database.fetch_all(tenant, "SELECT pg_sleep(60)", {}))
        await asyncio.sleep(pause_s)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=5)
        assert done, f"cancelled after {pause_s} s"
        assert task.cancelled()
    async with asyncio.timeout(5):
        while await _sleepers(database):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_cancelled_call_leaves_no_answer_to_the_next_one(database: Database, tenant: TenantKey) -> None:
    for pause_s in (0.0, 0.0005, 0.001, 0.002, 0.005, 0.02):
        tasks = [
            asyncio.create_task(database.fetch_all(tenant, "SELECT pg_sleep(0.01), 1 AS one", {})) for _ in range(5)
        ]
        await asyncio.sleep(pause_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for _ in range(20):
        async with database.tenant_transaction(tenant) as connection:
            cursor = await connection.execute(b"SELECT 2 AS two")
            assert await cursor.fetchall() == [{"two": 2}]
        assert await database.fetch_all(tenant, "SELECT 3 AS three", {}) == [{"three": 3}]


async def test_a_call_beyond_its_time_is_ended(database: Database, tenant: TenantKey) -> None:
    with pytest.raises(DeadlinePassed):
        async with database.tenant_transaction(tenant, timeout_s=0.1) as connection:
            await connection.execute(b"SELECT pg_sleep(60)")
    assert await _sleepers(database) == 0


async def test_a_read_that_meets_a_dead_connection_is_answered_by_another(
    database_url: str, settings: Settings, database: Database, tenant: TenantKey
) -> None:
    metrics = Metrics()
    single = settings.postgres.model_copy(update={"pool_min_size": 1, "pool_size": 1})
    async with Database(database_url, single, metrics) as reader:
        (before,) = await reader.fetch_all(tenant, "SELECT pg_backend_pid() AS pid", {})
        # As a restart of PostgreSQL between two calls does; the pool does not know yet.
        async with database.connection() as connection:
            await connection.execute(b"SELECT pg_terminate_backend(%s, 5000)", [before["pid"]])
        (after,) = await reader.fetch_all(tenant, "SELECT pg_backend_pid() AS pid", {})
    assert after["pid"] != before["pid"]
    retried = metrics.registry.get_sample_value("recsvc_retries_total", {"operation": "read", "outcome": "answered"})
    assert retried == 1


@pytest.fixture
async def narrow(database_url: str, settings: Settings) -> AsyncIterator[Database]:
    """A pool whose users all get the same connection."""
    single = settings.postgres.model_copy(update={"pool_min_size": 1, "pool_size": 1})
    async with Database(database_url, single, Metrics()) as opened:
        yield opened


async def test_a_single_statement_takes_one_round_trip(narrow: Database, tenant: TenantKey, tmp_path: Path) -> None:
    await narrow.run_once(tenant, "SELECT 1 AS one", {})
    with (tmp_path / "trace").open("w+", encoding="utf-8") as trace:
        async with narrow.connection() as connection:
            connection.pgconn.trace(trace.fileno())
        await narrow.run_once(tenant, "SELECT 1 AS one", {})
        async with narrow.connection() as connection:
            connection.pgconn.untrace()
        trace.seek(0)
        told = [line.split("\t")[3].strip() for line in trace.read().splitlines()]
    assert [message for message in told if message in ("Sync", "ReadyForQuery")] == ["Sync", "ReadyForQuery"]


async def test_a_single_statement_leaves_nothing_of_its_tenant_to_the_next(narrow: Database, tenant: TenantKey) -> None:
    entered = b"SELECT current_user <> session_user AS role, current_setting('recsvc.tenant', true) AS tenant"
    (inside,) = await narrow.run_once(tenant, entered.decode(), {})
    assert inside == {"role": True, "tenant": str(tenant)}
    with pytest.raises(psycopg.errors.DivisionByZero):
        await narrow.run_once(tenant, "SELECT 1 / 0 AS nothing", {})
    async with narrow.connection() as connection:
        cursor = await connection.execute(entered)
        assert await cursor.fetchall() == [{"role": False, "tenant": ""}]


async def test_a_statement_that_cannot_be_committed_is_not_called_done(narrow: Database, tenant: TenantKey) -> None:
    async with narrow.connection() as connection:
        await connection.execute(b"CREATE TEMPORARY TABLE once (x int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        await connection.execute(b"INSERT INTO once VALUES (1)")
        await connection.execute(b"GRANT ALL ON once TO recsvc_app")
    with pytest.raises(StorageUnavailable):
        await narrow.run_once(tenant, "INSERT INTO once VALUES (1) RETURNING x", {})
    assert await narrow.run_once(tenant, "SELECT 1 AS one", {}) == [{"one": 1}]


async def test_a_transaction_that_ends_in_a_deadlock_again_and_again_is_told_to_come_back(database: Database) -> None:
    async def transaction() -> None:
        raise psycopg.errors.DeadlockDetected

    with pytest.raises(StorageUnavailable):
        await despite_deadlocks(database, "test", transaction)
