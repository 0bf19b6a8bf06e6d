"""A gRPC server that keeps what it hears, in the place of recsvc behind Envoy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from recsvc.settings import ServerSettings


@dataclass(frozen=True)
class Heard:
    """One call as it arrived."""

    method: str
    metadata: Mapping[str, str]
    time_remaining_s: float | None


@dataclass
class Upstream(grpc.GenericRpcHandler):
    """Answers every call of recsvc.v1 with one empty message, once `may_answer` is set."""

    port: int = 0
    heard: list[Heard] = field(default_factory=list)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    def service(self, details: Any) -> Any:
        """The handler of any method; streams of one message look like unary calls."""
        if not details.method.startswith("/recsvc.v1."):
            return None

        async def answer(requests: Any, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
            metadata = {str(name): str(value) for name, value in context.invocation_metadata() or ()}
            self.heard.append(Heard(details.method, metadata, context.time_remaining()))
            await self.may_answer.wait()
            yield b""

        return grpc.stream_stream_rpc_method_handler(answer)


@asynccontextmanager
async def listening_upstream(credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[Upstream]:
    """An upstream on a free port that calls itself ready."""
    upstream = Upstream()
    upstream.may_answer.set()
    # As the service bounds them: by default gRPC refuses some of what has over 8 KiB, by chance.
    most = ServerSettings().max_metadata_bytes
    server = grpc.aio.server(
        options=[("grpc.max_metadata_size", most), ("grpc.absolute_max_metadata_size", most)],
    )
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    await health.set("readiness", health_pb2.HealthCheckResponse.SERVING)
    server.add_generic_rpc_handlers((upstream,))
    address = "127.0.0.1:0"
    upstream.port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    try:
        yield upstream
    finally:
        await server.stop(0)
