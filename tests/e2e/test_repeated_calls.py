"""What the Python client repeats, when it does, and when it does so no more."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from recsvc.gen.v1 import ingestion_service_pb2 as pb
from recsvc.rpc.server import FILES
from recsvc_client import Client, RecsvcError
from recsvc_client.service_config import SERVICE_CONFIG
from tests.e2e.relay import Relay

# Repeated, they would make a second one, say that there is none, or undo what others did meanwhile; or they are long
# streams, which go on otherwise (docs/guides/clients.md).
_NOT_REPEATED = {
    "AdminService": "CreateTenant UpdateTenant DeleteTenant CreateApiKey RotateApiKey StartTraining DeleteModel"
    " CreateWebhook DeleteWebhook TestWebhook",
    "CatalogService": "CreateItem UpdateItem DeleteItem BatchDeleteItems ImportItems",
    "ExperimentService": "CreateExperiment UpdateExperiment StartExperiment StopExperiment",
    "IngestionService": "StreamEvents DeleteEventType",
    "RecommendationService": "BulkRecommend",
    "UserService": "DeleteUser MergeUsers",
}


@dataclass
class Refusing:
    """A service that refuses so many calls before it answers, and notes the event ids of all.

    breaks: called in the middle of the next call, which is never answered.
    """

    refusals: int = 0
    retry_after: timedelta | None = None
    code: int = code_pb2.UNAVAILABLE
    heard: list[str] = field(default_factory=list)
    breaks: Callable[[], None] | None = None
    port: int = 0

    async def record(self, request: pb.RecordEventRequest, context: Any) -> pb.RecordEventResponse:
        self.heard.append(request.event.event_id)
        if self.breaks is not None:
            breaks, self.breaks = self.breaks, None
            breaks()
            await asyncio.sleep(60)
        # As every answer of the service: after this, gRPC itself repeats nothing.
        await context.send_initial_metadata((("x-request-id", "r"),))
        if len(self.heard) <= self.refusals:
            details = []
            if self.retry_after is not None:
                retry = error_details_pb2.RetryInfo()
                retry.retry_delay.FromTimedelta(self.retry_after)
                details.append(AnyMessage())
                details[0].Pack(retry)
            status = rpc_status.to_status(status_pb2.Status(code=self.code, message="not now", details=details))
            await context.abort(status.code, status.details, status.trailing_metadata)
        return pb.RecordEventResponse(event_id=request.event.event_id)


@pytest.fixture
async def refusing() -> AsyncIterator[Refusing]:
    service = Refusing()
    handler = grpc.unary_unary_rpc_method_handler(
        service.record,
        request_deserializer=pb.RecordEventRequest.FromString,
        response_serializer=pb.RecordEventResponse.SerializeToString,
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("recsvc.v1.IngestionService", {"RecordEvent": handler}),)
    )
    service.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield service
    await server.stop(None)


@pytest.fixture
async def client(refusing: Refusing) -> AsyncIterator[Client]:
    async with Client(f"127.0.0.1:{refusing.port}", "key", timeout_s=10) as connected:
        yield connected


@pytest.mark.parametrize("code", [code_pb2.UNAVAILABLE, code_pb2.RESOURCE_EXHAUSTED])
async def test_who_is_told_when_to_come_back_comes_back_then_with_the_same_event(
    refusing: Refusing, client: Client, code: int
) -> None:
    refusing.refusals, refusing.retry_after, refusing.code = 2, timedelta(seconds=0.1), code
    start = time.monotonic()
    stored = await client.record_event("view", "i", user_id="u")
    assert time.monotonic() - start >= 0.2
    assert refusing.heard == [stored.event_id] * 3


async def test_after_four_attempts_the_failure_is_the_callers(refusing: Refusing, client: Client) -> None:
    refusing.refusals, refusing.retry_after = 100, timedelta(0)
    with pytest.raises(RecsvcError, match="UNAVAILABLE"):
        await client.record_event("view", "i", user_id="u")
    assert len(refusing.heard) == 4


@pytest.mark.parametrize(
    ("retry_after", "code"),
    [
        (timedelta(seconds=60), code_pb2.UNAVAILABLE),
        (None, code_pb2.UNAVAILABLE),
        (None, code_pb2.RESOURCE_EXHAUSTED),
        (timedelta(0), code_pb2.INVALID_ARGUMENT),
    ],
    ids=["too late for the caller", "not told when", "no matter of time", "wrong however often"],
)
async def test_what_another_attempt_does_not_help_fails_at_once(
    refusing: Refusing, client: Client, retry_after: timedelta | None, code: int
) -> None:
    refusing.refusals, refusing.retry_after, refusing.code = 1, retry_after, code
    with pytest.raises(RecsvcError):
        await client.record_event("view", "i", user_id="u")
    assert len(refusing.heard) == 1


async def test_while_most_calls_fail_nothing_is_repeated_until_calls_are_answered_again(
    refusing: Refusing, client: Client
) -> None:
    refusing.refusals, refusing.retry_after = 10_000, timedelta(0)
    calls = [client.record_event("view", "i", user_id="u") for _ in range(60)]
    failed = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(error, RecsvcError) for error in failed)
    assert len(refusing.heard) <= 60 + 10
    refusing.refusals = 0
    for _ in range(60):
        await client.record_event("view", "i", user_id="u")
    refusing.heard.clear()
    refusing.refusals = 1
    await client.record_event("view", "i", user_id="u")
    assert len(refusing.heard) == 2


async def test_a_call_without_any_answer_is_repeated_by_grpc(refusing: Refusing) -> None:
    async with Relay(refusing.port) as relay, Client(f"127.0.0.1:{relay.port}", "key", timeout_s=10) as client:
        refusing.breaks = relay.cut
        stored = await client.record_event("view", "i", user_id="u")
    assert refusing.heard == [stored.event_id] * 2


def test_every_method_is_repeated_or_known_not_to_be() -> None:
    config = json.loads(SERVICE_CONFIG)
    (policy,) = config["methodConfig"]
    repeated = {(name["service"], name["method"]) for name in policy["name"]}
    kept = {
        (f"recsvc.v1.{service}", method) for service, methods in _NOT_REPEATED.items() for method in methods.split()
    }
    methods = {
        (service.full_name, method.name)
        for file in FILES
        for service in file.services_by_name.values()
        for method in service.methods
    }
    assert repeated | kept == methods
    assert not repeated & kept
