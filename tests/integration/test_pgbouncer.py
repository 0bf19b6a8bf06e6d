"""The service behind PgBouncer in transaction mode: nothing that it does needs a session of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import psycopg
import pytest

from recsvc.app import Service, running_service
from recsvc.cli.tenants import new_key
from recsvc.domain.catalog import Item
from recsvc.domain.events import Event
from recsvc.domain.ids import EventId, ItemId, TenantId, TenantKey, UserId
from recsvc.domain.tenancy import Scope, TenantSettings
from recsvc.gen.v1 import ingestion_service_pb2 as events_pb
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from recsvc.settings import PostgresSettings, Settings, TrainingSettings
from recsvc.storage.database import Database
from recsvc.storage.migrator import migrate, pending
from recsvc.telemetry.metrics import Metrics
from recsvc.training.pipeline import Pipeline, TrainingOptions
from tests.api import Api
from tests.pgbouncer import needs_pgbouncer, running_pgbouncer

pytestmark = needs_pgbouncer
_POOL = 5
_CLIENTS = 1000
_POSTGRES = PostgresSettings(prepare_statements=False)


@pytest.fixture(scope="module")
async def pooled_url(database_url: str) -> AsyncIterator[str]:
    async with running_pgbouncer(database_url, _POOL) as url:
        yield url


@pytest.fixture(scope="module")
async def pooled(settings: Settings, pooled_url: str) -> AsyncIterator[Service]:
    """The whole service, with no other way to PostgreSQL."""
    changed = Settings(**{**dict(settings), "database_url": pooled_url, "postgres": _POSTGRES})
    async with running_service(changed) as service:
        yield service


async def test_events_training_lists_and_watches_work_through_it(pooled: Service) -> None:
    storage = pooled.storage
    tenant = (await storage.tenants.create(TenantId("pooled"), "", TenantSettings())).tenant_key
    key = await new_key(storage, TenantId("pooled"), "test", frozenset(Scope) - {Scope.ADMIN_SERVICE})
    await storage.items.upsert_many(tenant, [Item(ItemId(f"{number}")) for number in range(60)])
    # So many that they go by COPY into a temporary table.
    views = [_view(f"u{user}", user % 3 * 20 + (user + step) % 20) for user in range(250) for step in range(10)]
    await storage.events.write(tenant, views)
    training = Pipeline(storage.models, storage.content, TrainingSettings())
    await training.run(tenant, TrainingOptions(), lambda _stage, _share: None)
    async with Api.connected(pooled.port, key.secret) as api:
        watch = api.recommendations.WatchRecommendations(
            pb.WatchRecommendationsRequest(request=pb.RecommendRequest(user_id="new", count=5))
        )
        assert (await watch.read()).recommendation.items
        event = events_pb.Event(event_type="view", user_id="new", item_id="21")
        await api.ingestion.RecordEvent(events_pb.RecordEventRequest(event=event))
        found = await api.recommendations.Recommend(pb.RecommendRequest(user_id="new", count=5))
        assert {int(item.item_id) // 20 for item in found.items} == {1}
        changed = (await watch.read()).recommendation
        assert {int(item.item_id) // 20 for item in changed.items} == {1}
        watch.cancel()


async def test_starting_servers_at_once_migrate_once(pooled_url: str) -> None:
    assert await asyncio.gather(*(migrate(pooled_url) for _ in range(2 * _POOL))) == [[]] * (2 * _POOL)
    assert await pending(pooled_url) == 0


async def test_a_thousand_connections_share_a_handful_and_none_sees_anothers_tenant(pooled_url: str) -> None:
    connections = [
        await psycopg.AsyncConnection.connect(pooled_url, autocommit=True, prepare_threshold=None)
        for _ in range(_CLIENTS)
    ]
    try:
        seen = await asyncio.gather(*(_seen(connection, number) for number, connection in enumerate(connections)))
    finally:
        await asyncio.gather(*(connection.close() for connection in connections))
    assert [tenant for _, tenant, _ in seen] == [str(number) for number in range(_CLIENTS)]
    assert {after for _, _, after in seen} <= {"", None}
    assert len({backend for backend, _, _ in seen}) <= _POOL


async def test_a_call_beyond_its_time_leaves_its_connection_fit_for_the_next(pooled_url: str) -> None:
    settings = PostgresSettings(prepare_statements=False, pool_size=2, statement_timeout_s=0.2)
    async with Database(pooled_url, settings, Metrics()) as database:
        for _ in range(2 * _POOL):
            late = asyncio.create_task(database.fetch_all(TenantKey(1), "SELECT pg_sleep(60)", {}))
            await asyncio.sleep(0.02)
            late.cancel()
            await asyncio.wait([late], timeout=5)
            assert late.cancelled()
            assert await database.fetch_all(TenantKey(1), "SELECT 1 AS one", {}) == [{"one": 1}]


async def _seen(connection: psycopg.AsyncConnection, tenant: int) -> tuple[int, str, str | None]:
    """The backend and the tenant inside a transaction that names one, and what is left of it afterwards."""
    async with connection.transaction():
        await connection.execute("SELECT set_config('recsvc.tenant', %s, true)", [str(tenant)])
        await asyncio.sleep(0)
        cursor = await connection.execute("SELECT pg_backend_pid(), current_setting('recsvc.tenant', true)")
        row = await cursor.fetchone()
    assert row is not None
    cursor = await connection.execute("SELECT current_setting('recsvc.tenant', true)")
    after = await cursor.fetchone()
    assert after is not None
    return row[0], row[1], after[0]


def _view(user: str, item: int) -> Event:
    return Event(EventId(f"{user}/{item}"), "view", ItemId(str(item)), datetime.now(UTC), user_id=UserId(user))
