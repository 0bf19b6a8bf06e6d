"""Turns whatever a call raises into a status that is safe to show."""

from __future__ import annotations

import asyncio

import grpc

from recsvc.domain.errors import DeadlinePassed, DomainError
from recsvc.rpc.calls import Call
from recsvc.rpc.errors import unforeseen


def refusal(call: Call, error: BaseException) -> DomainError | None:
    """What to end the call with, noted in it; None for cancellation and for aborts that are under way, which pass."""
    if isinstance(error, asyncio.CancelledError):
        call.code = "CANCELLED"
        return None
    if isinstance(error, grpc.aio.AbortError | GeneratorExit) or not isinstance(error, Exception):
        return None
    if isinstance(error, DomainError):
        refused = error
    elif isinstance(error, TimeoutError):
        refused = DeadlinePassed()
    else:
        refused = unforeseen(call)
    call.code = refused.code.name
    return refused
