"""While tracing is off there is nothing of it: no SDK for traces in the process, no wrapper, no other cursor."""

from __future__ import annotations

import inspect
import subprocess
import sys

from recsvc import app
from recsvc.app import Service
from recsvc.domain.tenancy import Tenant
from recsvc.settings import Settings
from recsvc.storage.connection import Connection
from tests.e2e.servers import another_server
from tests.otlp import collector

_SERVES = """
import asyncio, sys
from recsvc.app import running_service
from recsvc.settings import ServerSettings, Settings

async def main():
    async with running_service(Settings(server=ServerSettings(port=0, metrics_port=0, lame_duck_s=0))):
        pass
    print(sorted(name for name in sys.modules if name.startswith("opentelemetry")))

asyncio.run(main())
"""


def _functions() -> dict[str, object]:
    """Everything that can be called of what may be traced."""
    return {
        f"{owner.__name__}.{name}": found
        for owner in (*app._STAGED, Connection)
        for name, found in vars(owner).items()
        if callable(found) or isinstance(found, staticmethod)
    }


def test_a_service_without_tracing_imports_nothing_that_traces(settings: Settings, database_url: str) -> None:
    assert settings.redis_url is not None
    environment = {"RECSVC_DATABASE_URL": database_url, "RECSVC_REDIS_URL": settings.redis_url.get_secret_value()}
    served = subprocess.run(
        [sys.executable, "-c", _SERVES], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    loaded = served.stdout.splitlines()[-1]
    # redis imports the part of the SDK that is for metrics, where it is installed.
    assert "opentelemetry.sdk.trace" not in loaded
    assert "opentelemetry.exporter" not in loaded
    assert "opentelemetry.instrumentation" not in loaded


async def test_marked_functions_are_wrapped_while_tracing_is_on_and_themselves_again_after(
    settings: Settings, new_tenant: Tenant, service: Service
) -> None:
    before = _functions()
    async with collector() as kept, another_server(settings, new_tenant, tracing=kept.settings()):
        during = _functions()
    assert _functions() == before
    changed = {name for name in during if during[name] is not before.get(name)}
    assert {"ListCache.find", "Database.run_once", "Connection.cursor", "recsvc.engine.ranking._ordered"} <= changed
    assert not any(hasattr(inspect.unwrap(found), "__wrapped__") for found in before.values() if callable(found))
