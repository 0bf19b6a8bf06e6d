"""With several workers each process traces its own calls and sends its own spans."""

from __future__ import annotations

import pytest

from recsvc.app import Storage
from recsvc.cli.tenants import new_key
from recsvc.domain.tenancy import Scope, Tenant
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.settings import Settings
from tests.e2e.workers import callers, running_workers
from tests.otlp import SERVER, collector

pytestmark = pytest.mark.timeout(180)


async def test_every_worker_sends_the_spans_of_its_calls_and_the_rest_when_it_ends(
    settings: Settings, storage: Storage, new_tenant: Tenant
) -> None:
    key = (await new_key(storage, new_tenant.tenant_id, "test", frozenset({Scope.CATALOG_READ}))).secret
    async with collector() as kept:
        tracing = {
            "RECSVC_TRACING__ENABLED": "true",
            "RECSVC_TRACING__ENDPOINT": f"http://127.0.0.1:{kept.port}",
            "RECSVC_TRACING__RATIO": "1",
            # Only at the end: what waits then must not be lost.
            "RECSVC_TRACING__EVERY_S": "600",
        }
        with running_workers(settings, 2, **tracing) as workers:
            await workers.serve(2)
            pids = set(workers.pids)
            async with callers(workers, key, 16) as apis:
                for api in apis:
                    await api.catalog.ListItems(catalog_pb.ListItemsRequest())
            assert kept.spans == []
            workers.process.terminate()
            assert await workers.ended() == 0
    calls = [span for span in kept.spans if span.kind == SERVER]
    assert len(calls) == 16
    assert {int(span.resource["service.instance.id"].rpartition("-")[2]) for span in calls} == pids
