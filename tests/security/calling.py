"""Calls any method by its path, and keeps all that came back: responses, or the status with its details."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from tests.security.scenarios import METHODS

_ENDLESS = "/recsvc.v1.RecommendationService/WatchRecommendations"
# What tells of the moment, of chance or of the caller's own calls before, not of whose data it is.
_VOLATILE = (
    "_time",
    "etag",
    "recommendation_id",
    "resume_token",
    "next_page_token",
    "secret",
    "request_id",
    "deleted_item_ids",
)
assert error_details_pb2.DESCRIPTOR  # registers the types of details, so that they print


@dataclass(frozen=True)
class Outcome:
    """How one call ended, and everything that it said."""

    code: str
    status: status_pb2.Status
    responses: tuple[Any, ...] = ()

    def document(self) -> Any:
        """All of it as JSON values, without what tells of the moment or of chance."""
        messages = [self.status, *self.responses]
        return _steady([json_format.MessageToDict(each, preserving_proto_field_name=True) for each in messages])

    def wire(self) -> bytes:
        """All of it as bytes."""
        return b"\n".join(each.SerializeToString() for each in (self.status, *self.responses))


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _steady(each) for key, each in value.items() if not key.endswith(_VOLATILE)}
    return [_steady(each) for each in value] if isinstance(value, list) else value


async def outcomes(channel: Any, path: str, requests: Sequence[Any], *, timeout_s: float = 30) -> list[Outcome]:
    """One call a request; a method that takes a stream gets all requests in one call."""
    if METHODS[path].client_streaming:
        return [await _outcome(channel, path, requests, timeout_s)]
    return [await _outcome(channel, path, [request], timeout_s) for request in requests]


async def _outcome(channel: Any, path: str, requests: Sequence[Any], timeout_s: float) -> Outcome:
    received: list[Any] = []
    call = _started(channel, path, requests, timeout_s)
    try:
        if METHODS[path].server_streaming:
            async for response in call:
                received.append(response)
                if path == _ENDLESS:
                    break
        else:
            received.append(await call)
    except grpc.aio.AioRpcError as error:
        packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
        status = status_pb2.Status.FromString(packed) if packed else status_pb2.Status(message=error.details() or "")
        return Outcome(error.code().name, status, tuple(received))
    finally:
        call.cancel()
    return Outcome("OK", status_pb2.Status(), tuple(received))


def _started(channel: Any, path: str, requests: Iterable[Any], timeout_s: float) -> Any:
    method = METHODS[path]
    coders = {
        # Bytes pass as they are: whoever mutates messages sends what is no message.
        "request_serializer": lambda request: request if isinstance(request, bytes) else request.SerializeToString(),
        "response_deserializer": GetMessageClass(method.output_type).FromString,
    }
    if method.client_streaming:
        return channel.stream_stream(path, **coders)(_stream(requests), timeout=timeout_s)
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    return kind(path, **coders)(next(iter(requests)), timeout=timeout_s)


async def _stream(requests: Iterable[Any]) -> Any:
    for request in requests:
        yield request
