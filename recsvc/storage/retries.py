"""Runs a transaction again that PostgreSQL ended because two were waiting for each other.

Writers lock rows in one order, but not every pair of statements can agree on one: what they insert for each other has
no place in it yet. PostgreSQL then ends one of the two, whole, so that doing it again is always safe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from psycopg.errors import DeadlockDetected

from recsvc.resilience.backoff import Backoff

_ATTEMPTS = 4
_BACKOFF = Backoff(first_s=0.01, longest_s=0.1)
_Result = TypeVar("_Result")


async def despite_deadlocks(transaction: Callable[[], Awaitable[_Result]]) -> _Result:
    """The result of a transaction. It must not announce anything before its commit: it may run several times."""
    for failures in range(1, _ATTEMPTS):
        try:
            return await transaction()
        except DeadlockDetected:
            # The other one has what it waited for, and goes on; jitter keeps the next attempts apart.
            await asyncio.sleep(_BACKOFF.pause_s(failures))
    return await transaction()
