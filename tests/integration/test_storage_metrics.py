"""What metrics tell of PostgreSQL: waits for connections, and statements by their names."""

from __future__ import annotations

import asyncio

import pytest

from recsvc.domain.errors import DeadlinePassed, StorageUnavailable
from recsvc.domain.ids import TenantKey
from recsvc.settings import PostgresSettings, Settings
from recsvc.storage.database import Database, execute
from recsvc.telemetry.metrics import Metrics

_SLOW = "/* slow_statement */ SELECT pg_sleep(%(seconds)s)"


def _value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


async def test_who_waits_for_a_connection_shows_and_so_does_who_gets_none(database_url: str) -> None:
    metrics = Metrics()
    settings = PostgresSettings(pool_min_size=1, pool_size=1, pool_timeout_s=0.3)
    async with Database(database_url, settings, metrics) as database, database.connection():
        assert _value(metrics, "recsvc_pool_connections", pool="postgresql", state="in use") == 1
        assert _value(metrics, "recsvc_pool_connections", pool="postgresql", state="idle") == 0
        asking = asyncio.create_task(database.analyze())
        await asyncio.sleep(0.1)
        assert _value(metrics, "recsvc_pool_waiting", pool="postgresql") == 1
        with pytest.raises(StorageUnavailable):
            await asking
        assert _value(metrics, "recsvc_pool_refusals_total", pool="postgresql") == 1
        assert _value(metrics, "recsvc_pool_wait_seconds_count", pool="postgresql") == 1


async def test_a_wait_that_ended_well_is_as_long_as_it_was(database_url: str) -> None:
    metrics = Metrics()
    settings = PostgresSettings(pool_min_size=1, pool_size=1)
    async with Database(database_url, settings, metrics) as database:
        async with database.connection():
            asking = asyncio.create_task(_nothing(database))
            await asyncio.sleep(0.3)
        await asking
    assert _value(metrics, "recsvc_pool_wait_seconds_sum", pool="postgresql") >= 0.25


async def test_statements_are_timed_by_name_in_transactions_and_alone(database_url: str, tenant: TenantKey) -> None:
    metrics = Metrics()
    async with Database(database_url, PostgresSettings(), metrics) as database:
        await database.fetch_all(tenant, _SLOW, {"seconds": 0.1})
        async with database.service_transaction() as connection:
            await execute(connection, _SLOW, {"seconds": 0.1})
    assert _value(metrics, "recsvc_statement_seconds_count", statement="slow_statement") == 2
    assert _value(metrics, "recsvc_statement_seconds_sum", statement="slow_statement") >= 0.2


async def test_a_statement_that_was_cut_off_is_timed_too(settings: Settings, database_url: str) -> None:
    metrics = Metrics()
    async with Database(database_url, PostgresSettings(), metrics) as database:
        with pytest.raises(DeadlinePassed):
            await _slow(database)
    assert _value(metrics, "recsvc_statement_seconds_count", statement="slow_statement") == 1


async def _nothing(database: Database) -> None:
    async with database.connection():
        pass


async def _slow(database: Database) -> None:
    async with database.service_transaction(timeout_s=0.2) as connection:
        await execute(connection, _SLOW, {"seconds": 5})
