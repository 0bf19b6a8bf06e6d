"""Every answer carries x-request-id: the caller's own if it sent a sane one, else a new one."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from recsvc.rpc.calls import Call, Context

HEADER = "x-request-id"
_SANE = re.compile(r"[!-~]{1,128}")


def request_id_of(metadata: Mapping[str, str]) -> str:
    """The caller's request id, or a new one."""
    given = metadata.get(HEADER, "")
    return given if _SANE.fullmatch(given) else uuid.uuid4().hex


class RequestIds:
    """Sends the request id back in the initial metadata."""

    @asynccontextmanager
    async def around(self, call: Call, context: Context) -> AsyncIterator[None]:
        """Send it before anything can go wrong."""
        await context.send_initial_metadata(((HEADER, call.request_id),))
        yield
