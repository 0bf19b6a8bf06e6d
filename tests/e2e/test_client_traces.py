"""The Python client takes the trace of its caller along to the service."""

from __future__ import annotations

import subprocess
import sys
from contextlib import aclosing

from opentelemetry import baggage, context
from opentelemetry.sdk.trace import TracerProvider

from recsvc.domain.tenancy import Tenant
from recsvc.settings import Settings
from recsvc_client import Client
from tests.e2e.servers import another_server
from tests.otlp import collector

_WITHOUT = """
import sys
sys.modules["opentelemetry"] = None
from recsvc_client.tracing import trace_metadata
print(trace_metadata())
"""


async def test_calls_and_streams_stand_below_the_span_that_they_are_made_in(
    settings: Settings, new_tenant: Tenant, key: str
) -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("shop")
    async with (
        collector() as kept,
        another_server(settings, new_tenant, tracing=kept.settings(ratio=0.0)) as (service, _),
        Client(f"127.0.0.1:{service.port}", key) as client,
    ):
        token = context.attach(baggage.set_baggage("experiment", "blue-button"))
        try:
            with tracer.start_as_current_span("page") as page:
                await client.upsert_items([{"item_id": "1"}])
                await client.record_event("view", "1", user_id="u")
                async with aclosing(client.watch(user_id="u", count=1)) as lists:
                    await anext(lists)
        finally:
            context.detach(token)
        calls = {method: (await kept.trace_of(method))[0] for method in ("RecordEvent", "WatchRecommendations")}
        _, *inside = await kept.trace_of("RecordEvent")
    page_context = page.get_span_context()
    for call in calls.values():
        assert call.trace_id == f"{page_context.trace_id:032x}"
        assert call.parent_id == f"{page_context.span_id:016x}"
        assert call.attributes["recsvc.experiment"] == "blue-button"
    assert "sql write_events" in {span.name for span in inside}


async def test_outside_of_a_span_calls_carry_nothing_of_the_kind(
    settings: Settings, new_tenant: Tenant, key: str
) -> None:
    async with (
        collector() as kept,
        another_server(settings, new_tenant, tracing=kept.settings()) as (service, _),
        Client(f"127.0.0.1:{service.port}", key) as client,
    ):
        await client.upsert_items([{"item_id": "1"}])
        call, *_ = await kept.trace_of("BatchUpsertItems")
    assert call.parent_id == ""


def test_the_client_works_without_opentelemetry() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT], capture_output=True, text=True, timeout=60, check=True, cwd="clients/python"
    )
    assert done.stdout.strip() == "()"
