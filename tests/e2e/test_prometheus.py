"""A real Prometheus, as deploy/prometheus has it, watches a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from deploy.grafana.boards import BOARDS
from recsvc.app import Service
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from tests.api import Api, failure
from tests.cinema import open_cinema
from tests.prometheus import Prometheus, needs_prometheus, running_prometheus

pytestmark = needs_prometheus

_SOON_S = 60.0
_MAY_BE_EMPTY = {
    "Ends of workers": "there are no workers",
    "Degraded, by where the list came from": "PostgreSQL answers",
    "Lag of replicas": "there are none",
    "Reads that may be a little old": "there are no replicas",
}
"""Graphs without a line under this traffic, and why."""


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


@pytest.fixture
async def watched(prometheus: Prometheus, api: Api) -> Prometheus:
    """After calls, some of them bad, that it has seen."""
    await open_cinema(api)

    async def calls_are_counted() -> bool:
        """With a little traffic each time; rates need some before them and some after."""
        await api.recommendations.Recommend(pb.RecommendRequest(user_id="u1", count=5))
        await failure(api.recommendations.Recommend(pb.RecommendRequest(user_id="u1", count=-1)))
        return bool(await prometheus.value("job:recsvc_recommend:rate5m"))

    await _until(calls_are_counted)
    return prometheus


async def test_prometheus_scrapes_a_server_and_its_rules_work(watched: Prometheus) -> None:
    assert await watched.value('up{job="recsvc"}') == 1
    assert await _recorded(watched, "job:recsvc_calls:rate5m") > 0
    # Bad input is no failure of the service.
    assert await _recorded(watched, "job:recsvc_calls_failed:ratio_rate5m") == 0
    assert 0 <= await _recorded(watched, "job:recsvc_recommend_slow:ratio_rate5m") <= 1
    # No model is trained, and each list says so.
    assert await _recorded(watched, "job:recsvc_recommendations_degraded:ratio_rate5m") == 1
    rules = await _rules(watched)
    assert {rule["type"] for rule in rules} == {"alerting", "recording"}
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
    for rule in rules:
        if rule["type"] == "recording":
            await _recorded(watched, rule["name"])


async def test_graphs_draw_what_there_is(watched: Prometheus) -> None:
    graphs = [graph for board in BOARDS for graphs in board.rows.values() for graph in graphs]
    queries = [(graph.title, query) for graph in graphs for query in graph.queries.values()]
    # What Grafana puts in their place.
    asked = [query.replace("$at", 'instance=~".+"').replace("$__rate_interval", "1m") for _, query in queries]
    answers = [await watched.ask("query", query=query) for query in asked]
    empty = {title for (title, _), answer in zip(queries, answers, strict=True) if not answer["result"]}
    assert empty - _MAY_BE_EMPTY.keys() == set()
