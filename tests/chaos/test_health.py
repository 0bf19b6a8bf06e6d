"""What a running server says of its health while a dependency is away, and at a start before its dependencies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable

import pytest
from grpc_health.v1 import health_pb2

from tests.api import Api
from tests.chaos.installation import Installation, ServerProcess, installed
from tests.processes import family, kill_9

pytestmark = pytest.mark.timeout(180)

_LISTS, _EVENTS = "recsvc.v1.RecommendationService", "recsvc.v1.IngestionService"
_NAMES = ("", "readiness", _LISTS, _EVENTS)
_SOON_S = 30.0


@pytest.fixture(scope="module")
async def installation() -> AsyncIterator[Installation]:
    """Two servers and what they depend on."""
    async with installed(seed=1) as ready:
        yield ready


async def _serving(api: Api) -> set[str]:
    answers = [await api.health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5) for name in _NAMES]
    serving = health_pb2.HealthCheckResponse.SERVING
    return {name for name, answer in zip(_NAMES, answers, strict=True) if answer.status == serving}


async def _comes_to_serve(api: Api, names: Iterable[str]) -> None:
    expected, start = set(names), time.monotonic()
    while (found := await _serving(api)) != expected:
        assert time.monotonic() - start < _SOON_S, f"{found} is served, not {expected}"
        await asyncio.sleep(0.1)


async def test_without_postgresql_lists_are_served_and_events_are_not(installation: Installation) -> None:
    async with Api.connected(installation.server.port, "") as api:
        await _comes_to_serve(api, _NAMES)
        kill_9(*family(installation.postgres.pid() or 0))
        try:
            await _comes_to_serve(api, {"", "readiness", _LISTS})
        finally:
            installation.postgres.start()
        await _comes_to_serve(api, _NAMES)


async def test_without_redis_everything_is_served(installation: Installation) -> None:
    async with Api.connected(installation.server.port, "") as api:
        kill_9(installation.redis.pid())
        try:
            # Longer than it takes for a dependency to count as away.
            await asyncio.sleep(5)
            assert await _serving(api) == set(_NAMES)
        finally:
            installation.redis.start()


async def test_a_server_started_before_postgresql_waits_for_it(installation: Installation) -> None:
    installation.postgres.stop()
    late = ServerProcess(installation.server.environment, installation.home / "late.log")
    try:
        late.start()
        await _said(late, '"waiting_for": "PostgreSQL"')
        assert late.is_alive
        installation.postgres.start()
        await late.serves()
        async with Api.connected(late.port, "") as api:
            await _comes_to_serve(api, _NAMES)
    finally:
        late.kill()
        installation.postgres.start()


async def test_a_server_that_waited_in_vain_ends_with_a_clear_error(installation: Installation) -> None:
    nowhere = {"RECSVC_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "RECSVC_SERVER__START_WAIT_S": "1"}
    vain = ServerProcess(installation.server.environment | nowhere, installation.home / "vain.log")
    vain.start()
    try:
        assert vain.process is not None
        assert await asyncio.to_thread(vain.process.wait, _SOON_S) == 1
    finally:
        vain.kill()
    said = vain.log.read_text(encoding="utf-8")
    assert "error: PostgreSQL has not been there for 1 s" in said
    assert "Connection refused" in said
    assert "Traceback" not in said


async def _said(server: ServerProcess, text: str) -> None:
    async with asyncio.timeout(_SOON_S):
        while text not in server.log.read_text(encoding="utf-8"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
