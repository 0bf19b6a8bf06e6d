"""`serve --workers 2` on a primary, its replica and Redis, and what can happen to each of them.

Both servers of PostgreSQL are named as the primary and as replicas, as where a failover manager decides which is which.
Each fault is a context manager, and over when it is left.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from recsvc.domain.ids import TenantKey
from recsvc.embedded.postgres import EmbeddedPostgres
from recsvc.embedded.redis import EmbeddedRedis
from recsvc.settings import AuthSettings, Settings
from tests.chaos.installation import ServerProcess, furnished
from tests.chaos.replication import ReplicatedPair, replicated_pair
from tests.conftest import temporary_folder
from tests.processes import family, kill_9

_WORKERS = 2
_SERVING_S = 60.0
_NOTICED_S = 0.5
"""What a failover manager takes to find out that the primary is dead; often it is many seconds."""


@dataclass
class ReplicatedInstallation:
    """All that may fail, and the key of the tenant that the load is for."""

    pair: ReplicatedPair
    redis: EmbeddedRedis
    server: ServerProcess
    tenant_key: TenantKey
    key: str

    @property
    def postgres(self) -> EmbeddedPostgres:
        """The primary."""
        return self.pair.primary

    @property
    def workers(self) -> list[int]:
        """The processes that serve."""
        assert self.server.process is not None
        return family(self.server.process.pid)[1:]

    async def starts(self, count: int) -> None:
        """Wait until so many workers have begun to serve since the beginning."""
        async with asyncio.timeout(_SERVING_S):
            while self.server.log.read_bytes().count(b'"service.serving"') < count:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


@asynccontextmanager
async def replicated(seed: int) -> AsyncIterator[ReplicatedInstallation]:
    """Everything running, with a catalogue and a model of random vectors; nothing of it is left afterwards."""
    home = temporary_folder()
    redis = EmbeddedRedis(home)
    server: ServerProcess | None = None
    try:
        async with replicated_pair() as pair:
            await asyncio.to_thread(redis.start)
            auth = AuthSettings(argon2_time_cost=1, argon2_memory_kib=64)
            tenant_key, key = await furnished(Settings(database_url=pair.url, redis_url=redis.url, auth=auth), seed)
            kept = {name: value for name, value in os.environ.items() if not name.startswith("RECSVC_")}
            environment = kept | {
                "RECSVC_DATABASE_URL": pair.url,
                "RECSVC_POSTGRES__REPLICA_URLS": json.dumps([pair.primary.url, pair.replica.url]),
                # In a short run, too, a replica is left out and comes back.
                "RECSVC_POSTGRES__REPLICA_MAX_LAG_S": "0.5",
                "RECSVC_POSTGRES__REPLICA_CHECK_S": "0.2",
                "RECSVC_REDIS_URL": redis.url,
                "RECSVC_SERVER__WORKERS": str(_WORKERS),
                "RECSVC_LOG_FORMAT": "json",
                "TMPDIR": str(home),
            }
            server = ServerProcess(environment, home / "server.log")
            server.start()
            installation = ReplicatedInstallation(pair, redis, server, tenant_key, key)
            await installation.starts(_WORKERS)
            yield installation
            server.stop()
    finally:
        if server is not None:
            server.kill()
        if redis.is_running():
            redis.stop()
        shutil.rmtree(home, ignore_errors=True)


@asynccontextmanager
async def replica_lagging(installation: ReplicatedInstallation) -> AsyncIterator[None]:
    """It receives all that is written and shows none of it."""
    await installation.pair.pause_replay()
    try:
        yield
    finally:
        await installation.pair.resume_replay()


@asynccontextmanager
async def replica_killed(installation: ReplicatedInstallation) -> AsyncIterator[None]:
    """kill -9 of all its processes."""
    installation.pair.kill(installation.pair.replica)
    try:
        yield
    finally:
        await asyncio.to_thread(installation.pair.replica.start)


@asynccontextmanager
async def replica_stopped(installation: ReplicatedInstallation) -> AsyncIterator[None]:
    """It takes connections, which the kernel does, and says nothing."""
    pids = family(installation.pair.replica.pid() or 0)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def worker_killed(installation: ReplicatedInstallation) -> AsyncIterator[None]:
    """kill -9 of one of them; over when another one serves in its place."""
    served = installation.server.log.read_bytes().count(b'"service.serving"')
    kill_9(installation.workers[0])
    yield
    await installation.starts(served + 1)


@asynccontextmanager
async def primary_failover(installation: ReplicatedInstallation) -> AsyncIterator[None]:
    """kill -9 of the primary, which replicates synchronously, and then the replica is promoted.

    In the end the old primary is a replica of the new one.
    """
    pair = installation.pair
    await pair.replicate_synchronously()
    pair.kill(pair.primary)

    async def promote() -> None:
        await asyncio.sleep(_NOTICED_S)
        await pair.promote()

    promotion = asyncio.create_task(promote())
    try:
        yield
    finally:
        await promotion
        await pair.rejoin()


REPLICATED_FAULTS: dict[str, Callable[[ReplicatedInstallation], AbstractAsyncContextManager[None]]] = {
    "replica lagging": replica_lagging,
    "replica killed": replica_killed,
    "replica stopped": replica_stopped,
    "worker killed": worker_killed,
    "primary failover": primary_failover,
}
