"""One trained cinema for tests that only read, or change nothing that another one looks at."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from recsvc.app import Service
from recsvc.cli.tenants import new_key
from recsvc.domain.ids import TenantId
from recsvc.domain.tenancy import Scope, TenantSettings
from tests.api import Api
from tests.cinema import open_cinema, train
from tests.envoy import Envoy, running_envoy


@pytest.fixture(scope="module")
async def standing_cinema(service: Service, request: pytest.FixtureRequest) -> AsyncIterator[Api]:
    """A trained cinema that the tests of a module share."""
    tenant_id = TenantId(f"cinema-{request.module.__name__.replace('.', '-')}")
    await service.storage.tenants.create(tenant_id, "", TenantSettings())
    key = await new_key(service.storage, tenant_id, "test", frozenset(Scope) - {Scope.ADMIN_SERVICE})
    async with Api.connected(service.port, key.secret) as api:
        await open_cinema(api)
        await train(api)
        yield api
    await service.storage.tenants.delete(tenant_id)


@pytest.fixture(scope="session")
async def envoy(service: Service) -> AsyncIterator[Envoy]:
    """Envoy in front of the service; pages of https://shop.example may call."""
    async with running_envoy(service.port, cors_origins=("https://shop.example",)) as running:
        yield running
