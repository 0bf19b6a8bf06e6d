"""What `recsvc serve` makes of signals: an orderly end, an end at once, new settings."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from recsvc.app import Storage
from recsvc.gen.v1 import catalog_service_pb2 as pb
from recsvc.gen.v1 import ingestion_service_pb2 as events_pb
from recsvc.gen.v1 import recommendation_service_pb2 as recommend_pb
from tests.api import Api
from tests.chaos.installation import ServerProcess

_SOON_S = 20.0
_LIST = pb.ListItemsRequest()
_AT_START = "RECSVC_LOG_LEVEL=WARNING\n"


@pytest.fixture(scope="module")
def environment(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Of a process of the service; some of its settings come from a file."""
    file = tmp_path_factory.mktemp("settings") / "file"
    file.write_text(_AT_START, encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RECSVC_")}
    return kept | {
        "RECSVC_DATABASE_URL": storage.urls.database_url,
        "RECSVC_REDIS_URL": storage.urls.redis_url,
        "RECSVC_SETTINGS_FILE": str(file),
        "RECSVC_SERVER__METRICS_PORT": "0",
        "RECSVC_SERVER__LAME_DUCK_S": "2",
        "RECSVC_SERVER__DRAIN_S": "60",
    }


@pytest.fixture
def server(environment: Mapping[str, str], tmp_path: Path) -> Iterator[ServerProcess]:
    """A process that is not started."""
    process = ServerProcess(dict(environment), tmp_path / "log")
    yield process
    process.kill()


@pytest.fixture
async def api(server: ServerProcess, key: str) -> AsyncIterator[Api]:
    """The server, started, with stubs that call it for the test's tenant."""
    server.start()
    await server.serves()
    async with Api.connected(server.port, key) as connected:
        yield connected


@pytest.fixture(scope="module")
async def standing_server(
    environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerProcess]:
    """A process for the tests that leave it running."""
    process = ServerProcess(dict(environment), tmp_path_factory.mktemp("standing") / "log")
    process.start()
    try:
        await process.serves()
        yield process
    finally:
        process.kill()


@pytest.fixture
async def standing(standing_server: ServerProcess, key: str) -> AsyncIterator[Api]:
    """Stubs that call the standing server for the test's tenant; it has its first settings again afterwards."""
    async with Api.connected(standing_server.port, key) as connected:
        yield connected
    await _reloaded(standing_server, _AT_START)


def _send(server: ServerProcess, number: int) -> None:
    assert server.process is not None
    server.process.send_signal(number)


def _exit_code(server: ServerProcess) -> int:
    assert server.process is not None
    return server.process.wait(_SOON_S)


def _lines(server: ServerProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]


def _said(server: ServerProcess, event: str) -> bool:
    return event in [line["event"] for line in _lines(server)]


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(_SOON_S):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def _reloaded(server: ServerProcess, text: str | None) -> dict[str, Any]:
    """What the server says once asked to read this settings file, or None for none."""
    before = len(_reloads(server))
    _write_settings(server, text)
    _send(server, signal.SIGHUP)
    await _until(lambda: len(_reloads(server)) > before)
    return _reloads(server)[-1]


def _write_settings(server: ServerProcess, text: str | None) -> None:
    file = Path(server.environment["RECSVC_SETTINGS_FILE"])
    if text is None:
        file.unlink()
    else:
        file.write_text(text, encoding="utf-8")


def _reloads(server: ServerProcess) -> list[dict[str, Any]]:
    return [line for line in _lines(server) if line["event"] in ("reload.done", "reload.refused")]


async def _are_limited(api: Api) -> bool:
    """Whether calls are limited by now, which their headers tell."""
    try:
        call = api.catalog.ListItems(_LIST)
        await call
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return "x-ratelimit-limit" in dict(await call.initial_metadata())


async def test_for_a_moment_after_sigterm_calls_are_taken_while_health_says_not_serving(
    server: ServerProcess, api: Api
) -> None:
    _send(server, signal.SIGTERM)
    watch = api.health.Watch(health_pb2.HealthCheckRequest(service="readiness"))
    while (await watch.read()).status != health_pb2.HealthCheckResponse.NOT_SERVING:
        pass
    await api.catalog.ListItems(_LIST)
    alive = await api.health.Check(health_pb2.HealthCheckRequest())
    assert alive.status == health_pb2.HealthCheckResponse.SERVING
    # Nor is the watch waited for, which is still open: that would take the whole grace.
    assert await asyncio.to_thread(_exit_code, server) == 0


async def test_an_orderly_end_warns_of_nothing(server: ServerProcess, api: Api) -> None:
    await api.catalog.BatchUpsertItems(pb.BatchUpsertItemsRequest(items=[pb.Item(item_id="a", title="A")]))
    for number in range(20):
        event = events_pb.Event(event_type="view", user_id=f"u{number}", item_id="a")
        await api.ingestion.RecordEvent(events_pb.RecordEventRequest(event=event))
        await api.recommendations.Recommend(recommend_pb.RecommendRequest(user_id=f"u{number}"))
    _send(server, signal.SIGTERM)
    assert await asyncio.to_thread(_exit_code, server) == 0
    assert server.log.read_text(encoding="utf-8") == ""


async def test_a_second_signal_ends_the_process_at_once(server: ServerProcess, api: Api) -> None:
    # A stream that says nothing would be waited for, as long as the grace allows.
    stream = api.catalog.ImportItems()
    await stream.write(pb.ImportItemsRequest(items=[{"item_id": "a"}]))
    await stream.read()
    _send(server, signal.SIGTERM)
    await asyncio.sleep(0.5)
    assert server.is_alive
    start = time.monotonic()
    _send(server, signal.SIGINT)
    assert await asyncio.to_thread(_exit_code, server) == 128 + signal.SIGINT
    assert time.monotonic() - start < 1.5


async def test_sigterm_ends_a_start_that_waits(server: ServerProcess) -> None:
    server.environment |= {"RECSVC_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    server.start()
    await _until(lambda: _said(server, "start.waiting"))
    _send(server, signal.SIGTERM)
    assert await asyncio.to_thread(_exit_code, server) == 0
    assert "Traceback" not in server.log.read_text(encoding="utf-8")


async def test_sighup_changes_the_log_level_and_says_so(server: ServerProcess, api: Api) -> None:
    assert not _said(server, "service.serving")
    assert (await _reloaded(server, "RECSVC_LOG_LEVEL=info\n"))["changed"] == {"log_level": "WARNING -> INFO"}
    _send(server, signal.SIGTERM)
    await asyncio.to_thread(_exit_code, server)
    assert _said(server, "service.stopped")


async def test_sighup_takes_new_limits_over(standing_server: ServerProcess, standing: Api) -> None:
    assert not await _are_limited(standing)
    await _reloaded(standing_server, "RECSVC_LIMITS__READS_PER_SECOND=5\n")
    async with asyncio.timeout(_SOON_S):
        while not await _are_limited(standing):  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def test_sighup_has_calls_that_went_well_logged(standing_server: ServerProcess, standing: Api) -> None:
    await _reloaded(standing_server, "RECSVC_LOG_LEVEL=INFO\nRECSVC_ACCESS_LOG__OK_SHARE=1\n")
    await standing.catalog.ListItems(_LIST)
    await _until(lambda: _said(standing_server, "call.ended"))


async def test_what_needs_a_restart_is_named_and_left_as_it_is(standing_server: ServerProcess, standing: Api) -> None:
    done = await _reloaded(standing_server, _AT_START + "RECSVC_POSTGRES__POOL_SIZE=77\n")
    assert (done["changed"], done["waiting_for_restart"]) == ({}, ["postgres.pool_size"])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("RECSVC_LIMITS__READS_PER_SECOND=many\nRECSVC_LIMITS__WRITES_PER_SECOND=1\n", "limits.reads_per_second: "),
        ("RECSVC_LIMITS__READS_PER_SECOND=1\nRECSVC_LOG_LEVEL=LOUD\n", "log_level: "),
        ("RECSVC_LIMITS__READS_PER_SECOND=1\nRECSVC_PAGE_TOKEN_SECRETS=hush\n", "recsvc_page_token_secrets: "),
        (None, "RECSVC_SETTINGS_FILE: there is no file"),
    ],
)
async def test_settings_that_cannot_be_read_are_refused_and_the_old_ones_stay(
    standing_server: ServerProcess, standing: Api, text: str | None, fault: str
) -> None:
    refused = await _reloaded(standing_server, text)
    assert refused["event"] == "reload.refused"
    assert any(each.startswith(fault) for each in refused["faults"]), refused
    assert "hush" not in str(refused)
    assert not await _are_limited(standing)
