"""A real Prometheus, as deploy/prometheus has it, watches a real server."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from deploy.grafana.boards import BOARDS
from recsvc.app import Service
from recsvc.domain.tenancy import Tenant
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from recsvc.settings import Settings
from tests.api import Api, failure
from tests.cinema import an_event, open_cinema, watched_by
from tests.e2e.servers import another_server
from tests.otlp import collector
from tests.prometheus import Prometheus, needs_prometheus, running_prometheus

pytestmark = needs_prometheus

_SOON_S = 30.0
_EVERY_S = 1
_SEEN = (
    'rate(recsvc_call_seconds_count{code="OK"}[1m])',
    'rate(recsvc_call_seconds_count{code="INVALID_ARGUMENT"}[1m])',
    'rate(recsvc_recommendations_total{degradation="NONE"}[1m])',
    'rate(recsvc_recommendations_total{degradation="FALLBACK"}[1m])',
    "recsvc_attributed_events_total",
)
_MAY_BE_EMPTY = {
    "Ends of workers": "there are no workers",
    "Degraded, by where the list came from": "PostgreSQL answers",
    "Lag of replicas": "there are none",
    "Reads that may be a little old": "there are no replicas",
    "Empty lists": "there are none",
    "Similar items": "nobody asks for them",
    "Further attempts": "nothing fails",
    "Further attempts by operation": "nothing fails",
    "Spans of traces": "there are none",
    "Calls by tenant": "tenants are not told apart",
    "Age of serving models": "no model is trained",
    "Training runs under way": "no model is trained",
}
"""Graphs without a line under this traffic, and why."""


def metrics_port(service: Service) -> int:
    """Where it answers /metrics."""
    assert service.metrics_port is not None
    return service.metrics_port


@pytest.fixture
async def prometheus(service: Service) -> AsyncIterator[Prometheus]:
    """It looks at the service."""
    async with running_prometheus(metrics_port(service), every_s=_EVERY_S) as running:
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
    """After calls of many kinds, some of them bad, that it has seen; rates need some before them and some after."""
    await open_cinema(api)

    async def calls_are_seen() -> bool:
        await _call(api)
        counts = [await prometheus.value(f"sum({query})") for query in _SEEN]
        return all(counts)

    await _until(calls_are_seen)
    # So that every rule has been evaluated with all of it.
    await asyncio.sleep(2 * _EVERY_S)
    return prometheus


async def _call(api: Api) -> None:
    """Ask for lists, rightly and wrongly, click and buy what is in one, and like what is not."""
    await api.recommendations.Recommend(pb.RecommendRequest(user_id="somebody", count=5))
    await failure(api.recommendations.Recommend(pb.RecommendRequest(user_id="u1", count=-1)))
    shown = await api.recommendations.Recommend(pb.RecommendRequest(user_id="u1", count=5))
    in_it, not_in_it = shown.items[0].item_id, watched_by(1)[0]
    for item_id, event_type in ((in_it, "click"), (in_it, "purchase"), (not_in_it, "like")):
        await _record(api, an_event("u1", item_id, event_type, recommendation_id=shown.recommendation_id))


async def _record(api: Api, event: ingestion_pb.Event) -> None:
    await api.ingestion.RecordEvent(ingestion_pb.RecordEventRequest(event=event))


async def test_prometheus_scrapes_a_server_and_its_rules_work(watched: Prometheus) -> None:
    assert await watched.value('up{job="recsvc"}') == 1
    assert await _recorded(watched, "job:recsvc_calls:rate5m") > 0
    # Bad input is no failure of the service.
    assert await _recorded(watched, "job:recsvc_calls_failed:ratio_rate5m") == 0
    assert 0 <= await _recorded(watched, "job:recsvc_recommend_slow:ratio_rate5m") <= 1
    # No model is trained, which lists of users say and those of strangers do not.
    assert 0 < await _recorded(watched, "job:recsvc_recommendations_degraded:ratio_rate5m") < 1
    rules = await _rules(watched)
    assert {rule["type"] for rule in rules} == {"alerting", "recording"}
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
    for rule in rules:
        if rule["type"] == "recording":
            await _recorded(watched, rule["name"])


async def _without_a_line(prometheus: Prometheus) -> set[str]:
    """Titles of graphs of which a query gives nothing."""
    empty = set()
    for graph in (graph for board in BOARDS for graphs in board.rows.values() for graph in graphs):
        for query in graph.queries.values():
            # What Grafana puts in their place.
            asked = query.replace("$at", 'instance=~".+"').replace("$__rate_interval", "1m")
            if not (await prometheus.ask("query", query=asked))["result"]:
                empty.add(graph.title)
    return empty - _MAY_BE_EMPTY.keys()


async def test_graphs_draw_what_there_is(watched: Prometheus) -> None:
    async def is_all_drawn() -> bool:
        return not await _without_a_line(watched)

    with suppress(TimeoutError):
        await _until(is_all_drawn)
    assert await _without_a_line(watched) == set()


async def test_a_bucket_leads_to_the_trace_of_a_call(settings: Settings, new_tenant: Tenant) -> None:
    trace_id = secrets.token_hex(16)
    metadata = (("traceparent", f"00-{trace_id}-{secrets.token_hex(8)}-01"),)
    async with (
        collector() as kept,
        another_server(settings, new_tenant, tracing=kept.settings()) as (service, api),
        running_prometheus(metrics_port(service), every_s=_EVERY_S) as prometheus,
    ):

        async def is_stored() -> bool:
            await api.recommendations.Recommend(pb.RecommendRequest(user_id="u1", count=5), metadata=metadata)
            now = time.time()
            series = await prometheus.ask(
                "query_exemplars", query="recsvc_call_seconds_bucket", start=f"{now - 60}", end=f"{now}"
            )
            return trace_id in {exemplar["labels"]["trace_id"] for each in series for exemplar in each["exemplars"]}

        await _until(is_stored)
