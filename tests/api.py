"""Stubs of all services over one channel, and what a failed call says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc

from recsvc.gen.v1.admin_service_pb2_grpc import AdminServiceStub
from recsvc.gen.v1.catalog_service_pb2_grpc import CatalogServiceStub
from recsvc.gen.v1.experiment_service_pb2_grpc import ExperimentServiceStub
from recsvc.gen.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from recsvc.gen.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from recsvc.gen.v1.user_service_pb2_grpc import UserServiceStub


class _Added:
    """Adds metadata and a time-out to a call. grpc.aio sorts an interceptor into one kind, so there is one a kind."""

    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._metadata = metadata

    def added(self, details: Any) -> Any:
        return grpc.aio.ClientCallDetails(
            details.method,
            details.timeout or 30,
            grpc.aio.Metadata(*(details.metadata or ()), *self._metadata),
            details.credentials,
            details.wait_for_ready,
        )


class _UnaryUnary(_Added, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(self.added(details), request)


class _UnaryStream(_Added, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(self.added(details), request)


class _StreamStream(_Added, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, details: Any, request_iterator: Any) -> Any:
        return await continuation(self.added(details), request_iterator)


@dataclass(frozen=True)
class Api:
    """All stubs."""

    channel: grpc.aio.Channel
    catalog: CatalogServiceStub
    users: UserServiceStub
    ingestion: IngestionServiceStub
    recommendations: RecommendationServiceStub
    experiments: ExperimentServiceStub
    admin: AdminServiceStub
    health: health_pb2_grpc.HealthStub

    @staticmethod
    @asynccontextmanager
    async def connected(
        port: int,
        key: str,
        *,
        further_ports: Sequence[int] = (),
        options: Sequence[tuple[str, Any]] = (),
        credentials: grpc.ChannelCredentials | None = None,
        **metadata: str,
    ) -> AsyncIterator[Api]:
        """Connect to a local server; an empty key sends none.

        further_ports: of servers that share the calls; options: of the channel; credentials: for TLS.
        """
        pairs = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
        if key:
            pairs += (("authorization", f"Bearer {key}"),)
        interceptors = [kind(pairs) for kind in (_UnaryUnary, _UnaryStream, _StreamStream)]
        address = "ipv4:" + ",".join(f"127.0.0.1:{each}" for each in (port, *further_ports))
        opened = (
            grpc.aio.insecure_channel(address, options, interceptors=interceptors)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, options, interceptors=interceptors)
        )
        async with opened as channel:
            yield Api(
                channel,
                CatalogServiceStub(channel),
                UserServiceStub(channel),
                IngestionServiceStub(channel),
                RecommendationServiceStub(channel),
                ExperimentServiceStub(channel),
                AdminServiceStub(channel),
                health_pb2_grpc.HealthStub(channel),
            )


@dataclass(frozen=True)
class Failure:
    """A failed call: canonical code, reason, and the fields that BadRequest names."""

    code: str
    reason: str
    fields: dict[str, str] = field(default_factory=dict)
    message: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


async def failure(call: Awaitable[Any]) -> Failure:
    """What the call failed with; an AssertionError when it did not."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return describe(error)
    raise AssertionError("the call succeeded")


async def stream_failure(call: Any) -> Failure:
    """The same for a streaming call."""
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return describe(error)
    raise AssertionError("the call succeeded")


def describe(error: grpc.aio.AioRpcError) -> Failure:
    """The parts of a failed call's status."""
    packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    status = status_pb2.Status.FromString(packed) if packed else None
    return failure_of(status, error.code().name)


def failure_of(status: Any, code: str) -> Failure:
    """The parts of a google.rpc.Status."""
    reason, fields, metadata = "", {}, {}
    for packed in status.details if status else ():
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if packed.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif packed.Unpack(bad):
            fields = {violation.field: violation.description for violation in bad.field_violations}
    return Failure(code, reason, fields, status.message if status else "", metadata)
