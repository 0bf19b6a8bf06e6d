"""PostgreSQL, Redis and two server processes that may be killed at any moment, and how each is killed and started.

With `is_poisoned` a proxy stands before each of both stores, and PostgreSQL has few connections and a small disk of its
own, where there is the right to mount one.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from recsvc.app import open_storage
from recsvc.cli.tenants import new_key
from recsvc.domain.catalog import Item
from recsvc.domain.ids import ItemId, TenantId, TenantKey
from recsvc.domain.tenancy import Scope, TenantSettings
from recsvc.embedded.postgres import EmbeddedPostgres
from recsvc.embedded.process import socket_folder
from recsvc.embedded.redis import EmbeddedRedis
from recsvc.settings import AuthSettings, Settings
from tests.api import Api
from tests.chaos.proxy import Proxy
from tests.clusters import put_cluster
from tests.conftest import temporary_folder
from tests.ports import free_port
from tests.processes import family, kill_9
from tests.random_model import activate_random_model

ITEMS = 200
HEARTBEAT_S = 2.0
_POISONED = {"max_connections": "40", "max_wal_size": "64MB"}
_DISK = "256m"
_SERVING_S = 60.0


@dataclass
class ServerProcess:
    """`recsvc serve` on a port that stays the same however often it is killed."""

    environment: dict[str, str]
    log: Path
    port: int = field(default_factory=free_port)
    metrics_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; what it says goes to its log."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "recsvc.cli.main", "serve"],
                env=self.environment
                | {
                    "RECSVC_SERVER__PORT": str(self.port),
                    "RECSVC_SERVER__METRICS_PORT": str(self.metrics_port),
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM, as a release sends it; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout_s)

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    async def serves(self) -> None:
        """Wait until it takes calls."""
        async with Api.connected(self.port, "") as api:
            await asyncio.wait_for(api.channel.channel_ready(), _SERVING_S)


@dataclass
class Installation:
    """All that may be killed, and the key of the tenant that the load is for."""

    home: Path
    postgres: EmbeddedPostgres
    redis: EmbeddedRedis
    server: ServerProcess
    projector: ServerProcess
    tenant_key: TenantKey
    key: str
    disk: Path | None
    postgres_network: Proxy | None
    redis_network: Proxy | None

    @property
    def servers(self) -> tuple[ServerProcess, ServerProcess]:
        """Both, since the projector is a server process, too."""
        return self.server, self.projector

    @property
    def victims(self) -> dict[str, Callable[[random.Random], None]]:
        """By name: how each of them is killed; what another kill has ended is left alone."""
        return {
            "server": lambda _: self.server.kill(),
            "projector": lambda _: self.projector.kill(),
            "redis": lambda _: kill_9(*filter(None, [self.redis.pid()])),
            "postgres": lambda _: kill_9(*self._postgres_family()),
            "postmaster": lambda _: kill_9(*self._postgres_family()[:1]),
            "backend": lambda dice: kill_9(*_any_of(dice, self._postgres_family()[1:])),
        }

    def _postgres_family(self) -> list[int]:
        pid = self.postgres.pid()
        return family(pid) if pid is not None else []

    async def start_what_is_down(self) -> None:
        """Start again whatever does not run, and wait until both servers take calls."""
        await asyncio.to_thread(self.postgres.start)
        await asyncio.to_thread(self.redis.start)
        for server in self.servers:
            if not server.is_alive:
                server.start()
        await asyncio.gather(*(server.serves() for server in self.servers))


def _any_of(dice: random.Random, pids: list[int]) -> list[int]:
    return [dice.choice(pids)] if pids else []


@asynccontextmanager
async def installed(seed: int, *, is_poisoned: bool = False) -> AsyncIterator[Installation]:
    """Everything running, with a catalogue and a model of random vectors; nothing of it is left afterwards."""
    home = temporary_folder()
    with _small_disk(home / "disk") if is_poisoned else nullcontext() as disk:
        postgres = EmbeddedPostgres(disk or home, _POISONED if is_poisoned else None)
        try:
            async with _running(home, postgres, seed, disk, is_poisoned=is_poisoned) as installation:
                yield installation
        finally:
            if postgres.is_running():
                postgres.stop()
    shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path | None]:
    """A file system that is soon full; None where there is no right to mount one."""
    folder.mkdir()
    # Whoever takes the process for root's may be in a container that has not the right.
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_DISK},mode=755", "tmpfs", str(folder)], check=False, capture_output=True
    )
    try:
        yield folder if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@asynccontextmanager
async def _running(
    home: Path, postgres: EmbeddedPostgres, seed: int, disk: Path | None, *, is_poisoned: bool
) -> AsyncIterator[Installation]:
    redis = EmbeddedRedis(home)
    servers: tuple[ServerProcess, ...] = ()
    networks: list[Proxy] = []
    try:
        await put_cluster(disk or home)
        await asyncio.to_thread(postgres.start)
        await asyncio.to_thread(redis.start)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RECSVC_")}
        environment = kept | {
            "RECSVC_DATABASE_URL": postgres.url,
            "RECSVC_REDIS_URL": redis.url,
            "RECSVC_WATCH__HEARTBEAT_S": str(HEARTBEAT_S),
            "RECSVC_LOG_LEVEL": "WARNING",
        }
        if is_poisoned:
            networks.append(Proxy(socket_folder(disk or home) / ".s.PGSQL.5432"))
            networks.append(Proxy(socket_folder(home) / "redis.sock"))
            environment |= {
                "RECSVC_DATABASE_URL": f"postgresql://recsvc@127.0.0.1:{networks[0].port}/recsvc",
                "RECSVC_REDIS_URL": f"redis://127.0.0.1:{networks[1].port}",
            }
        servers = tuple(ServerProcess(environment, home / f"{name}.log") for name in ("server", "projector"))
        settings = Settings(
            database_url=postgres.url,
            redis_url=redis.url,
            auth=AuthSettings(argon2_time_cost=1, argon2_memory_kib=64),
        )
        tenant_key, key = await furnished(settings, seed)
        before = (networks[0], networks[1]) if networks else (None, None)
        installation = Installation(home, postgres, redis, servers[0], servers[1], tenant_key, key, disk, *before)
        await installation.start_what_is_down()
        yield installation
    finally:
        for server in servers:
            server.kill()
        for network in networks:
            network.close()
        if redis.is_running():
            redis.stop()


async def furnished(settings: Settings, seed: int) -> tuple[TenantKey, str]:
    """A tenant with items and an active model that lets strength, order and dislikes count."""
    async with open_storage(settings) as storage:
        tenant = await storage.tenants.create(TenantId("chaos"), "", TenantSettings())
        key = await new_key(storage, tenant.tenant_id, "chaos", frozenset(Scope) - {Scope.ADMIN_SERVICE})
        await storage.items.upsert_many(tenant.tenant_key, [Item(ItemId(f"i{number}")) for number in range(ITEMS)])
        await activate_random_model(storage, tenant.tenant_key, seed)
        return tenant.tenant_key, key.secret
