"""Server reflection v1 and v1alpha. grpcio-reflection ships v1alpha; v1 is the same messages under another name."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

_METHOD = "ServerReflectionInfo"
_SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


def enable_reflection(service_names: Sequence[str], server: grpc.aio.Server) -> None:
    """Let callers ask the server which services and messages it has."""
    servicer = ReflectionServicer(service_names=[*service_names, *_SERVICES])
    for service in _SERVICES:
        handler = grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {_METHOD: handler}),))
