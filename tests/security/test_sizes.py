"""Messages, streams and metadata that are too large, or larger than they look."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from recsvc.app import Service
from recsvc.domain.tenancy import Tenant
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from recsvc.settings import Settings
from tests.api import Api, failure, stream_failure
from tests.e2e.servers import another_server
from tests.ports import free_port

ROUNDS = int(os.environ.get("RECSVC_SECURITY_ROUNDS", "1"))
_MIB = 2**20
_GET = "/recsvc.v1.CatalogService/GetItem"
_UPSERT = "/recsvc.v1.CatalogService/BatchUpsertItems"


async def events(messages: int, size: int) -> AsyncIterator[ingestion_pb.StreamEventsRequest]:
    """Messages of one event each, of at least so many bytes."""
    for sequence in range(1, messages + 1):
        event = {"event_type": "view", "user_id": "u", "item_id": "i", "context": {"text": "x" * size}}
        yield ingestion_pb.StreamEventsRequest(sequence=sequence, events=[event])


async def test_a_request_beyond_its_methods_size_is_refused_with_both_sizes(api: Api) -> None:
    failed = await failure(api.channel.unary_unary(_GET)(b"\0" * (_MIB + 1)))
    assert (failed.code, failed.reason) == ("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")
    assert failed.message == f"the request has {_MIB + 1} bytes; {_GET} takes at most {_MIB}"
    assert failed.metadata["limit"] == "max_request_bytes"


async def test_a_request_of_just_its_methods_size_is_understood(api: Api) -> None:
    # An unknown field (number 15, bytes) fills it up to the last byte.
    padding = _MIB - 4
    encoded = bytes([15 << 3 | 2]) + bytes([padding & 0x7F | 0x80, padding >> 7 & 0x7F | 0x80, padding >> 14])
    request = encoded + b"\0" * padding
    assert len(request) == _MIB
    failed = await failure(api.channel.unary_unary(_GET)(request))
    assert (failed.code, *failed.fields) == ("INVALID_ARGUMENT", "item_id")


async def test_a_bulk_method_takes_more(api: Api) -> None:
    items = [catalog_pb.Item(item_id=str(number), description="d" * 20_000) for number in range(100)]
    request = catalog_pb.BatchUpsertItemsRequest(items=items)
    assert request.ByteSize() > _MIB
    assert not any(result.status.code for result in (await api.catalog.BatchUpsertItems(request)).results)


async def test_what_is_beyond_every_methods_size_is_refused_by_the_transport(api: Api) -> None:
    assert (await failure(api.channel.unary_unary(_UPSERT)(b"\0" * (4 * _MIB + 1)))).code == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize("encoded", [b"\xff", b"\x0a\x05abc", b"\x0a\x02\xc3\x28"])
async def test_what_is_no_message_is_told_so(api: Api, encoded: bytes) -> None:
    failed = await failure(api.channel.unary_unary(_GET)(encoded))
    assert (failed.code, failed.reason, failed.fields) == ("INVALID_ARGUMENT", "INVALID_FIELD", {})


async def test_without_a_key_nobody_learns_of_sizes(service: Service) -> None:
    async with Api.connected(service.port, "") as api:
        failed = await failure(api.channel.unary_unary(_GET)(b"\0" * (_MIB + 1)))
    assert failed.reason == "CREDENTIALS_MISSING"


@pytest.mark.parametrize(
    ("limits", "admitted"),
    [({"stream_max_messages": 3}, 3), ({"stream_max_bytes": 4096}, 2)],
    ids=["messages", "bytes"],
)
async def test_a_stream_ends_past_what_it_may_have_and_what_came_before_is_stored(
    settings: Settings, new_tenant: Tenant, limits: dict[str, int], admitted: int
) -> None:
    server = settings.server.model_copy(update=limits)
    async with another_server(settings, new_tenant, server=server) as (_, api):
        await api.catalog.CreateItem(catalog_pb.CreateItemRequest(item={"item_id": "i"}))
        failed = await stream_failure(api.ingestion.StreamEvents(events(10, 1500)))
        stored = await api.ingestion.ListEvents(ingestion_pb.ListEventsRequest())
    assert (failed.code, failed.reason) == ("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")
    assert failed.metadata["limit"] == next(iter(limits))
    assert len(stored.events) == admitted


async def test_metadata_beyond_the_limit_is_refused_and_the_connection_goes_on(api: Api) -> None:
    request = catalog_pb.ListItemsRequest()
    for _ in range(ROUNDS):
        failed = await failure(api.catalog.ListItems(request, metadata=(("x-large", "x" * 20_000),)))
        assert failed.code == "RESOURCE_EXHAUSTED"
        await api.catalog.ListItems(request, metadata=(("x-large", "x" * 8_000),))


async def test_a_gzip_bomb_is_not_unpacked(settings: Settings) -> None:
    assert settings.database_url is not None
    assert settings.redis_url is not None
    port = free_port()
    environment = os.environ | {
        "RECSVC_DATABASE_URL": settings.database_url.get_secret_value(),
        "RECSVC_REDIS_URL": settings.redis_url.get_secret_value(),
        "RECSVC_SERVER__PORT": str(port),
        "RECSVC_SERVER__METRICS_PORT": "0",
    }
    # A process of its own, so that its memory is the server's alone.
    server = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-m", "recsvc.cli.main", "serve"], env=environment, stdout=subprocess.DEVNULL
    )
    options = [("grpc.max_send_message_length", -1)]
    try:
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", options, compression=grpc.Compression.Gzip
        ) as channel:
            bomb = channel.unary_unary(_UPSERT)
            assert (await failure(bomb(b"", wait_for_ready=True, timeout=60))).code == "UNAUTHENTICATED"
            before = _peak_memory_mib(server.pid)
            # Both are sent as less than a megabyte.
            for size_mib in (8, 256) * ROUNDS:
                assert (await failure(bomb(b"\0" * (size_mib * _MIB), timeout=60))).code == "RESOURCE_EXHAUSTED"
            grown = _peak_memory_mib(server.pid) - before
    finally:
        server.terminate()
        server.wait(30)
    print(f"the server's peak memory grew by {grown:.1f} MiB")
    assert grown < 32


def _peak_memory_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
