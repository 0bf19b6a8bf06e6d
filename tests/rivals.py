"""Others who get in the way at a moment that the test chooses: transactions that hold locks, and other tenants."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from recsvc.app import Service
from recsvc.cli.tenants import new_key
from recsvc.domain.ids import TenantId, TenantKey
from recsvc.domain.tenancy import Scope, Tenant, TenantSettings
from recsvc.storage.connection import Connection
from recsvc.storage.database import Database
from tests.api import Api


async def until_blocked(database: Database, count: int = 1) -> None:
    """Return once this many transactions of the service wait for a lock of another."""
    async with asyncio.timeout(20):
        while await _count(database, b"wait_event_type = 'Lock'") < count:  # noqa: ASYNC110  (PostgreSQL tells nobody)
            await asyncio.sleep(0.02)


async def until_idle(database: Database) -> None:
    """Return once no transaction of the service is open without working."""
    async with asyncio.timeout(20):
        while await _count(database, b"state = 'idle in transaction'"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def _count(database: Database, condition: bytes) -> int:
    async with database.connection() as connection:
        cursor = await connection.execute(
            b"SELECT count(*) AS found FROM pg_stat_activity"
            b" WHERE datname = current_database() AND application_name = 'recsvc' AND " + condition
        )
        row = await cursor.fetchone()
    return int(row["found"]) if row else 0


async def run(connection: Connection, tenant: TenantKey, statement: bytes, **params: Any) -> list[dict[str, Any]]:
    """Run a statement on a connection that a test holds; its rows, if it has any."""
    cursor = await connection.execute(statement, {"tenant": tenant, **params})
    return list(await cursor.fetchall()) if cursor.description else []


async def rows(database: Database, tenant: TenantKey, statement: bytes, **params: Any) -> list[dict[str, Any]]:
    """What is really stored for a tenant, whatever the service shows of it."""
    async with database.tenant_transaction(tenant) as connection:
        return await run(connection, tenant, statement, **params)


async def new_stranger(service: Service) -> Tenant:
    """A tenant besides the test's own."""
    return await service.storage.tenants.create(TenantId(f"stranger-{uuid.uuid4()}"), "", TenantSettings())


@asynccontextmanager
async def stranger_api(service: Service) -> AsyncIterator[Api]:
    """Stubs that call the service for another tenant."""
    stranger = await new_stranger(service)
    scopes = frozenset(Scope) - {Scope.ADMIN_SERVICE}
    async with Api.connected(
        service.port, (await new_key(service.storage, stranger.tenant_id, "", scopes)).secret
    ) as api:
        yield api
