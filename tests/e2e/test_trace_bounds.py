"""What tracing may cost: a bounded number of spans, no time of any call, and no flood in the log."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from recsvc.domain.tenancy import Tenant
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from recsvc.settings import Settings, TracingSettings
from tests.api import Api
from tests.cinema import an_event, an_item
from tests.e2e.servers import another_server
from tests.otlp import SERVER, Collector, collector
from tests.ports import free_port

_GET = catalog_pb.GetItemRequest(item_id="Drama-1")
_SPANS = 16
_PARENT = f"00-{'ab' * 16}-{'cd' * 8}"
# Nothing that the propagator would take, though it looks as if the caller had decided.
_UNDECIDED = (
    (("traceparent", f"00-{'0' * 32}-{'cd' * 8}-00"),),
    (("traceparent", f"00-{'ab' * 16}-{'0' * 16}-01"),),
    (("traceparent", f"ff-{'ab' * 16}-{'cd' * 8}-01"),),
    (("traceparent", f"{_PARENT}-01-more"),),
    (("traceparent", f"{_PARENT}-00"), ("traceparent", "nonsense")),
)


@pytest.fixture
async def kept() -> AsyncIterator[Collector]:
    """A collector."""
    async with collector() as running:
        yield running


def counted(service: Any, outcome: str) -> float:
    """The spans of an outcome."""
    value = service.storage.metrics.registry.get_sample_value("recsvc_trace_spans_total", {"outcome": outcome})
    return value or 0.0


async def one_film(api: Api) -> None:
    await api.catalog.BatchUpsertItems(catalog_pb.BatchUpsertItemsRequest(items=[an_item("Drama", 1)]))


async def test_a_share_of_zero_records_nothing_but_what_callers_record(
    settings: Settings, new_tenant: Tenant, kept: Collector
) -> None:
    async with another_server(settings, new_tenant, tracing=kept.settings(ratio=0.0)) as (_, api):
        await one_film(api)
        for metadata in (*([()] * 20), *_UNDECIDED):
            await api.catalog.GetItem(_GET, metadata=metadata)
        await kept.settled()
        assert kept.spans == []
        await api.catalog.GetItem(_GET, metadata=(("traceparent", f"{_PARENT}-01"),))
        (call, *_) = await kept.trace_of("GetItem")
        assert call.trace_id == "ab" * 16


async def test_about_the_share_of_calls_is_recorded(settings: Settings, new_tenant: Tenant, kept: Collector) -> None:
    async with another_server(settings, new_tenant, tracing=kept.settings(ratio=0.25)) as (_, api):
        await one_film(api)
        for _ in range(8):
            await asyncio.gather(*(api.catalog.GetItem(_GET) for _ in range(50)))
        await kept.settled()
    calls = sum(span.kind == SERVER for span in kept.spans)
    # Five standard deviations of 400 draws.
    assert 100 - 44 < calls < 100 + 44


async def test_no_caller_has_more_calls_recorded_than_the_most(
    settings: Settings, new_tenant: Tenant, kept: Collector
) -> None:
    async with another_server(settings, new_tenant, tracing=kept.settings(calls_per_s=10)) as (_, api):
        await one_film(api)
        start = time.monotonic()
        for _ in range(100):
            await api.catalog.GetItem(_GET, metadata=(("traceparent", f"{_PARENT}-01"),))
        most = 10 * (time.monotonic() - start + 1)
        await kept.settled()
    assert 0 < sum(span.name.endswith("/GetItem") for span in kept.spans) <= min(most, 99)


async def test_a_stream_of_events_has_a_bounded_number_of_spans(
    settings: Settings, new_tenant: Tenant, kept: Collector
) -> None:
    tracing = kept.settings(spans_per_call=_SPANS)
    async with another_server(settings, new_tenant, tracing=tracing) as (service, api):
        await one_film(api)

        async def messages() -> AsyncIterator[ingestion_pb.StreamEventsRequest]:
            for number in range(1, 201):
                event = an_event(f"u{number}", "Drama-1")
                yield ingestion_pb.StreamEventsRequest(sequence=number, events=[event])

        answers = [answer async for answer in api.ingestion.StreamEvents(messages())]
        assert answers[-1].acked_through == 200
        (stream, *inside) = await kept.trace_of("StreamEvents")
        assert {span.trace_id for span in inside} == {stream.trace_id}
        assert len(inside) == _SPANS - 1
        assert counted(service, "over_budget") > 0


async def test_a_watch_has_a_bounded_number_of_spans(settings: Settings, new_tenant: Tenant, kept: Collector) -> None:
    tracing = kept.settings(spans_per_call=_SPANS)
    async with another_server(settings, new_tenant, tracing=tracing) as (_, api):
        request = pb.RecommendRequest(user_id="u", count=50, strategy=pb.STRATEGY_NEW)
        watch = api.recommendations.WatchRecommendations(pb.WatchRecommendationsRequest(request=request))
        await watch.read()
        for number in range(12):
            items = [an_item("Drama", number)]
            await api.catalog.BatchUpsertItems(catalog_pb.BatchUpsertItemsRequest(items=items))
            while not (await watch.read()).HasField("recommendation"):
                pass
        watch.cancel()
        (_, *inside) = await kept.trace_of("WatchRecommendations")
        assert 0 < len(inside) <= _SPANS - 1


async def test_without_a_collector_calls_are_answered_and_the_log_says_so_once(
    settings: Settings, new_tenant: Tenant, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    tracing = TracingSettings(
        enabled=True, endpoint=f"http://127.0.0.1:{free_port()}", ratio=1, every_s=0.02, timeout_s=0.1
    )
    async with another_server(settings, new_tenant, tracing=tracing) as (service, api):
        await one_film(api)
        for _ in range(5):
            await asyncio.gather(*(api.catalog.GetItem(_GET) for _ in range(20)))
            await asyncio.sleep(0.1)
        assert counted(service, "not_taken") > 0
        assert counted(service, "sent") == 0
    said = [line for line in "".join(capfd.readouterr()).splitlines() if "tracing." in line]
    assert len(said) == 1
    assert "tracing.collector_away" in said[0]
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


async def test_a_collector_that_comes_back_gets_what_is_recorded_from_then_on(
    settings: Settings, new_tenant: Tenant
) -> None:
    port = free_port()
    tracing = TracingSettings(enabled=True, endpoint=f"http://127.0.0.1:{port}", ratio=1, every_s=0.05, timeout_s=0.5)
    async with another_server(settings, new_tenant, tracing=tracing) as (service, api):
        await one_film(api)
        while not counted(service, "not_taken"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        async with collector(port) as kept:
            while not kept.spans:
                await api.catalog.GetItem(_GET)
                await asyncio.sleep(0.1)


async def test_a_collector_that_hangs_holds_up_neither_calls_nor_the_end(
    settings: Settings, new_tenant: Tenant, kept: Collector
) -> None:
    kept.answers_after_s = 30.0
    tracing = kept.settings(timeout_s=20.0, flush_s=0.5, queue=32, batch=8)
    async with another_server(settings, new_tenant, tracing=tracing) as (service, api):
        await one_film(api)
        start = time.monotonic()
        for _ in range(100):
            await api.catalog.GetItem(_GET)
        assert time.monotonic() - start < kept.answers_after_s / 2
        assert counted(service, "queue_full") > 0
        ending = time.monotonic()
    # The drain of the tests is a second; the collector's answer would take thirty.
    assert time.monotonic() - ending < 10.0


async def test_what_waits_at_the_end_is_sent(settings: Settings, new_tenant: Tenant, kept: Collector) -> None:
    async with another_server(settings, new_tenant, tracing=kept.settings(every_s=600.0)) as (_, api):
        await one_film(api)
        await api.catalog.GetItem(_GET)
        assert kept.spans == []
    assert any(span.name.endswith("/GetItem") for span in kept.spans)


async def test_the_collector_is_told_the_headers_that_are_set_and_who_sends(
    settings: Settings, new_tenant: Tenant, kept: Collector
) -> None:
    tracing = kept.settings(headers={"authorization": "Bearer s3cr3t"}, service_name="shop-recsvc", instance="one")
    async with another_server(settings, new_tenant, tracing=tracing) as (_, api):
        await one_film(api)
        await kept.until(bool)
    assert kept.metadata[0]["authorization"] == "Bearer s3cr3t"
    assert kept.spans[0].resource["service.name"] == "shop-recsvc"
    assert kept.spans[0].resource["service.instance.id"] == f"one-{os.getpid()}"
    assert "s3cr3t" not in repr(tracing)


async def test_over_tls_only_a_collector_of_the_authorities_is_told_anything(
    settings: Settings, new_tenant: Tenant, tmp_path: Path
) -> None:
    ours, another = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(tmp_path / "ca.pem")
    for authority, is_told in ((ours, True), (another, False)):
        certificate = authority.issue_cert("127.0.0.1")
        chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        credentials = grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])
        async with collector(credentials=credentials) as kept:
            endpoint = f"https://127.0.0.1:{kept.port}"
            tracing = kept.settings(endpoint=endpoint, ca_file=tmp_path / "ca.pem", timeout_s=2.0, flush_s=3.0)
            async with another_server(settings, new_tenant, tracing=tracing) as (_, api):
                await one_film(api)
            assert any(span.name.endswith("/BatchUpsertItems") for span in kept.spans) == is_told
