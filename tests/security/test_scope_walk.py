"""Every method of every service, called with every scope but the one that it needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from recsvc.app import Service
from recsvc.cli.tenants import new_key
from recsvc.domain.ids import TenantId
from recsvc.domain.tenancy import Scope, TenantSettings
from recsvc.gen.v1 import admin_service_pb2 as admin_pb
from recsvc.rpc.authentication import Authenticator
from recsvc.rpc.interceptors.auth import ANY_KEY, Authentication, required_scopes
from recsvc.rpc.key_hasher import KeyHasher
from recsvc.rpc.methods import policies
from recsvc.rpc.pipeline import Pipeline
from recsvc.rpc.server import FILES
from recsvc.rpc.validation import RequestValidator
from recsvc.telemetry.metrics import Metrics
from tests.api import Api, Failure, describe

_METHODS = {
    f"/{service.full_name}/{method.name}": method
    for file in FILES
    for service in file.services_by_name.values()
    for method in service.methods
}
_SCOPES = required_scopes(FILES)
_GUARDED = sorted(path for path, scope in _SCOPES.items() if scope != ANY_KEY)
_TENANT = TenantId("scope-walk")


async def called(channel: grpc.aio.Channel, path: str, method: MethodDescriptor, key: str) -> Failure | None:
    """How a call with an empty request fails; None when it does not."""
    kinds: dict[tuple[bool, bool], Any] = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, True): channel.stream_stream,
    }
    request = GetMessageClass(method.input_type)()
    made = kinds[bool(method.client_streaming), bool(method.server_streaming)](
        path,
        request_serializer=type(request).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    # Whoever still writes when a stream is refused may be told of that instead of why.
    call = made(_silence() if method.client_streaming else request, metadata=(("x-api-key", key),), timeout=30)
    try:
        if method.server_streaming:
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return describe(error)
    return None


async def _silence() -> AsyncIterator[Any]:
    await asyncio.Event().wait()
    yield


@pytest.fixture(scope="module")
async def keys(service: Service) -> AsyncIterator[dict[str, str]]:
    """By scope: a key that holds every other one."""
    await service.storage.tenants.create(_TENANT, "", TenantSettings())
    yield {scope: (await new_key(service.storage, _TENANT, "", frozenset(Scope) - {scope})).secret for scope in Scope}
    await service.storage.tenants.delete(_TENANT)


@pytest.mark.parametrize("path", _GUARDED)
async def test_a_key_with_every_scope_but_the_needed_one_is_refused(
    service: Service, keys: dict[str, str], path: str
) -> None:
    scope = _SCOPES[path]
    async with Api.connected(service.port, "") as api:
        failed = await called(api.channel, path, _METHODS[path], keys[scope])
    assert failed is not None
    assert (failed.code, failed.reason, failed.metadata) == ("PERMISSION_DENIED", "SCOPE_MISSING", {"scope": scope})


@pytest.mark.parametrize("path", sorted(_METHODS))
async def test_no_method_is_answered_without_a_key(service: Service, path: str) -> None:
    async with Api.connected(service.port, "") as api:
        failed = await called(api.channel, path, _METHODS[path], "")
    assert failed is not None
    assert failed.code == "UNAUTHENTICATED"


def test_only_service_information_is_open_to_any_key() -> None:
    assert {path for path, scope in _SCOPES.items() if scope == ANY_KEY} == {"/recsvc.v1.AdminService/GetServiceInfo"}


async def test_a_method_that_declares_no_scope_is_refused_to_everybody(service: Service) -> None:
    auth = service.storage.settings.auth
    hasher = KeyHasher(auth)
    authenticator = Authenticator(service.storage.keys, hasher, lambda: True, auth, Metrics())
    path, settings = "/recsvc.v1.AdminService/Forgotten", service.storage.settings.server
    declared = policies(FILES, settings)["/recsvc.v1.AdminService/GetServiceInfo"]
    pipeline = Pipeline(
        (Authentication(authenticator, service.storage.tenants, _SCOPES, {}),),
        RequestValidator(),
        {path: replace(declared, path=path)},
        settings,
    )

    async def answer(request: Any, context: Any) -> admin_pb.GetServiceInfoResponse:
        return admin_pb.GetServiceInfoResponse()

    handler = grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=admin_pb.GetServiceInfoRequest.FromString,
        response_serializer=admin_pb.GetServiceInfoResponse.SerializeToString,
    )
    pipeline.add_registered_method_handlers("recsvc.v1.AdminService", {"Forgotten": handler})
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([pipeline])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await service.storage.tenants.create(TenantId("forgotten"), "", TenantSettings())
    key = await new_key(service.storage, TenantId("forgotten"), "", frozenset(Scope))
    async with Api.connected(port, "") as api:
        method = _METHODS["/recsvc.v1.AdminService/GetServiceInfo"]
        failed = await called(api.channel, path, method, key.secret)
    await server.stop(0)
    hasher.close()
    await service.storage.tenants.delete(TenantId("forgotten"))
    assert failed is not None
    assert (failed.code, failed.reason) == ("PERMISSION_DENIED", "SCOPE_MISSING")


async def test_reflection_needs_no_key(service: Service) -> None:
    async with Api.connected(service.port, "") as api:
        stub = reflection_pb2_grpc.ServerReflectionStub(api.channel)
        asked = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        names = [each.name async for answer in asked for each in answer.list_services_response.service]
    assert "recsvc.v1.AdminService" in names
