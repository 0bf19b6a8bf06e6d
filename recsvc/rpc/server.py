"""The gRPC server: services, health, reflection, limits; begins to serve and drains."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from recsvc.gen.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    experiment_service_pb2,
    experiment_service_pb2_grpc,
    ingestion_service_pb2,
    ingestion_service_pb2_grpc,
    recommendation_service_pb2,
    recommendation_service_pb2_grpc,
    user_service_pb2,
    user_service_pb2_grpc,
)
from recsvc.rpc.certificates import Certificates
from recsvc.rpc.health import Health
from recsvc.rpc.interceptors.tracing import Interceptor
from recsvc.rpc.pipeline import Pipeline
from recsvc.rpc.reflection import enable_reflection
from recsvc.rpc.servicers.admin import AdminServicer
from recsvc.rpc.servicers.catalog import CatalogServicer
from recsvc.rpc.servicers.experiments import ExperimentServicer
from recsvc.rpc.servicers.ingestion import IngestionServicer
from recsvc.rpc.servicers.recommendation import RecommendationServicer
from recsvc.rpc.servicers.users import UserServicer
from recsvc.settings import ServerSettings

FILES = tuple(
    module.DESCRIPTOR
    for module in (
        catalog_service_pb2,
        user_service_pb2,
        ingestion_service_pb2,
        recommendation_service_pb2,
        experiment_service_pb2,
        admin_service_pb2,
    )
)
SERVICE_NAMES = tuple(service.full_name for file in FILES for service in file.services_by_name.values())
_AFTER_GRACE_S = 5.0


class RpcServer:
    """A grpc.aio server with everything that stands at the door."""

    def __init__(
        self,
        pipeline: Pipeline,
        interceptors: Sequence[Interceptor],
        catalog: CatalogServicer,
        users: UserServicer,
        ingestion: IngestionServicer,
        recommendation: RecommendationServicer,
        experiments: ExperimentServicer,
        admin: AdminServicer,
        health: Health,
        draining: asyncio.Event,
        certificates: Certificates | None,
        settings: ServerSettings,
    ) -> None:
        """interceptors: what surrounds the pipeline. draining: set when streams that could go on for ever must end;
        certificates: None for plain text."""
        self._settings = settings
        self._certificates = certificates
        self._draining = draining
        self._server = grpc.aio.server(
            interceptors=interceptors,
            options=_options(settings),
            maximum_concurrent_rpcs=settings.max_concurrent_calls,
        )
        # Generated code wants a server, but asks no more of it than the pipeline has.
        within: Any = pipeline
        catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(catalog, within)
        user_service_pb2_grpc.add_UserServiceServicer_to_server(users, within)
        ingestion_service_pb2_grpc.add_IngestionServiceServicer_to_server(ingestion, within)
        recommendation_service_pb2_grpc.add_RecommendationServiceServicer_to_server(recommendation, within)
        experiment_service_pb2_grpc.add_ExperimentServiceServicer_to_server(experiments, within)
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(admin, within)
        self._server.add_generic_rpc_handlers((pipeline,))
        self._health = health
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if settings.reflection:
            names = [*SERVICE_NAMES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name]
            enable_reflection(names, self._server)

    async def start(self) -> int:
        """Listen and say that calls may come; returns the port."""
        address = f"{self._settings.host}:{self._settings.port}"
        if self._certificates is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, self._certificates.credentials())
        await self._server.start()
        self._health.open()
        return port

    def reload(self, settings: ServerSettings) -> None:
        """Have the times of the drain be those of these settings; nothing else of them changes."""
        self._settings = settings

    async def drain(self) -> None:
        """Say that calls should go elsewhere; a moment later refuse new ones, and let those in flight end in time."""
        self._health.close()
        # Calls that come meanwhile, from those who have not noticed yet, are answered as ever.
        await asyncio.sleep(self._settings.lame_duck_s)
        self._draining.set()
        self._health.end_watches()
        # A handler that does not let go must not keep the process: after the grace there is little left to wait for.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_s + _AFTER_GRACE_S):
                await self._server.stop(self._settings.drain_s)


def _options(settings: ServerSettings) -> Sequence[tuple[str, Any]]:
    return (
        # Of the message after decompression, which stops there: a bomb is not unpacked. Each method may have less.
        (
            "grpc.max_receive_message_length",
            max(settings.max_request_bytes, settings.max_bulk_request_bytes),
        ),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 1),
        # Metadata beyond this is refused by the transport: both, since it refuses some of what lies between the two.
        ("grpc.max_metadata_size", settings.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    )
