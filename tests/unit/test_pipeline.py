"""The stages around a call: each that was entered is left, however the call ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from recsvc.domain.errors import DomainError, StorageUnavailable
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from recsvc.rpc.calls import Call, Context
from recsvc.rpc.methods import MethodPolicy, policies
from recsvc.rpc.pipeline import Pipeline
from recsvc.rpc.server import FILES
from recsvc.rpc.validation import RequestValidator
from recsvc.settings import ServerSettings

_PATH = "/recsvc.v1.RecommendationService/Recommend"


@dataclass
class Noting:
    """A stage that notes what it is told of; what `leaving` returns is what must be waited for at the end."""

    left_with: list[str] = field(default_factory=list)
    leaving: Any = None

    def concerns(self, policy: MethodPolicy) -> bool:
        return True

    def enter(self, call: Call, context: Context) -> Awaitable[None] | None:
        return None

    def leave(self, call: Call, error: DomainError | None) -> Awaitable[None] | None:
        self.left_with.append(call.code)
        waiting: Awaitable[None] | None = self.leaving() if self.leaving else None
        return waiting


@dataclass
class CallContext:
    """As much of gRPC's context as a call without a network needs."""

    invocation_metadata = ()
    method: str = _PATH
    deadline_s: float | None = 1.0

    async def send_initial_metadata(self, metadata: Any) -> None:
        pass

    def time_remaining(self) -> float | None:
        return self.deadline_s

    async def abort(self, code: grpc.StatusCode, details: str, trailing_metadata: Any) -> None:
        raise grpc.aio.AbortError(f"{code}: {details}")


def _pipeline(stages: list[Noting], settings: ServerSettings) -> Pipeline:
    return Pipeline(stages, RequestValidator(), policies(FILES, settings), settings)


async def _call(
    stages: list[Noting], *, takes_s: float = 0.0, deadline_s: float | None = 1.0, default_deadline_s: float = 1.0
) -> Any:
    pipeline = _pipeline(stages, ServerSettings(default_deadline_s=default_deadline_s))
    context: Any = CallContext(deadline_s=deadline_s)

    async def behavior(request: Any, context: Any) -> pb.RecommendResponse:
        await asyncio.sleep(takes_s)
        return pb.RecommendResponse()

    method = grpc.unary_unary_rpc_method_handler(behavior, request_deserializer=pb.RecommendRequest.FromString)
    pipeline.add_registered_method_handlers("recsvc.v1.RecommendationService", {"Recommend": method})
    handler: Any = pipeline.service(context)
    return await handler.unary_unary(handler.request_deserializer(b""), context)


async def test_a_call_that_is_answered_leaves_every_stage_once() -> None:
    stages = [Noting(), Noting()]
    assert await _call(stages) == pb.RecommendResponse()
    assert [stage.left_with for stage in stages] == [["OK"], ["OK"]]


def test_a_method_of_others_is_not_answered_here() -> None:
    details: Any = CallContext("/grpc.health.v1.Health/Check")
    assert _pipeline([], ServerSettings()).service(details) is None


async def test_a_call_without_a_deadline_gets_that_of_the_server() -> None:
    with pytest.raises(grpc.aio.AbortError, match="DEADLINE_EXCEEDED"):
        await _call([], takes_s=5, deadline_s=None, default_deadline_s=0.05)


async def test_a_call_that_brings_a_deadline_may_take_longer_than_the_servers_own() -> None:
    assert await _call([], takes_s=0.2, deadline_s=60, default_deadline_s=0.05) == pb.RecommendResponse()


async def test_what_fails_on_the_way_out_is_what_the_stages_around_it_and_the_caller_are_told() -> None:
    async def fails() -> None:
        raise StorageUnavailable

    outer, inner = Noting(), Noting(leaving=fails)
    with pytest.raises(grpc.aio.AbortError, match="UNAVAILABLE"):
        await _call([outer, inner])
    assert (outer.left_with, inner.left_with) == (["UNAVAILABLE"], ["OK"])


async def test_a_call_that_is_cancelled_on_the_way_out_leaves_the_stages_around() -> None:
    outer, inner = Noting(), Noting(leaving=lambda: asyncio.sleep(60))
    task = asyncio.create_task(_call([outer, inner]))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (outer.left_with, inner.left_with) == (["CANCELLED"], ["OK"])
