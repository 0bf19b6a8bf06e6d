"""A service in the process of the test, on a primary and a replica that may be paused and killed."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pydantic import SecretStr

from recsvc.app import Service, running_service
from recsvc.cli.tenants import new_key
from recsvc.domain.ids import TenantId, TenantKey
from recsvc.domain.tenancy import Scope, TenantSettings
from recsvc.embedded.redis import EmbeddedRedis
from recsvc.settings import PostgresSettings, Settings
from tests.chaos.replication import ReplicatedPair, replicated_pair
from tests.conftest import temporary_folder

_PATIENCE_S = 20.0


@dataclass
class Served:
    """The service, the servers behind it, and a key of its one tenant."""

    service: Service
    pair: ReplicatedPair
    tenant_key: TenantKey
    key: str

    async def has_replica(self) -> None:
        """Wait until the replica is asked."""
        async with asyncio.timeout(_PATIENCE_S):
            while self.service.storage.replicas.fresh != {"replica1"}:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def replica_has_all(self) -> None:
        """Wait until the replica shows all that the primary has."""
        position = await self.service.storage.replicas.position()
        assert position is not None
        await self.pair.has_replayed(position)

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """While the block runs the replica shows nothing new; it has all that was there before."""
        await self.replica_has_all()
        await self.pair.pause_replay()
        try:
            yield
        finally:
            await self.pair.resume_replay()

    def asked(self, server: str) -> float:
        """How many reads that may be old a server was asked."""
        registry = self.service.storage.metrics.registry
        return registry.get_sample_value("recsvc_reads_total", {"target": server}) or 0.0


@asynccontextmanager
async def served_with_replica(settings: Settings) -> AsyncIterator[Served]:
    """A service that asks its replica however far that lags; nothing is left of it afterwards."""
    # A Redis that knows of no other database's tenants.
    home = temporary_folder()
    redis = EmbeddedRedis(home)
    async with replicated_pair() as pair:
        try:
            await asyncio.to_thread(redis.start)
            changed = {
                "database_url": SecretStr(pair.primary.url),
                "redis_url": SecretStr(redis.url),
                "postgres": PostgresSettings(
                    replica_urls=[SecretStr(pair.replica.url)],
                    replica_max_lag_s=600.0,
                    replica_check_s=0.2,
                    replica_wait_s=0.5,
                    breaker_reset_s=0.2,
                ),
            }
            async with running_service(settings.model_copy(update=changed)) as service:
                tenant = await service.storage.tenants.create(TenantId("shop"), "", TenantSettings())
                scopes = frozenset(Scope) - {Scope.ADMIN_SERVICE}
                key = await new_key(service.storage, tenant.tenant_id, "test", scopes)
                yield Served(service, pair, tenant.tenant_key, key.secret)
        finally:
            await asyncio.to_thread(redis.stop)
            shutil.rmtree(home, ignore_errors=True)
