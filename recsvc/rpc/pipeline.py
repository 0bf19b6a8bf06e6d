"""What happens to every call, in one order: size → stages (log, metrics, audit, auth, limits) → headers → validation.

grpc.aio asks for a handler on each call; each is wrapped once, when its service is added. A stage is told of the
beginning of a call, which it may refuse, and of its end, for unary and streaming methods alike. All of this runs on
every call, so `bench/interceptors.py` measures it against a bare echo.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeAlias

import grpc

from recsvc.domain.errors import DomainError
from recsvc.rpc import calls
from recsvc.rpc.calls import Call, Context
from recsvc.rpc.errors import abort
from recsvc.rpc.interceptors.errors import refusal
from recsvc.rpc.interceptors.request_id import request_id_of, send_headers
from recsvc.rpc.methods import MethodPolicy
from recsvc.rpc.received import Received, bounded, receiver
from recsvc.rpc.validation import RequestValidator
from recsvc.settings import ServerSettings

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_READ_AWAY, _READ_AWAY_S = 100, 0.1


class Stage(Protocol):
    """Something that calls pass."""

    def concerns(self, policy: MethodPolicy) -> bool:
        """Whether calls of this method pass it; asked once."""

    def enter(self, call: Call, context: Context) -> Awaitable[None] | None:
        """Let the call in, or raise; what must be waited for before that is sure, None if nothing: nearly always."""

    def leave(self, call: Call, error: DomainError | None) -> Awaitable[None] | None:
        """A call that was let in here has ended, with call.code; error: what its caller is told, if it failed.

        Returns what must be waited for before the caller is answered.
        """


class Pipeline(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Has the handlers of our services, which are added to it as they would be to a server.

    Not an interceptor: gRPC makes two coroutines a call for one.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        validator: RequestValidator,
        policies: Mapping[str, MethodPolicy],
        settings: ServerSettings,
    ) -> None:
        """stages: outermost first. policies: of all our methods, by path."""
        self._stages = tuple(stages)
        self._validator = validator
        self._policies = policies
        self._settings = settings
        self._wrapped: dict[str, tuple[MethodPolicy, Handler]] = {}

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        """Have these methods answered; called by generated code."""
        for name, handler in method_handlers.items():
            policy = self._policies[f"/{service_name}/{name}"]
            self._wrapped[policy.path] = policy, self._wrap(policy, handler)

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same methods again, for servers that do not take them by name; called by generated code."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of the method; None for methods of others. Called in the task that is to run the handler."""
        found = self._wrapped.get(handler_call_details.method)
        if found is None:
            return None
        policy, handler = found
        # What is not text (keys that end in -bin) is nothing that we ask for. gRPC's context would make it all anew.
        received = handler_call_details.invocation_metadata or ()
        metadata = {key: value for key, value in received if isinstance(value, str)}
        calls.enter(Call(policy.path, policy, request_id_of(metadata), metadata, time.perf_counter()))
        return handler

    def _wrap(self, policy: MethodPolicy, handler: Handler) -> Handler:
        coders = {
            "request_deserializer": receiver(handler.request_deserializer, policy),
            "response_serializer": handler.response_serializer,
        }
        stages = tuple(stage for stage in self._stages if stage.concerns(policy))
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(self._unary(policy, stages, handler.unary_unary), **coders)
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(self._streaming(stages, handler.unary_stream), **coders)
        if handler.stream_stream:
            return grpc.stream_stream_rpc_method_handler(self._bidirectional(stages, handler.stream_stream), **coders)
        raise TypeError(f"{policy.path}: the contract has no client-streaming methods with a single answer")

    def _unary(self, policy: MethodPolicy, stages: Sequence[Stage], behavior: Callable[..., Any]) -> Callable[..., Any]:
        async def answer(received: Received, context: Context) -> Any:
            call = calls.current()
            call.request, call.request_bytes = received.message, received.size_bytes
            if policy.element_field is not None and received.message is not None:
                call.cost = policy.elements(received.message)
            async with _Passage(stages, call, context):
                request = received.checked()
                call.element_violations = self._validator.check(request)
                if call.deadline_s is None:
                    async with asyncio.timeout(self._settings.default_deadline_s):
                        call.response = await behavior(request, context)
                else:
                    call.response = await behavior(request, context)
                # Not before: gRPC repeats a call only as long as no headers have come, should this process die.
                await send_headers(call, context)
                return call.response

        return answer

    def _streaming(self, stages: Sequence[Stage], behavior: Callable[..., Any]) -> Callable[..., Any]:
        async def answer(received: Received, context: Context) -> AsyncIterator[Any]:
            call = calls.current()
            call.request_bytes = received.size_bytes
            async with _Passage(stages, call, context):
                await send_headers(call, context)
                request = received.checked()
                call.element_violations = self._validator.check(request)
                async for response in behavior(request, context):
                    call.responses += 1
                    yield response

        return answer

    def _bidirectional(self, stages: Sequence[Stage], behavior: Callable[..., Any]) -> Callable[..., Any]:
        async def answer(messages: AsyncIterator[Received], context: Context) -> AsyncIterator[Any]:
            call = calls.current()
            call.cost = 0
            async with _Passage(stages, call, context, messages):
                await send_headers(call, context)
                async for response in behavior(bounded(messages, call, self._settings), context):
                    call.responses += 1
                    yield response

        return answer


class _Passage:
    """Enters the stages in order and leaves them in reverse; a failed call ends with its status."""

    __slots__ = ("_call", "_context", "_entered", "_stages", "_unread")

    def __init__(
        self, stages: Sequence[Stage], call: Call, context: Context, unread: AsyncIterator[Received] | None = None
    ) -> None:
        """unread: the stream of requests."""
        self._stages = stages
        self._call = call
        self._context = context
        self._entered = 0
        self._unread = unread

    async def __aenter__(self) -> None:
        self._call.deadline_s = self._context.time_remaining()
        try:
            for stage in self._stages:
                waiting = stage.enter(self._call, self._context)
                if waiting is not None:
                    await waiting
                self._entered += 1
        except BaseException as error:
            if self._unread is not None and isinstance(error, DomainError):
                await _read_away(self._unread)
            await self._leave(error)
            raise

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is not None:
            await self._leave(error)
            return
        try:
            while self._entered:
                self._entered -= 1
                waiting = self._stages[self._entered].leave(self._call, None)
                if waiting is not None:
                    await waiting
        except BaseException as failed:
            # What its caller was to be told is not so; the stages around are left all the same.
            await self._leave(failed)
            raise

    async def _leave(self, error: BaseException) -> None:
        refused = refusal(self._call, error)
        for stage in reversed(self._stages[: self._entered]):
            try:
                waiting = stage.leave(self._call, refused)
                if waiting is not None:
                    await waiting
            except Exception as failed:
                refused = refused or refusal(self._call, failed)
        if refused is not None:
            if not self._call.are_headers_sent:
                await send_headers(self._call, self._context)
            await abort(self._context, refused)


async def _read_away(messages: AsyncIterator[Received]) -> None:
    """Take what a refused stream has sent, or sends at once.

    grpc.aio tells a client whose writing is cut off of an internal error, and not why the stream was refused.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_READ_AWAY_S):
            for _ in range(_READ_AWAY):
                if await anext(messages, None) is None:
                    return
