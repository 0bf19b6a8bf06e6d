"""A watch that outlives its connections: where a stream breaks off, the next one resumes by the last token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TypeAlias

import grpc

from recsvc_client.errors import RecsvcError, broken, explained
from recsvc_client.gen.v1.recommendation_service_pb2 import (
    RecommendResponse,
    WatchRecommendationsRequest,
    WatchRecommendationsResponse,
)
from recsvc_client.repeating import Outage

_Stream: TypeAlias = "grpc.aio.UnaryStreamCall[WatchRecommendationsRequest, WatchRecommendationsResponse]"

# Four heartbeats: a connection that says nothing for so long is dead, whatever the transport believes.
_SILENCE_S = 60.0


async def lists(open_stream: Callable[[str], _Stream], *, give_up_after_s: float) -> AsyncGenerator[RecommendResponse]:
    """Each list that differs from the one before, over as many streams as it takes.

    open_stream: begins a stream after a token, the empty one for the present list. give_up_after_s: raises
    what the last attempt failed with when none was answered for so long. Raises RecsvcError at once for what trying
    again does not help.
    """
    token = ""
    outage = Outage(give_up_after_s)
    while True:
        call = open_stream(token)
        try:
            while True:
                update = await _next(call)
                token = update.resume_token
                outage.end()
                if update.HasField("recommendation"):
                    yield update.recommendation
        except RecsvcError as error:
            if token and "resume_token" in error.fields:
                # The tenant's settings are part of what is asked for: a token from before they changed is refused.
                token = ""
                continue
            rest_s = outage.pause_s(error)
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
            raise broken(f"the stream said nothing for {_SILENCE_S:.0f} s") from None
    if not isinstance(update, WatchRecommendationsResponse):
        raise broken("the stream ended")
    return update
