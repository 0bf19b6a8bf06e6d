"""From a slow bucket to a call that was slow: exemplars of calls that their callers traced, in one process and two."""

from __future__ import annotations

import asyncio
import urllib.request

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from recsvc.app import Storage
from recsvc.cli.tenants import new_key
from recsvc.domain.tenancy import Scope, Tenant
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.settings import Settings
from tests.api import Api
from tests.e2e.servers import another_server
from tests.e2e.test_traces import new_trace
from tests.e2e.workers import callers, running_workers
from tests.otlp import collector

pytestmark = pytest.mark.timeout(180)
_SOON_S = 10.0


async def _traces(address: str) -> set[str]:
    """The ids of the traces that durations of calls lead to."""
    request = urllib.request.Request(f"http://{address}/metrics", headers={"accept": "application/openmetrics-text"})
    with await asyncio.to_thread(urllib.request.urlopen, request, timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    samples = [sample for family in families if family.name == "recsvc_call_seconds" for sample in family.samples]
    return {sample.exemplar.labels["trace_id"] for sample in samples if sample.exemplar is not None}


async def _call(api: Api, traceparent: str) -> None:
    await api.catalog.ListItems(catalog_pb.ListItemsRequest(), metadata=(("traceparent", traceparent),))


async def test_a_bucket_leads_to_the_trace_of_a_call_that_its_caller_records(
    settings: Settings, new_tenant: Tenant
) -> None:
    recorded, recording = new_trace()
    _, unrecorded = new_trace(is_sampled=False)
    async with (
        collector() as kept,
        another_server(settings, new_tenant, tracing=kept.settings(ratio=0.0)) as (service, api),
    ):
        await _call(api, unrecorded)
        assert await _traces(f"127.0.0.1:{service.metrics_port}") == set()
        await _call(api, recording)
        assert await _traces(f"127.0.0.1:{service.metrics_port}") == {recorded}


async def test_workers_lead_to_the_traces_of_their_calls_through_their_parent(
    settings: Settings, storage: Storage, new_tenant: Tenant
) -> None:
    key = (await new_key(storage, new_tenant.tenant_id, "test", frozenset({Scope.CATALOG_READ}))).secret
    recorded, recording = new_trace()
    async with collector() as kept:
        tracing = {"ENABLED": "true", "ENDPOINT": f"http://127.0.0.1:{kept.port}", "RATIO": "0"}
        environment = {f"RECSVC_TRACING__{name}": value for name, value in tracing.items()}
        with running_workers(settings, 2, **environment) as workers:
            await workers.serve(2)
            async with callers(workers, key, 1) as (api,):
                await _call(api, recording)
            async with asyncio.timeout(_SOON_S):
                while await _traces(workers.metrics_address) != {recorded}:  # noqa: ASYNC110
                    await asyncio.sleep(0.2)
