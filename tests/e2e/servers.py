"""More servers than the one that all tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from recsvc.app import Service, running_service
from recsvc.cli.tenants import new_key
from recsvc.domain.ids import TenantId
from recsvc.domain.tenancy import Scope, Tenant
from recsvc.settings import Settings
from tests.api import Api


@asynccontextmanager
async def another_server(settings: Settings, tenant: Tenant, **changes: Any) -> AsyncIterator[tuple[Service, Api]]:
    """A server on the same database with other settings, and stubs that call it for the tenant."""
    async with running_service(settings.model_copy(update=changes)) as service:
        scopes = frozenset(Scope) - {Scope.ADMIN_SERVICE}
        key = await new_key(service.storage, TenantId(tenant.tenant_id), "test", scopes)
        async with Api.connected(service.port, key.secret) as api:
            yield service, api
