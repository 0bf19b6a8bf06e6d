"""A real Prometheus, as deploy/prometheus has it, watches a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from recsvc.app import Service
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from tests.api import Api, failure
from tests.cinema import open_cinema
from tests.prometheus import Prometheus, needs_prometheus, running_prometheus

pytestmark = needs_prometheus

_SOON_S = 60.0


@pytest.fixture
async def prometheus(service: Service) -> AsyncIterator[Prometheus]:
    """It looks at the service every second."""
    assert service.metrics_port is not None
    async with running_prometheus(service.metrics_port) as running:
        yield running


async def _until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_SOON_S):
        while not await is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def _recorded(prometheus: Prometheus, name: str) -> float:
    """What a rule recorded, once it has."""

    async def is_there() -> bool:
        return await prometheus.value(name) is not None

    await _until(is_there)
    value = await prometheus.value(name)
    assert value is not None
    return value


async def _rules(prometheus: Prometheus) -> list[dict[str, Any]]:
    """All rules, once each has been evaluated."""

    async def rules() -> list[dict[str, Any]]:
        return [rule for group in (await prometheus.ask("rules"))["groups"] for rule in group["rules"]]

    async def are_evaluated() -> bool:
        return all(rule["health"] != "unknown" for rule in await rules())

    await _until(are_evaluated)
    return await rules()


async def test_prometheus_scrapes_a_server_and_its_rules_work(prometheus: Prometheus, api: Api) -> None:
    await open_cinema(api)

    async def calls_are_counted() -> bool:
        """With a little traffic each time; rates need some before them and some after."""
        await api.recommendations.Recommend(pb.RecommendRequest(user_id="u1", count=5))
        await failure(api.recommendations.Recommend(pb.RecommendRequest(user_id="u1", count=-1)))
        return bool(await prometheus.value("job:recsvc_recommend:rate5m"))

    await _until(calls_are_counted)

    assert await prometheus.value('up{job="recsvc"}') == 1
    assert await _recorded(prometheus, "job:recsvc_calls:rate5m") > 0
    # Bad input is no failure of the service.
    assert await _recorded(prometheus, "job:recsvc_calls_failed:ratio_rate5m") == 0
    assert 0 <= await _recorded(prometheus, "job:recsvc_recommend_slow:ratio_rate5m") <= 1
    # No model is trained, and each list says so.
    assert await _recorded(prometheus, "job:recsvc_recommendations_degraded:ratio_rate5m") == 1
    rules = await _rules(prometheus)
    assert {rule["type"] for rule in rules} == {"alerting", "recording"}
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
    for rule in rules:
        if rule["type"] == "recording":
            await _recorded(prometheus, rule["name"])
