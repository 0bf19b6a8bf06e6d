"""The connection to PostgreSQL, and what becomes of a statement whose caller has gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.rows import DictRow
from psycopg.waiting import wait_async

from recsvc.telemetry.metrics.storage import StatementTimes

_CANCEL_S = 0.25
_CHECK_INTERVAL_S = 0.1
_Answer = TypeVar("_Answer")


class Connection(psycopg.AsyncConnection[DictRow]):
    """A connection that is closed as soon as a wait for the server is cancelled, its statement being cancelled too.

    The driver's own connection asks the server to cancel and waits five seconds for it. A request to cancel that comes
    before the server has read the statement is lost, and then the caller stays away those seconds, and in a pipeline
    until the statement's time-out. Here nobody waits so long; a server that missed the request finds the client gone
    (`client_connection_check_interval`).

    longest_wait_s: how long any one wait for the server may take. A statement ends with its own time-out, but only at a
    server that can be heard: behind a network that swallows everything the wait would last until TCP gives up.
    generation: of the pool's connections, which are replaced all at once. statement_times: who is told of durations.
    """

    longest_wait_s: float | None = None
    generation = 0
    statement_times: StatementTimes | None = None

    @contextmanager
    def timed(self, statement: str) -> Iterator[None]:
        """Count what is done inside as one run of the statement of this name."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if self.statement_times is not None:
                self.statement_times.observe(statement, time.perf_counter() - start)

    async def wait(
        self,
        gen: PQGen[_Answer],
        interval: float = _CHECK_INTERVAL_S,
        timeout: float | None = None,  # noqa: ASYNC109 - the driver's signature
    ) -> _Answer:
        """Wait for a generator of the driver. Raises as it does, CancelledError within a second of being cancelled.

        Raises OperationalError, without an SQLSTATE as for any broken connection, after `longest_wait_s`.
        """
        longest_s = timeout if timeout is not None else self.longest_wait_s
        try:
            # The driver's own time-out costs nothing where there is nothing to wait for, as at most rows of a COPY.
            return await wait_async(gen, self.pgconn.socket, interval=interval, timeout=longest_s)
        except asyncio.CancelledError:
            await self._cut_off(gen)
            raise
        except psycopg.errors._WaitTimeout as error:
            if timeout is not None:
                raise
            self.pgconn.finish()
            raise psycopg.OperationalError("the server did not answer in time") from error

    async def _cut_off(self, gen: PQGen[_Answer]) -> None:
        try:
            with suppress(psycopg.Error):
                await self.cancel_safe(timeout=_CANCEL_S)
                await wait_async(gen, self.pgconn.socket, interval=_CHECK_INTERVAL_S, timeout=_CANCEL_S)
        finally:
            self.pgconn.finish()
