"""kill -9 of everything: what was acknowledged is there when the service starts again."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from recsvc.embedded.postgres import EmbeddedPostgres
from recsvc.embedded.redis import EmbeddedRedis
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as pb
from recsvc.gen.v1 import recommendation_service_pb2 as recommend_pb
from tests.api import Api, failure
from tests.clusters import put_cluster
from tests.conftest import temporary_folder
from tests.ports import free_port

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def home() -> AsyncIterator[Path]:
    """A data folder of the test's own; its servers end with the test."""
    folder = temporary_folder()
    await put_cluster(folder)
    yield folder
    for server in (EmbeddedPostgres(folder), EmbeddedRedis(folder)):
        if server.is_running():
            server.stop()
    shutil.rmtree(folder, ignore_errors=True)


def _environment(home: Path, port: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RECSVC_")}
    return kept | {
        "RECSVC_EMBEDDED_DIR": str(home),
        "RECSVC_SERVER__PORT": str(port),
        "RECSVC_SERVER__METRICS_PORT": "0",
    }


def _serve(home: Path, port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "recsvc.cli.main", "serve"], env=_environment(home, port), start_new_session=True
    )


def _run(home: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "recsvc.cli.main", *arguments]
    return subprocess.run(command, env=_environment(home, 0), check=True, capture_output=True, text=True).stdout.strip()


def _new_key(home: Path) -> str:
    """Of a new tenant, while a server runs."""
    _run(home, "tenants", "create", "shop")
    return _run(home, "keys", "create", "--tenant", "shop")


async def _wait_until_serving(port: int) -> None:
    async with Api.connected(port, "") as api:
        await asyncio.wait_for(api.channel.channel_ready(), 60)


async def test_a_cached_list_is_answered_while_postgresql_is_down(home: Path) -> None:
    port = free_port()
    server = _serve(home, port)
    try:
        await _wait_until_serving(port)
        async with Api.connected(port, _new_key(home)) as api:
            items = [catalog_pb.Item(item_id=str(number)) for number in range(5)]
            await api.catalog.BatchUpsertItems(catalog_pb.BatchUpsertItemsRequest(items=items))
            request = recommend_pb.RecommendRequest(strategy=recommend_pb.STRATEGY_NEW)
            before = await api.recommendations.Recommend(request)
            EmbeddedPostgres(home).stop()
            await asyncio.sleep(1.5)  # longer than a profile is trusted
            after = await api.recommendations.Recommend(request)
            assert after.items == before.items
            event = pb.Event(event_type="view", user_id="u", item_id="1")
            failed = await failure(api.ingestion.RecordEvent(pb.RecordEventRequest(event=event)))
            assert (failed.code, failed.reason) == ("UNAVAILABLE", "STORAGE_UNAVAILABLE")
    finally:
        server.kill()
        server.wait()


async def test_a_bulk_stream_outlives_postgresql(home: Path) -> None:
    port = free_port()
    server = _serve(home, port)
    try:
        await _wait_until_serving(port)
        async with Api.connected(port, _new_key(home)) as api:
            items = [catalog_pb.Item(item_id=str(number)) for number in range(5)]
            await api.catalog.BatchUpsertItems(catalog_pb.BatchUpsertItemsRequest(items=items))
            call = api.recommendations.BulkRecommend(timeout=120)

            async def answers(count: int) -> list[tuple[int, int]]:
                for number in range(count):
                    # A list of its own each, which no cache has.
                    request = recommend_pb.RecommendRequest(user_id=f"u{number}", strategy=recommend_pb.STRATEGY_NEW)
                    request.max_staleness.seconds = 0
                    await call.write(recommend_pb.BulkRecommendRequest(key=str(number), request=request))
                found = [await call.read() for _ in range(count)]
                assert sorted(int(answer.key) for answer in found) == list(range(count))
                return [(answer.status.code, len(answer.response.items)) for answer in found]

            assert set(await answers(20)) == {(0, 5)}
            EmbeddedPostgres(home).stop()
            assert set(await answers(20)) == {(14, 0)}
            EmbeddedPostgres(home).start()
            async with asyncio.timeout(60):
                while set(await answers(1)) != {(0, 5)}:  # noqa: ASYNC110  (the pool connects anew behind)
                    await asyncio.sleep(0.2)
            assert set(await answers(20)) == {(0, 5)}
            await call.done_writing()
            assert [answer async for answer in call] == []
    finally:
        server.kill()
        server.wait()


async def test_acknowledged_events_survive_the_death_of_everything(home: Path) -> None:
    port = free_port()
    server = _serve(home, port)
    acknowledged: list[str] = []
    try:
        await _wait_until_serving(port)
        key = _new_key(home)
        async with Api.connected(port, key) as api:
            await api.catalog.CreateItem(catalog_pb.CreateItemRequest(item={"item_id": "a"}))

            async def record(number: int) -> None:
                event = pb.Event(event_id=str(number), event_type="view", user_id=f"u{number % 7}", item_id="a")
                await api.ingestion.RecordEvent(pb.RecordEventRequest(event=event))
                acknowledged.append(str(number))

            async def load() -> None:
                for number in range(100_000):
                    await record(number)

            writers = asyncio.create_task(load())
            async with asyncio.timeout(30):
                while len(acknowledged) < 100:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            postgres, redis = EmbeddedPostgres(home).pid(), EmbeddedRedis(home).pid()
            assert postgres is not None
            assert redis is not None
            for victim in (server.pid, postgres, redis):
                os.kill(victim, signal.SIGKILL)
            await asyncio.gather(writers, return_exceptions=True)
    finally:
        server.kill()
        server.wait()
    server = _serve(home, port)
    try:
        await _wait_until_serving(port)
        async with Api.connected(port, key) as api:
            parts = [part async for part in api.ingestion.ExportEvents(pb.ExportEventsRequest())]
        stored = [event.event_id for part in parts for event in part.events]
        assert len(stored) == len(set(stored))
        assert set(acknowledged) <= set(stored)
    finally:
        server.terminate()
        assert server.wait(30) == 0
