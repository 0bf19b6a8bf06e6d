"""What /metrics says after real traffic: every metric is there, and each has moved that such traffic can move."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from recsvc.app import Service, Storage
from recsvc.cli.tenants import new_key
from recsvc.domain.catalog import Item
from recsvc.domain.ids import ItemId, TenantKey
from recsvc.domain.tenancy import Scope, Tenant
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from recsvc.settings import MetricsSettings, Settings
from recsvc.storage.statistics import StatisticsRepository
from recsvc.telemetry.metrics import Metrics
from tests.api import Api, failure
from tests.cinema import an_event, open_cinema, train
from tests.e2e.servers import another_server
from tests.e2e.test_watch import next_list, watching
from tests.e2e.workers import Workers, callers, running_workers

_GAUGES_S = 1.0
_SOON_S = 20.0

_STILL = {
    "recsvc_breaker_state": "is 0 while everything answers",
    "recsvc_breaker_changes": "nothing fails here",
    "recsvc_redis_failures": "Redis answers",
    "recsvc_degraded_answers": "PostgreSQL answers",
    "recsvc_retries": "nothing fails here",
    "recsvc_trace_spans": "tracing is off",
    "recsvc_replica_lag_seconds": "there is no replica",
    "recsvc_shown_dropped": "the queue does not fill",
    "recsvc_pool_waiting": "connections do not run out",
    "recsvc_pool_refusals": "connections do not run out",
    "recsvc_queue_length": "queues are empty again by the time of the scrape",
    "recsvc_events_waiting": "events are written by the time of the scrape",
    "recsvc_training_runs_under_way": "training has ended by the time of the scrape",
    "recsvc_dirty_users": "states are folded in by the time of the scrape",
    "recsvc_oldest_dirty_user_seconds": "states are folded in by the time of the scrape",
}
"""Metrics that stay 0 under this traffic, and why."""


async def scraped(service: Service) -> Mapping[str, Metric]:
    """The families of /metrics by name."""
    url = f"http://127.0.0.1:{service.metrics_port}/metrics"
    with await asyncio.to_thread(urllib.request.urlopen, url, timeout=10) as answer:
        return {family.name: family for family in text_string_to_metric_families(answer.read().decode())}


def _unmoved(found: Mapping[str, Metric]) -> set[str]:
    still = {name for name, family in found.items() if not any(sample.value for sample in family.samples)}
    return still - set(_STILL)


async def _settled(service: Service) -> Mapping[str, Metric]:
    """What is scraped once everything has moved; some of it is counted a little later than it happens."""
    start = time.monotonic()
    while _unmoved(found := await scraped(service)) and time.monotonic() - start < _SOON_S:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    return found


@asynccontextmanager
async def _after_traffic(settings: Settings, tenant: Tenant) -> AsyncIterator[Service]:
    """A server of its own that was called in many ways; a list is still being watched."""
    often = MetricsSettings(tenants=5, census_s=0.2)
    async with another_server(settings, tenant, metrics=often) as (service, api):
        await open_cinema(api)
        await train(api)
        await _call(api)
        async with watching(api, user_id="u1") as call:
            first = (await next_list(call))[0]
            await api.ingestion.RecordEvent(ingestion_pb.RecordEventRequest(event=an_event("u1", first)))
            await next_list(call)
            yield service


async def _call(api: Api) -> None:
    for user_id in ("u1", "u1", "u2", "never-seen"):
        await api.recommendations.Recommend(pb.RecommendRequest(user_id=user_id))
    await api.recommendations.Recommend(pb.RecommendRequest(user_id="u1", filter='item_type = "boat"'))
    await api.recommendations.SimilarItems(pb.SimilarItemsRequest(item_id="Drama-0"))
    await _buy_what_was_recommended(api)
    # The first of them has the snapshot read that answers later ones.
    for user in range(3, 40):
        await api.recommendations.Recommend(pb.RecommendRequest(user_id=f"u{user}"))
        await asyncio.sleep(0.05)
    repeated = ingestion_pb.RecordEventRequest(event=an_event("u1", "Drama-0"))
    await api.ingestion.RecordEvent(repeated)
    assert (await failure(api.recommendations.Recommend(pb.RecommendRequest(count=-1)))).code == "INVALID_ARGUMENT"


async def _buy_what_was_recommended(api: Api) -> None:
    found = await api.recommendations.Recommend(pb.RecommendRequest(user_id="u7"))
    for list_id, user_id in ((found.recommendation_id, "u7"), ("never-shown", "u8")):
        event = an_event(user_id, found.items[0].item_id, "purchase", recommendation_id=list_id)
        await api.ingestion.RecordEvent(ingestion_pb.RecordEventRequest(event=event))


async def test_every_metric_is_scraped_and_moves_with_what_it_measures(settings: Settings, new_tenant: Tenant) -> None:
    async with _after_traffic(settings, new_tenant) as service:
        found = await _settled(service)
    registered = {family.name for family in Metrics().registry.collect()}
    assert set(found) == registered
    assert _unmoved(found) == set()
    assert set(_STILL) <= registered


async def test_workers_add_up_what_each_holds_and_tell_the_worst_of_what_each_sees(
    settings: Settings, storage: Storage, new_tenant: Tenant
) -> None:
    key = await new_key(storage, new_tenant.tenant_id, "test", frozenset({Scope.RECOMMENDATIONS_READ}))
    calls = 16
    with running_workers(settings, 2) as workers:
        await workers.serve(2)
        async with callers(workers, key.secret, calls) as apis:
            for api in apis:
                await api.recommendations.PopularItems(pb.PopularItemsRequest())
        await asyncio.sleep(2 * _GAUGES_S)
        assert await workers.metric("recsvc_cache_lookups_total", cache="lists") == calls
        assert await workers.metric("recsvc_cache_lookups_total", cache="lists", outcome="miss") >= 1
        assert await workers.metric("recsvc_cache_entries", cache="api_keys") == 2
        assert await workers.metric("recsvc_pool_connections_max") == 2 * settings.postgres.pool_size
        assert await workers.metric("recsvc_statement_seconds_count", statement="tenant_profile") >= 2
        assert await workers.metric("recsvc_ready") == 1


async def test_what_workers_share_is_told_once(settings: Settings, storage: Storage, tenant: TenantKey) -> None:
    await storage.items.upsert_many(tenant, [Item(ItemId(f"i{number}")) for number in range(100)])
    statistics = StatisticsRepository(storage.database)
    with running_workers(settings, 2, RECSVC_METRICS__CENSUS_S="0.2") as workers:
        await workers.serve(2)
        # PostgreSQL tells of what a connection has done some seconds later.
        async with asyncio.timeout(_SOON_S):
            while not await _agree(workers, (await statistics.read()).rows["items"]):  # noqa: ASYNC110
                await asyncio.sleep(0.2)


async def _agree(workers: Workers, items: float) -> bool:
    return items >= 100 and await workers.metric("recsvc_stored_rows", table="items") == items


async def test_a_list_that_is_asked_for_again_is_a_hit_of_the_cache_of_lists(service: Service, api: Api) -> None:
    def counted(outcome: str) -> float:
        labels = {"cache": "lists", "outcome": outcome}
        return service.storage.metrics.registry.get_sample_value("recsvc_cache_lookups_total", labels) or 0.0

    hits, misses = counted("hit"), counted("miss")
    for _ in range(3):
        await api.recommendations.PopularItems(pb.PopularItemsRequest())
    assert (counted("hit"), counted("miss")) == (hits + 2, misses + 1)
