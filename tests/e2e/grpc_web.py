"""gRPC-Web as a browser speaks it: framing, both encodings, trailers in the body.

github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from google.protobuf.message import Message
from google.rpc import status_pb2

from tests.api import Failure, failure_of
from tests.envoy import Answer, Envoy

_TRAILERS = 0x80


@dataclass(frozen=True)
class WebAnswer:
    """A decoded answer: the messages as they came, and the trailers."""

    http: Answer
    messages: list[bytes]
    trailers: Mapping[str, str]

    def failure(self) -> Failure:
        """The parts of the status."""
        packed = self.trailers.get("grpc-status-details-bin", "")
        status = status_pb2.Status.FromString(base64.b64decode(packed + "==")) if packed else None
        return failure_of(status, self.trailers["grpc-status"])


async def call_web(
    envoy: Envoy, method: str, request: Message, key: str = "", *, text: bool = False, **headers: str
) -> WebAnswer:
    """Call `recsvc.v1.<Service>/<Method>`. text: the base64 form, which old browsers stream."""
    content_type = "application/grpc-web-text" if text else "application/grpc-web+proto"
    body = struct.pack(">BI", 0, request.ByteSize()) + request.SerializeToString()
    answer = await envoy.call(
        "POST",
        f"/recsvc.v1.{method}",
        base64.b64encode(body) if text else body,
        key,
        {"content-type": content_type, "accept": content_type, "x-grpc-web": "1", **headers},
    )
    frames = list(_frames(_decoded(answer.body) if text else answer.body))
    trailers = dict(_trailers(b"".join(content for kind, content in frames if kind & _TRAILERS)))
    # Without a message they may come as headers.
    in_headers = {name: value for name, value in answer.headers.items() if name.startswith("grpc-")}
    return WebAnswer(answer, [content for kind, content in frames if not kind & _TRAILERS], trailers or in_headers)


def _decoded(body: bytes) -> bytes:
    # Each part is padded on its own.
    return b"".join(base64.b64decode(part) for part in re.findall(rb"[^=]+=*", body))


def _frames(body: bytes) -> Iterator[tuple[int, bytes]]:
    while body:
        kind, size = struct.unpack(">BI", body[:5])
        assert len(body) >= 5 + size
        yield kind, body[5 : 5 + size]
        body = body[5 + size :]


def _trailers(content: bytes) -> Iterator[tuple[str, Any]]:
    for line in content.decode().splitlines():
        name, _, value = line.partition(":")
        yield name.strip().lower(), unquote(value.strip())
