"""Cursors that make a span of each named statement; connections have them while tracing is on.

OpenTelemetry's own instrumentation of psycopg is not used: by its source, within a pipeline, which is how most
statements run, it times how long sending takes and not the answer; it knows nothing of COPY; and it renders each
statement anew for its text, which we do not want told.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self

from opentelemetry.trace import Tracer, get_current_span
from psycopg import AsyncConnection, AsyncCursor, AsyncServerCursor
from psycopg.pq import PipelineStatus
from psycopg.rows import DictRow

from recsvc.storage.connection import Connection
from recsvc.storage.statements import name_of
from recsvc.telemetry.spans import SQL, STATEMENT
from recsvc.telemetry.stages import Told, opened


def sql_span(query: Any) -> tuple[str, Told]:
    """Name and attributes of a statement's span; no name for a statement that has none."""
    name = name_of(query)
    return (f"sql {name}", {"db.system.name": "postgresql", STATEMENT: name}) if name else ("", {})


@contextmanager
def traced_cursors(tracer: Tracer) -> Iterator[None]:
    """Give all connections such cursors until the block is left."""

    @contextmanager
    def spanned(cursor: AsyncCursor[DictRow], query: Any) -> Iterator[None]:
        name, told = sql_span(query)
        # In a pipeline nothing is waited for here: who waits for all of it makes the span.
        is_waiting = cursor.connection.pgconn.pipeline_status == PipelineStatus.OFF
        if not name or not is_waiting or not get_current_span().is_recording():
            yield
            return
        with opened(tracer, SQL, name, told):
            yield

    class Cursor(AsyncCursor[DictRow]):
        async def execute(self, query: Any, *arguments: Any, **named: Any) -> Self:
            with spanned(self, query):
                return await super().execute(query, *arguments, **named)

        @asynccontextmanager
        async def copy(self, statement: Any, *arguments: Any, **named: Any) -> AsyncIterator[Any]:
            with spanned(self, statement):
                async with super().copy(statement, *arguments, **named) as copy:
                    yield copy

    class ServerCursor(AsyncServerCursor[DictRow]):
        async def execute(self, query: Any, *arguments: Any, **named: Any) -> Self:
            with spanned(self, query):
                return await super().execute(query, *arguments, **named)

    def cursor(connection: Connection, *arguments: Any, **named: Any) -> Any:
        connection.cursor_factory, connection.server_cursor_factory = Cursor, ServerCursor
        return AsyncConnection.cursor(connection, *arguments, **named)

    Connection.cursor = cursor  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        del Connection.cursor
