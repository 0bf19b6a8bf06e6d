"""What the driver's errors mean: failures to reach PostgreSQL, or to be answered in time, as the domain's errors.

They become so here and nowhere else; what a statement itself did wrong stays the driver's error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from recsvc.domain.errors import DeadlinePassed, StorageUnavailable


class ConnectionLost(StorageUnavailable):
    """Occurs when a connection broke while it was in use; whether the server did what was asked is not known."""


class NoConnection(StorageUnavailable):
    """Occurs when no connection was to be had in time; nothing was asked of the server."""


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn failures to reach PostgreSQL, or to be answered in time, into the domain's errors."""
    try:
        with _mapped_errors():
            yield
    except Exception as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # The driver tells of the statement that it cancelled for us; what happened is our own cancellation, and
            # who swallowed it would go on for ever.
            raise asyncio.CancelledError from error
        raise


@contextmanager
def _mapped_errors() -> Iterator[None]:
    try:
        yield
    except (PoolTimeout, TooManyRequests, PoolClosed) as error:
        raise NoConnection from error
    except psycopg.errors.QueryCanceled as error:
        raise DeadlinePassed from error
    except (psycopg.errors.AdminShutdown, psycopg.errors.CrashShutdown) as error:
        raise ConnectionLost from error
    except (
        psycopg.errors.CannotConnectNow,
        psycopg.errors.TooManyConnections,
        psycopg.errors.DiskFull,
        psycopg.errors.ReadOnlySqlTransaction,
    ) as error:
        raise StorageUnavailable from error
    except psycopg.OperationalError as error:
        # Without an SQLSTATE the connection itself failed; with one the statement did.
        if error.sqlstate is None or error.sqlstate.startswith("08"):
            raise ConnectionLost from error
        if error.sqlstate.startswith(("57", "53")):
            raise StorageUnavailable from error
        raise
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        raise ConnectionLost from error
