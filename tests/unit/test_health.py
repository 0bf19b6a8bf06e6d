"""What health answers in each situation, over a real connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from recsvc.resilience.dependencies import Condition
from recsvc.rpc.health import POSTGRESQL, REDIS, Health
from recsvc.telemetry.metrics import Metrics

_LISTS, _EVENTS = "recsvc.v1.RecommendationService", "recsvc.v1.IngestionService"
_NAMES = ("", "readiness", _LISTS, _EVENTS)
_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class _Asked:
    health: Health
    metrics: Metrics
    stub: health_pb2_grpc.HealthStub

    async def serving(self) -> set[str]:
        """The names that are SERVING."""
        answers = [await self.stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5) for name in _NAMES]
        return {name for name, answer in zip(_NAMES, answers, strict=True) if answer.status == _SERVING}

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
async def asked() -> AsyncIterator[_Asked]:
    """Health behind a socket, before anything is known."""
    metrics = Metrics()
    health = Health((_LISTS, _EVENTS), metrics)
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield _Asked(health, metrics, health_pb2_grpc.HealthStub(channel))
    await server.stop(None)


def _opened(asked: _Asked, postgresql: Condition = Condition.WELL, redis: Condition = Condition.WELL) -> None:
    asked.health.dependency_changed(POSTGRESQL, postgresql)
    asked.health.dependency_changed(REDIS, redis)
    asked.health.open()


async def test_it_is_alive_and_not_ready_before_it_is_opened(asked: _Asked) -> None:
    asked.health.dependency_changed(POSTGRESQL, Condition.WELL)
    assert await asked.serving() == {""}


async def test_everything_is_served_with_all_dependencies(asked: _Asked) -> None:
    _opened(asked)
    assert await asked.serving() == set(_NAMES)


async def test_without_postgresql_it_stays_ready_and_only_what_degrades_is_served(asked: _Asked) -> None:
    _opened(asked)
    asked.health.dependency_changed(POSTGRESQL, Condition.AWAY)
    assert await asked.serving() == {"", "readiness", _LISTS}


async def test_without_redis_everything_is_served(asked: _Asked) -> None:
    _opened(asked, redis=Condition.AWAY)
    assert await asked.serving() == set(_NAMES)


async def test_on_a_database_of_another_schema_nothing_is_served(asked: _Asked) -> None:
    _opened(asked, postgresql=Condition.UNFIT)
    assert await asked.serving() == {""}


async def test_while_draining_it_is_alive_and_serves_nothing(asked: _Asked) -> None:
    _opened(asked)
    asked.health.close()
    asked.health.dependency_changed(POSTGRESQL, Condition.WELL)
    assert await asked.serving() == {""}


async def test_a_name_that_there_is_not_is_not_found(asked: _Asked) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await asked.stub.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=5)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_watchers_are_told_of_changes_and_sent_elsewhere_at_the_end(asked: _Asked) -> None:
    _opened(asked)
    watch = asked.stub.Watch(health_pb2.HealthCheckRequest(service=_EVENTS), timeout=10)
    assert (await watch.read()).status == _SERVING
    asked.health.dependency_changed(POSTGRESQL, Condition.AWAY)
    assert (await watch.read()).status == _NOT_SERVING
    asked.health.end_watches()
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await watch.read()
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_watched_name_that_there_is_not_is_unknown_and_the_watch_goes_on(asked: _Asked) -> None:
    watch = asked.stub.Watch(health_pb2.HealthCheckRequest(service="nope"), timeout=10)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    await asyncio.sleep(0.05)
    assert not watch.done()


async def test_metrics_tell_of_readiness_and_of_each_dependency(asked: _Asked) -> None:
    _opened(asked, redis=Condition.AWAY)
    assert asked.metric("recsvc_ready") == 1
    assert asked.metric("recsvc_dependency_up", dependency="postgresql") == 1
    assert asked.metric("recsvc_dependency_up", dependency="redis") == 0
    asked.health.close()
    assert asked.metric("recsvc_ready") == 0
