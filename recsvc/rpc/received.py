"""Bounds what comes in before it is understood: bytes of a message, and messages and bytes of a stream.

A request deserializer may not raise, since gRPC would make an internal error of that; so what is wrong travels with the
message until the call can be refused for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from recsvc.domain.errors import DomainError, LimitExceeded, MalformedMessage
from recsvc.rpc.calls import Call
from recsvc.rpc.methods import MethodPolicy
from recsvc.settings import ServerSettings


class Received(NamedTuple):
    """A message and its encoded size, or why it cannot be had."""

    message: Any
    size_bytes: int
    error: DomainError | None = None

    def checked(self) -> Any:
        """The message. Raises LimitExceeded when it is too large, MalformedMessage when it is not of its type."""
        if self.error is not None:
            raise self.error
        return self.message


def receiver(deserializer: Callable[[bytes], Any] | None, policy: MethodPolicy) -> Callable[[bytes], Received]:
    """Deserializes what is small enough."""
    if deserializer is None:
        raise TypeError(f"{policy.path}: there is nothing to make messages with")
    limit = "max_bulk_request_bytes" if policy.call_class.is_bulk else "max_request_bytes"

    def receive(encoded: bytes) -> Received:
        size = len(encoded)
        if size > policy.max_bytes:
            text = f"the request has {size} bytes; {policy.path} takes at most {policy.max_bytes}"
            return Received(None, size, LimitExceeded(limit, text))
        try:
            return Received(deserializer(encoded), size)
        except DecodeError:
            return Received(None, size, MalformedMessage())

    return receive


async def bounded(messages: AsyncIterator[Received], call: Call, settings: ServerSettings) -> AsyncIterator[Any]:
    """The messages of a stream, each once its elements may go on. Raises LimitExceeded past the most."""
    count = total_bytes = 0
    async for received in messages:
        count += 1
        total_bytes += received.size_bytes
        call.request_bytes = total_bytes
        if count > settings.stream_max_messages:
            text = f"a stream has at most {settings.stream_max_messages} messages; begin a new one"
            raise LimitExceeded("stream_max_messages", text)
        if total_bytes > settings.stream_max_bytes:
            text = f"a stream has at most {settings.stream_max_bytes} bytes; begin a new one"
            raise LimitExceeded("stream_max_bytes", text)
        message = received.checked()
        if call.pace is not None:
            await call.pace(call.policy.elements(message))
        yield message
