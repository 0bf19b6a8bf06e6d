"""Every answer carries x-request-id: the caller's own if it sent a sane one, else a new one."""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Mapping

from recsvc.rpc.calls import Call, Context

HEADER = "x-request-id"
_SANE = re.compile(r"[!-~]{1,128}")


def request_id_of(metadata: Mapping[str, str]) -> str:
    """The caller's request id, or a new one."""
    given = metadata.get(HEADER)
    if given is not None and _SANE.fullmatch(given):
        return given
    # Nobody gains by guessing one; the system's random numbers would cost a system call.
    return f"{random.getrandbits(128):032x}"


def send_headers(call: Call, context: Context) -> Awaitable[None]:
    """Send the initial metadata: the request id, and what the stages put beside it. Once: each sending is a write.

    It costs a sixth of a bare echo, and no public way leads around that: grpc.aio puts nothing of ours beside an
    answer. To do something else while it is under way gains nothing: gRPC has written to the socket by the time the
    loop is free.
    """
    call.are_headers_sent = True
    return context.send_initial_metadata(((HEADER, call.request_id), *call.headers))
