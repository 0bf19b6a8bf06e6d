"""Rates, calls in flight and streams of a tenant: what is refused, with what words, and who is not affected."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from recsvc.app import Service
from recsvc.cli.tenants import new_key
from recsvc.domain.ids import TenantId
from recsvc.domain.tenancy import Scope, Tenant, TenantSettings
from recsvc.gen.v1 import admin_service_pb2 as admin_pb
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from recsvc.gen.v1 import recommendation_service_pb2 as recommendation_pb
from tests.api import Api, describe, failure

ROUNDS = int(os.environ.get("RECSVC_SECURITY_ROUNDS", "1"))
_LIST = catalog_pb.ListItemsRequest(page_size=1)
_tenants = itertools.count(1)


async def a_tenant(service: Service, **rate_limits: float) -> Tenant:
    """A tenant with these limits."""
    document = json.dumps({"rate_limits": rate_limits})
    tenant_id = TenantId(f"limited-{os.getpid()}-{next(_tenants)}")
    return await service.storage.tenants.create(tenant_id, "", TenantSettings(document))


async def a_key(service: Service, tenant: Tenant) -> str:
    """A key of it that may do all but service."""
    return (await new_key(service.storage, tenant.tenant_id, "", frozenset(Scope) - {Scope.ADMIN_SERVICE})).secret


async def outcomes(api: Api, calls: int) -> Counter[str]:
    """Codes of so many reading calls at once."""

    async def outcome() -> str:
        try:
            await api.catalog.ListItems(_LIST)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    return Counter(await asyncio.gather(*(outcome() for _ in range(calls))))


def details(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """The details of a failed call by their type."""
    status = status_pb2.Status.FromString(dict(error.trailing_metadata() or ())["grpc-status-details-bin"])
    found = {}
    for packed in status.details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.QuotaFailure, error_details_pb2.RetryInfo):
            message = kind()
            if packed.Unpack(message):
                found[kind.__name__] = message
    return found


async def test_of_many_callers_exactly_the_burst_is_admitted_and_other_tenants_are_not_affected(
    service: Service, api: Api
) -> None:
    for _ in range(ROUNDS):
        tenant = await a_tenant(service, reads_per_second=0.02, burst_seconds=2000)
        async with Api.connected(service.port, await a_key(service, tenant)) as limited:
            refused, free = await asyncio.gather(outcomes(limited, 120), outcomes(api, 40))
    assert refused == {"OK": 40, "RESOURCE_EXHAUSTED": 80}
    assert free == {"OK": 40}


async def test_a_refusal_says_whose_limit_it_is_and_how_long_to_wait(service: Service) -> None:
    tenant = await a_tenant(service, reads_per_second=0.1, burst_seconds=10)
    async with Api.connected(service.port, await a_key(service, tenant)) as api:
        await api.catalog.ListItems(_LIST)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await api.catalog.ListItems(_LIST)
    failed, found = describe(raised.value), details(raised.value)
    assert (failed.code, failed.reason) == ("RESOURCE_EXHAUSTED", "RATE_LIMITED")
    assert failed.metadata == {"limit": "reads_per_second", "subject": f"tenant:{tenant.tenant_id}"}
    assert found["QuotaFailure"].violations[0].subject == f"tenant:{tenant.tenant_id}"
    assert 5 < found["RetryInfo"].retry_delay.ToTimedelta().total_seconds() <= 10


async def test_whoever_repeats_after_the_wait_is_admitted(service: Service) -> None:
    tenant = await a_tenant(service, reads_per_second=1, burst_seconds=1)
    async with Api.connected(service.port, await a_key(service, tenant)) as api:
        await api.catalog.ListItems(_LIST)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await asyncio.gather(*(api.catalog.ListItems(_LIST) for _ in range(3)))
        await asyncio.sleep(details(raised.value)["RetryInfo"].retry_delay.ToTimedelta().total_seconds())
        await api.catalog.ListItems(_LIST)


async def test_a_key_may_use_its_share_and_leaves_the_rest_to_others(service: Service) -> None:
    tenant = await a_tenant(service, reads_per_second=0.02, burst_seconds=1000, key_share=0.4)
    keys = [await a_key(service, tenant) for _ in range(3)]
    found = []
    for key in keys:
        async with Api.connected(service.port, key) as api:
            found.append((await outcomes(api, 30))["OK"])
    assert found == [8, 8, 4]


async def test_reading_and_writing_are_counted_apart(service: Service) -> None:
    tenant = await a_tenant(service, reads_per_second=0.1, burst_seconds=10)
    async with Api.connected(service.port, await a_key(service, tenant)) as api:
        assert (await outcomes(api, 3))["OK"] == 1
        await api.catalog.CreateItem(catalog_pb.CreateItemRequest(item={"item_id": "a"}))


async def test_answers_of_limited_methods_say_what_is_left(service: Service) -> None:
    tenant = await a_tenant(service, reads_per_second=0.1, burst_seconds=50)
    async with Api.connected(service.port, await a_key(service, tenant)) as api:
        headers = []
        for _ in range(6):
            call = api.catalog.ListItems(_LIST)
            headers.append(dict(await call.initial_metadata()))
            await call.code()
    assert [header["x-ratelimit-remaining"] for header in headers] == ["4", "3", "2", "1", "0", "0"]
    assert {header["x-ratelimit-limit"] for header in headers} == {"5"}
    # Ten seconds for each that was taken, less what went by meanwhile.
    assert 40 < int(headers[4]["x-ratelimit-reset"]) <= 50
    assert all(header["x-request-id"] for header in headers)


async def test_without_a_limit_redis_is_not_asked_and_nothing_is_said(
    service: Service, api: Api, new_tenant: Tenant
) -> None:
    call = api.catalog.ListItems(_LIST)
    assert not [name for name in dict(await call.initial_metadata()) if name.startswith("x-ratelimit")]
    await call
    name = f"recsvc:{{{new_tenant.tenant_key}}}:permits:READ"
    assert await service.storage.redis.get_many([name]) == [None]


async def test_a_batch_counts_with_its_elements(service: Service) -> None:
    tenant = await a_tenant(service, bulk_elements_per_second=0.1, burst_seconds=250)
    async with Api.connected(service.port, await a_key(service, tenant)) as api:
        for size, is_admitted in ((20, True), (6, False), (5, True), (1, False)):
            call = api.catalog.BatchGetItems(catalog_pb.BatchGetItemsRequest(item_ids=[f"i{n}" for n in range(size)]))
            if is_admitted:
                await call
            else:
                assert (await failure(call)).metadata["limit"] == "bulk_elements_per_second"


async def test_a_batch_that_could_never_pass_is_told_so(service: Service) -> None:
    tenant = await a_tenant(service, bulk_elements_per_second=10, burst_seconds=1)
    request = catalog_pb.BatchGetItemsRequest(item_ids=[f"i{n}" for n in range(11)])
    async with Api.connected(service.port, await a_key(service, tenant)) as api:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await api.catalog.BatchGetItems(request)
    assert describe(raised.value).reason == "LIMIT_EXCEEDED"
    assert "RetryInfo" not in details(raised.value)


async def test_a_stream_beyond_the_rate_is_slowed_and_loses_nothing(service: Service) -> None:
    tenant = await a_tenant(service, bulk_elements_per_second=100, burst_seconds=0.1)

    async def messages() -> AsyncIterator[ingestion_pb.StreamEventsRequest]:
        for sequence in range(1, 6):
            # Twice the burst in one message.
            events = [{"event_type": "view", "user_id": "u", "item_id": f"i{n}"} for n in range(20)]
            yield ingestion_pb.StreamEventsRequest(sequence=sequence, events=events)

    async with Api.connected(service.port, await a_key(service, tenant)) as api:
        for number in range(20):
            await api.catalog.CreateItem(catalog_pb.CreateItemRequest(item={"item_id": f"i{number}"}))
        start = asyncio.get_running_loop().time()
        answers = [answer async for answer in api.ingestion.StreamEvents(messages())]
        elapsed = asyncio.get_running_loop().time() - start
    assert answers[-1].acked_through == 5
    assert sum(answer.stored_count for answer in answers) == 100
    # A hundred events, ten of them at once: the others take 0.9 s at least.
    assert elapsed >= 0.85


async def test_a_changed_limit_is_soon_in_force(service: Service, api: Api, new_tenant: Tenant) -> None:
    assert (await outcomes(api, 5)) == {"OK": 5}
    await api.admin.UpdateTenant(
        admin_pb.UpdateTenantRequest(
            tenant={"tenant_id": new_tenant.tenant_id, "settings": {"rate_limits": {"reads_per_second": 0.001}}},
            update_mask={"paths": ["settings.rate_limits"]},
        )
    )
    async with asyncio.timeout(6):
        while (await outcomes(api, 2))["RESOURCE_EXHAUSTED"] == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_more_streams_than_a_tenant_may_open_are_refused_until_one_ends(service: Service, api: Api) -> None:
    tenant = await a_tenant(service, max_streams=2)
    request = recommendation_pb.WatchRecommendationsRequest(request={"user_id": "u"})
    async with Api.connected(service.port, await a_key(service, tenant)) as limited:
        watches = [limited.recommendations.WatchRecommendations(request) for _ in range(2)]
        for watch in watches:
            await watch.read()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await limited.recommendations.WatchRecommendations(request).read()
        assert describe(raised.value).metadata == {"limit": "max_streams", "subject": f"tenant:{tenant.tenant_id}"}
        assert details(raised.value)["RetryInfo"].retry_delay.seconds == 1
        other = api.recommendations.WatchRecommendations(request)
        await other.read()
        other.cancel()
        watches[0].cancel()
        async with asyncio.timeout(10):
            while not await _can_watch(limited, request):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        watches[1].cancel()


async def test_more_calls_in_flight_than_a_tenant_may_have_are_refused_and_then_admitted(
    service: Service, api: Api
) -> None:
    tenant = await a_tenant(service, max_calls=3)
    async with Api.connected(service.port, await a_key(service, tenant)) as limited:
        await limited.catalog.ListItems(_LIST)
        crowded, free = await asyncio.gather(outcomes(limited, 100), outcomes(api, 30))
        assert crowded["RESOURCE_EXHAUSTED"] > 0
        assert crowded["OK"] >= 3
        assert free == {"OK": 30}
        for _ in range(3):
            await limited.catalog.ListItems(_LIST)


async def test_refusals_are_counted_by_reason_and_limit(service: Service) -> None:
    tenant = await a_tenant(service, reads_per_second=0.1, burst_seconds=10)
    labels = {"reason": "RATE_LIMITED", "limit": "reads_per_second"}
    before = service.storage.metrics.registry.get_sample_value("recsvc_refusals_total", labels) or 0
    async with Api.connected(service.port, await a_key(service, tenant)) as api:
        assert (await outcomes(api, 5))["RESOURCE_EXHAUSTED"] == 4
    assert service.storage.metrics.registry.get_sample_value("recsvc_refusals_total", labels) == before + 4


async def _can_watch(api: Api, request: recommendation_pb.WatchRecommendationsRequest) -> bool:
    watch = api.recommendations.WatchRecommendations(request)
    try:
        await watch.read()
    except grpc.aio.AioRpcError:
        return False
    watch.cancel()
    return True
