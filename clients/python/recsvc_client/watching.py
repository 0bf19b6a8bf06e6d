"""A watch that outlives its connections: where a stream breaks off, the next one resumes by the last token."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import TypeAlias

import grpc

from recsvc_client.errors import RecsvcError, explained
from recsvc_client.gen.v1.recommendation_service_pb2 import (
    RecommendResponse,
    WatchRecommendationsRequest,
    WatchRecommendationsResponse,
)
from recsvc_client.repeating import pause_s

_Stream: TypeAlias = "grpc.aio.UnaryStreamCall[WatchRecommendationsRequest, WatchRecommendationsResponse]"

_RESUMED = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED"})
# Four heartbeats: a connection that says nothing for so long is dead, whatever the transport believes.
_SILENCE_S = 60.0


async def lists(open_stream: Callable[[str], _Stream], *, give_up_after_s: float) -> AsyncGenerator[RecommendResponse]:
    """Each list that differs from the one before, over as many streams as it takes.

    open_stream: begins a stream after a token, the empty one for the present list. give_up_after_s: raises
    what the last attempt failed with when none was answered for so long. Raises RecsvcError at once for what trying
    again does not help.
    """
    token = ""
    attempts = 0
    failing_since: float | None = None
    while True:
        call = open_stream(token)
        try:
            while True:
                update = await _next(call)
                token, attempts, failing_since = update.resume_token, 0, None
                if update.HasField("recommendation"):
                    yield update.recommendation
        except RecsvcError as error:
            if token and "resume_token" in error.fields:
                # The tenant's settings are part of what is asked for: a token from before they changed is refused.
                token = ""
                continue
            if error.code not in _RESUMED:
                raise
            now = time.monotonic()
            failing_since = now if failing_since is None else failing_since
            rest_s = pause_s(attempts, error.retry_after_s or 0.0)
            if now + rest_s - failing_since > give_up_after_s:
                raise
            attempts += 1
        finally:
            call.cancel()
        await asyncio.sleep(rest_s)


async def _next(call: _Stream) -> WatchRecommendationsResponse:
    """The next message. Raises RecsvcError, UNAVAILABLE also for a stream that ended or fell silent."""
    with explained():
        try:
            async with asyncio.timeout(_SILENCE_S):
                update = await call.read()
        except TimeoutError:
            raise _broken(f"the stream said nothing for {_SILENCE_S:.0f} s") from None
    if not isinstance(update, WatchRecommendationsResponse):
        raise _broken("the stream ended")
    return update


def _broken(message: str) -> RecsvcError:
    return RecsvcError("UNAVAILABLE", "", message, {}, None, "")
