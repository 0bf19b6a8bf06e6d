"""Which failures of PostgreSQL are worth another attempt, and how many.

A deadlock, since PostgreSQL ends one of the two whole: writers lock rows in one order, but not every pair of statements
can agree on one, because what they insert for each other has no place in it yet. And a connection that broke, for what
may be done twice: the pool may hold some that died with their server, and finds out when they are used.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from psycopg.errors import DeadlockDetected, ForeignKeyViolation

from recsvc.domain.errors import StorageUnavailable
from recsvc.resilience.backoff import Backoff
from recsvc.resilience.retries import RetryPolicy
from recsvc.storage.database import Database

CONFLICTS = (DeadlockDetected, ForeignKeyViolation)
"""What a transaction ends with when others changed or deleted at the same moment what it is about."""

# PostgreSQL takes a second to find a deadlock (deadlock_timeout), more on a busy machine: time for all four attempts.
_POLICY = RetryPolicy(attempts=4, backoff=Backoff(first_s=0.01, longest_s=0.1), longest_s=5.0)
_Result = TypeVar("_Result")


async def despite_deadlocks(
    database: Database,
    operation: str,
    transaction: Callable[[], Awaitable[_Result]],
    *,
    worth_another: tuple[type[Exception], ...] = (DeadlockDetected,),
) -> _Result:
    """The result of a transaction. It must not announce anything before its commit: it may run several times.

    operation: names it in the metrics. Raises StorageUnavailable when all attempts ended in a deadlock.
    """
    try:
        return await database.retries.run(
            operation, transaction, _POLICY, lambda error: isinstance(error, worth_another)
        )
    except DeadlockDetected as error:
        raise StorageUnavailable from error
