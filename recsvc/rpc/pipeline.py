"""What happens to every call, in one order: request id → metrics and log → error mapping → auth → validation.

grpc.aio asks the interceptor for a handler on each call; handlers are wrapped once per method and kept. A stage is an
async context manager around the call, so that it sees the beginning, the end and the error alike for unary and
streaming methods.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias

import grpc

from recsvc.rpc import calls
from recsvc.rpc.calls import Call, Context
from recsvc.rpc.interceptors.request_id import request_id_of
from recsvc.rpc.validation import RequestValidator

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_OURS = "/recsvc.v1."


class Stage(Protocol):
    """Something that surrounds every call."""

    def around(self, call: Call, context: Context) -> AbstractAsyncContextManager[None]:
        """Enter before the servicer, leave after it; an error of the servicer passes through."""


class Pipeline(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Wraps the handlers of our services; health and reflection pass through untouched."""

    def __init__(self, stages: Sequence[Stage], validator: RequestValidator, default_deadline_s: float) -> None:
        """stages: outermost first. default_deadline_s: for unary calls that bring no deadline of their own."""
        self._stages = tuple(stages)
        self._validator = validator
        self._default_deadline_s = default_deadline_s
        self._wrapped: dict[str, Handler | None] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The wrapped handler of the method, from the second call on without any work."""
        method = handler_call_details.method
        handler = self._wrapped.get(method)
        if handler is None:
            handler = await continuation(handler_call_details)
            if handler is None or not method.startswith(_OURS):
                return handler
            handler = self._wrapped[method] = self._wrap(method, handler)
        return handler

    def _wrap(self, method: str, handler: Handler) -> Handler:
        coders = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(self._unary(method, handler.unary_unary), **coders)
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(method, handler.unary_stream, validate=True), **coders
            )
        if handler.stream_stream:
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(method, handler.stream_stream, validate=False), **coders
            )
        raise TypeError(f"{method}: the contract has no client-streaming methods with a single answer")

    def _unary(self, method: str, behavior: Callable[..., Any]) -> Callable[..., Any]:
        async def answer(request: Any, context: Context) -> Any:
            call = self._begin(method, context)
            call.request = request
            async with _Surrounded(self._stages, call, context):
                call.element_violations = self._validator.check(request)
                if context.time_remaining() is None:
                    async with asyncio.timeout(self._default_deadline_s):
                        return await behavior(request, context)
                return await behavior(request, context)

        return answer

    def _streaming(self, method: str, behavior: Callable[..., Any], *, validate: bool) -> Callable[..., Any]:
        async def answer(request: Any, context: Context) -> AsyncIterator[Any]:
            call = self._begin(method, context)
            async with _Surrounded(self._stages, call, context):
                if validate:
                    call.element_violations = self._validator.check(request)
                async for response in behavior(request, context):
                    yield response

        return answer

    @staticmethod
    def _begin(method: str, context: Context) -> Call:
        metadata = {
            str(key): value if isinstance(value, str) else value.decode("latin-1")
            for key, value in context.invocation_metadata() or ()
        }
        call = Call(method=method, request_id=request_id_of(metadata), metadata=metadata)
        calls.enter(call)
        return call


class _Surrounded:
    """Enters the stages in order and leaves them in reverse; an AsyncExitStack without its generality."""

    __slots__ = ("_entered", "_managers")

    def __init__(self, stages: Sequence[Stage], call: Call, context: Context) -> None:
        self._managers = [stage.around(call, context) for stage in stages]
        self._entered: list[AbstractAsyncContextManager[None]] = []

    async def __aenter__(self) -> None:
        try:
            for manager in self._managers:
                await manager.__aenter__()
                self._entered.append(manager)
        except BaseException as error:
            if not await self._leave(error):
                raise

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        return await self._leave(error)

    async def _leave(self, error: BaseException | None) -> bool:
        pending = error
        while self._entered:
            manager = self._entered.pop()
            try:
                if await manager.__aexit__(type(pending) if pending else None, pending, None):
                    pending = None
            except BaseException as raised:
                # A stage may replace the error by another, as the error mapping does.
                pending = raised
        if pending is not None and pending is not error:
            raise pending
        return error is not None and pending is None
