"""The lines of the access log about calls of a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import structlog

from recsvc.domain.tenancy import Tenant
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import user_service_pb2 as pb
from recsvc.settings import AccessLogSettings, Settings
from tests.api import Api
from tests.e2e.servers import another_server

_REQUEST = pb.GetUserRequest(user_id="nobody")


@pytest.fixture
async def talkative(settings: Settings, new_tenant: Tenant) -> AsyncIterator[Api]:
    """A server that tells of every call."""
    async with another_server(settings, new_tenant, access_log=AccessLogSettings(ok_share=1.0)) as (_, api):
        yield api


def _ended(lines: list[Any], method: str) -> Any:
    (line,) = [line for line in lines if line["event"] == "call.ended" and line["method"].endswith(f"/{method}")]
    return line


async def test_a_failed_call_is_told_of_with_size_and_deadline(api: Api) -> None:
    with structlog.testing.capture_logs() as lines:
        call = api.users.GetUser(_REQUEST, timeout=20)
        with pytest.raises(grpc.aio.AioRpcError):
            await call
    line = _ended(lines, "GetUser")
    assert (line["code"], line["reason"]) == ("NOT_FOUND", "USER_NOT_FOUND")
    assert (line["request_bytes"], line["response_bytes"]) == (_REQUEST.ByteSize(), None)
    # gRPC rounds what it sends up, by as much as a tenth of a second.
    assert 15_000 < line["deadline_left_ms"] < 20_200
    assert "nobody" not in str(line)


async def test_a_sampled_call_is_told_of_with_the_size_of_its_response(talkative: Api) -> None:
    with structlog.testing.capture_logs() as lines:
        response = await talkative.catalog.ListItems(catalog_pb.ListItemsRequest())
        item = await talkative.catalog.CreateItem(catalog_pb.CreateItemRequest(item={"item_id": "a", "title": "A"}))
    assert _ended(lines, "ListItems")["response_bytes"] == response.ByteSize()
    assert _ended(lines, "CreateItem")["response_bytes"] == item.ByteSize() > 0


async def test_a_stream_is_told_of_with_all_its_requests_and_responses(talkative: Api) -> None:
    requests = [catalog_pb.ImportItemsRequest(items=[{"item_id": f"i{number}"}]) for number in range(3)]
    with structlog.testing.capture_logs() as lines:
        responses = [response async for response in talkative.catalog.ImportItems(iter(requests))]
    line = _ended(lines, "ImportItems")
    assert (line["request_bytes"], line["responses"]) == (sum(each.ByteSize() for each in requests), len(responses))
