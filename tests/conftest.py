"""Real PostgreSQL and Redis for every test, started here on sockets of their own, or those the environment names."""

from __future__ import annotations

import itertools
import os

# Before grpc is imported, as in recsvc.cli.main: its fork handlers trouble the processes that tests start.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Before numpy is. On matrices as small as those of tests, threads do less than they cost: where others want the
# processor, too, they wait for each other's turn, many times over.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from recsvc.app import Service, Storage, open_storage, running_service
from recsvc.cli.tenants import new_key
from recsvc.domain.ids import TenantId, TenantKey, UserKey
from recsvc.domain.tenancy import Scope, Tenant, TenantSettings
from recsvc.embedded import embedded_servers
from recsvc.settings import AuthSettings, EngineSettings, PostgresSettings, ServerSettings, Settings
from recsvc.storage.database import Database
from recsvc.storage.migrator import migrate
from recsvc.storage.replicas import Replicas
from recsvc.telemetry.metrics import Metrics
from tests.api import Api

pytest_plugins = ["tests.security.tally"]

_numbers = itertools.count(1)

# How long an example takes is a matter of what else the machine does.
hypothesis_settings.register_profile("patient", deadline=None)
hypothesis_settings.load_profile("patient")

# Whoever runs the tests in the background (nohup, a shell's &) ignores these, and what the tests start would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Collects no garbage while a failure is described.

    pytest parses the source for that. If the collector ends a task meanwhile whose error nobody has seen, asyncio logs
    its traceback, which parses too, and Python 3.11 takes the one for the other: "AST constructor recursion depth
    mismatch" ends the run, and nobody learns what had failed.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """After Ctrl-C, give the processes of tests the time to stop their servers: else they are killed after ten seconds,
    and what they have started stays."""
    from xdist.workermanage import NodeManager

    NodeManager.EXIT_TIMEOUT = 60


def temporary_folder() -> Path:
    """A folder that other accounts may enter."""
    folder = Path(tempfile.mkdtemp(prefix="recsvc-test-"))
    folder.chmod(0o755)
    return folder


@dataclass
class RecordedChanges:
    """Takes announcements and keeps them, so that a test can say what must have been announced."""

    tenants: list[tuple[TenantKey, int]] = field(default_factory=list)
    users: list[tuple[TenantKey, dict[UserKey, int]]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    async def tenant_changed(self, tenant_key: TenantKey, version: int) -> None:
        self.tenants.append((tenant_key, version))

    async def users_changed(self, tenant_key: TenantKey, versions: Mapping[UserKey, int]) -> None:
        self.users.append((tenant_key, dict(versions)))

    async def keys_changed(self, key_ids: Sequence[str]) -> None:
        self.keys.extend(key_ids)


@pytest.fixture(scope="session")
async def settings() -> AsyncIterator[Settings]:
    """Settings of a service on test servers: cheap hashes, free ports, and time enough on a machine that is busy.

    What becomes of lists when there is no time for them is told by tests/chaos, whose servers have the usual settings.
    """
    test_settings = {
        "server": ServerSettings(port=0, metrics_port=0, start_wait_redis_s=0.0, lame_duck_s=0.0, drain_s=1.0),
        "engine": EngineSettings(fresh_list_s=30.0),
        "postgres": PostgresSettings(breaker_slow_s=20.0, slow_answer_s=10.0),
        "auth": AuthSettings(argon2_time_cost=1, argon2_memory_kib=64),
        "log_format": "console",
    }
    if os.environ.get("RECSVC_DATABASE_URL") and os.environ.get("RECSVC_REDIS_URL"):
        yield Settings(**test_settings)
        return
    # Not pytest's own folder: the servers run as another account for root, which cannot enter that one.
    data_dir = temporary_folder()
    try:
        # Tests promise nothing about power cuts; the crash tests start servers of their own.
        async with embedded_servers(data_dir, postgres_options={"fsync": "off"}) as urls:
            yield Settings(
                database_url=urls.database_url, redis_url=urls.redis_url, embedded_dir=data_dir, **test_settings
            )
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


@pytest.fixture(scope="session")
async def database_url(settings: Settings) -> str:
    """A migrated database."""
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    await migrate(url)
    return url


@pytest.fixture(scope="session")
async def database(database_url: str, settings: Settings) -> AsyncIterator[Database]:
    """An open pool."""
    async with Database(database_url, settings.postgres, Metrics()) as opened:
        yield opened


@pytest.fixture(scope="session")
async def replicas(database: Database, settings: Settings) -> AsyncIterator[Replicas]:
    """None."""
    async with Replicas(database, settings.postgres, Metrics()) as opened:
        yield opened


@pytest.fixture(scope="session")
async def storage(database_url: str, settings: Settings) -> AsyncIterator[Storage]:
    """All repositories, announcing to Redis as the service does."""
    async with open_storage(settings) as opened:
        yield opened


@pytest.fixture(scope="session")
async def service(database_url: str, settings: Settings) -> AsyncIterator[Service]:
    """The whole service on a free port."""
    async with running_service(settings) as running:
        yield running


@pytest.fixture
async def key(service: Service, new_tenant: Tenant) -> str:
    """A key of the test's tenant with every scope but admin:service."""
    scopes = frozenset(Scope) - {Scope.ADMIN_SERVICE}
    return (await new_key(service.storage, new_tenant.tenant_id, "test", scopes)).secret


@pytest.fixture
async def api(service: Service, key: str) -> AsyncIterator[Api]:
    """Stubs that call the service with the test's key."""
    async with Api.connected(service.port, key) as connected:
        yield connected


@pytest.fixture
def changes() -> RecordedChanges:
    """Announcements of one test."""
    return RecordedChanges()


@pytest.fixture
async def new_tenant(storage: Storage) -> Tenant:
    """A tenant of the test's own."""
    return await storage.tenants.create(TenantId(f"test-{os.getpid()}-{next(_numbers)}"), "", TenantSettings())


@pytest.fixture
def tenant(new_tenant: Tenant) -> TenantKey:
    """The key of a tenant of the test's own."""
    return new_tenant.tenant_key
