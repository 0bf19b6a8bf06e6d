"""The pool of connections and the transactions that run on it.

Every request runs in a transaction that takes the role `recsvc_app` and names its tenant, so that row-level security
stands behind the tenant predicate of each statement. Nothing is set outside a transaction, so PgBouncer in
transaction mode may stand between. Failures of the connection are told by `failures`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Self

import psycopg
from pgvector.psycopg import register_vector_async
from psycopg import sql
from psycopg.rows import DictRow, dict_row
from psycopg_pool import PoolTimeout

from recsvc.domain.errors import DeadlinePassed, StorageUnavailable
from recsvc.domain.ids import TenantKey
from recsvc.resilience.backoff import Backoff
from recsvc.resilience.breaker import Breaker, BreakerOpen
from recsvc.resilience.in_time import in_time
from recsvc.resilience.retries import Retries, RetryPolicy
from recsvc.resilience.slowness import Slowness
from recsvc.settings import PostgresSettings
from recsvc.storage.connection import Connection
from recsvc.storage.failures import ConnectionLost, NoConnection, translated_errors
from recsvc.storage.measured_pool import MeasuredPool
from recsvc.storage.statements import UNNAMED, load, name_of
from recsvc.storage.traced_cursors import sql_span
from recsvc.telemetry.metrics import Metrics
from recsvc.telemetry.spans import ROWS, SQL
from recsvc.telemetry.stages import stage

# What an answer takes on its way, once its statement has ended by its time-out.
_ON_ITS_WAY_S = 2.0
# What asks nothing of the server tells of its speed each time; a read also tells of what it asks for.
_TRIVIAL, _READ = "trivial", "read"
_LEAST_A_SECOND = {_TRIVIAL: 1, _READ: 5}
_JITTER = 0.25
# A second one finds what took the place of a connection that had died; who is silent is waited for only once.
_READ_AGAIN = RetryPolicy(attempts=2, backoff=Backoff(first_s=0.01, longest_s=0.01), longest_s=1.0)
_ASK_ANOTHER = RetryPolicy(attempts=1, backoff=_READ_AGAIN.backoff, longest_s=_READ_AGAIN.longest_s)
_SQL = load("snapshots")
Query = sql.Composed | sql.SQL | bytes
Params = Mapping[str, object]

# A statement ends with its time-out, and soon after the client has gone.
_ENTER_TENANT = (
    b"SELECT set_config('role', 'recsvc_app', true), set_config('recsvc.tenant', %(tenant)s, true),"
    b" set_config('statement_timeout', %(timeout_ms)s, true),"
    b" set_config('client_connection_check_interval', '250', true)"
)
_ENTER_SERVICE = (
    b"SELECT set_config('statement_timeout', %(timeout_ms)s, true),"
    b" set_config('client_connection_check_interval', '250', true)"
)


class ReplicaBehind(StorageUnavailable):
    """Occurs when a replica, lagging within its bounds, lacks what one question needs."""


class Database:
    """A pool to one PostgreSQL; an async context manager."""

    def __init__(
        self,
        url: str,
        settings: PostgresSettings,
        metrics: Metrics,
        *,
        name: str = "postgresql",
        must_answer: bool = True,
    ) -> None:
        """name: of its breaker and pool. must_answer: False for one in whose place another may be asked: the service
        begins without it, and a read that fails is not repeated there.
        """
        self._settings = settings
        self._must_answer = must_answer
        self._show_state = metrics.breaker_changed(name)
        self._show_slowness = metrics.breaker_changed(f"{name}_slow")
        self._statement_times = metrics.statement_times
        self.retries = Retries(metrics.retried)
        self._prober: asyncio.Task[None] | None = None
        self._generation = 0
        self._breaker = Breaker(
            name,
            failures=settings.breaker_failures,
            reset_s=settings.breaker_reset_s,
            patience_s=settings.breaker_slow_s,
            is_failure=self._is_failure,
            on_change=self._breaker_changed,
            probed_apart=True,
        )
        self._slowness = Slowness(_LEAST_A_SECOND, on_change=self._slowness_changed)
        self._pool = MeasuredPool(
            url,
            connection_class=Connection,
            kwargs={
                "autocommit": True,
                "row_factory": dict_row,
                "connect_timeout": max(2, round(settings.connect_timeout_s)),
                "prepare_threshold": 3 if settings.prepare_statements else None,
                "application_name": "recsvc",
            },
            min_size=min(settings.pool_min_size, settings.pool_size),
            max_size=settings.pool_size,
            timeout=settings.pool_timeout_s,
            max_waiting=settings.pool_size * 50,
            # The pauses between attempts double: after so long they begin again with a short one.
            reconnect_timeout=settings.reconnect_s,
            configure=self._configure,
            check=None,
            open=False,
            name=f"recsvc-{name}",
        )
        self._pool.measure(metrics, name)

    async def __aenter__(self) -> Self:
        """Open the pool. Raises StorageUnavailable when no connection comes about in time and one must."""
        try:
            await self._pool.open(wait=self._must_answer, timeout=self._settings.connect_timeout_s * 3)
        except PoolTimeout as error:
            await self._pool.close()
            raise StorageUnavailable from error
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the pool; connections in use are given a moment to come back."""
        if self._prober is not None:
            self._prober.cancel()
        await self._pool.close(timeout=5)

    def is_slow(self) -> bool:
        """Whether it answers so slowly that who has something else to answer with should not wait for it."""
        return self._slowness.is_slow

    def _is_failure(self, error: BaseException) -> bool:
        """Whether it says that the server is away; of a slow one, connections are in use for long, and run short."""
        is_short = isinstance(error, NoConnection) and self.is_slow() and not self._breaker.is_silent
        return isinstance(error, StorageUnavailable) and not is_short

    def _breaker_changed(self, state: str) -> None:
        self._show_state(state)
        self._begin_probing(state)

    def _slowness_changed(self, state: str) -> None:
        self._show_slowness(state)
        self._begin_probing(state)

    def _begin_probing(self, state: str) -> None:
        if state == "open" and (self._prober is None or self._prober.done()):
            self._prober = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        """Ask PostgreSQL now and then until it answers, and soon enough, so that calls need not find out."""
        while not self._breaker.is_closed or self.is_slow():
            pause_s = self._settings.breaker_reset_s / 2 * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311
            await asyncio.sleep(pause_s)
            took_s = float("inf")
            with suppress(StorageUnavailable, DeadlinePassed, BreakerOpen):
                took_s = await in_time(self._answer_probe(), self._settings.breaker_slow_s)
            self._slowness.probed(slowly=took_s > self._settings.slow_answer_s)

    async def _answer_probe(self) -> float:
        """How long a statement takes that asks nothing of the server."""
        with self._breaker.guard(probe=True), translated_errors():
            async with self._leased(self._settings.breaker_slow_s) as connection:
                start = time.monotonic()
                await connection.execute(b"SELECT 1")
                return time.monotonic() - start

    @contextmanager
    def _timed(self, kind: str, slow_s: float) -> Iterator[None]:
        """Count how long an answer takes, or was waited for; a failure says nothing of that."""
        start, is_counted = time.monotonic(), True
        try:
            yield
        except Exception:
            is_counted = False
            raise
        finally:
            if is_counted:
                self._slowness.answered(kind, slowly=time.monotonic() - start > slow_s)

    @asynccontextmanager
    async def _leased(self, timeout_s: float | None = None) -> AsyncIterator[Connection]:
        """A connection out of the pool; one whose user was cancelled does not go back.

        timeout_s: of each statement; None for work that may take as long as it likes.
        """
        task = asyncio.current_task()
        cancellations = task.cancelling() if task is not None else 0
        async with self._pool.connection() as connection:
            if task is not None and task.cancelling() > cancellations:
                # The pool waits with asyncio.wait_for, which before Python 3.12 swallows a cancellation that comes
                # together with the connection (bpo-37658).
                raise asyncio.CancelledError
            connection.longest_wait_s = None if timeout_s is None else timeout_s + _ON_ITS_WAY_S
            try:
                yield connection
            except BaseException as error:
                if task is not None and task.cancelling():
                    # A pipeline that was cut off leaves answers behind, which the next user would take for its own.
                    await connection.close()
                elif isinstance(error, psycopg.errors.ReadOnlySqlTransaction) or connection.broken:
                    await connection.close()
                    await self._leave_server(connection.generation)
                raise

    async def _leave_server(self, generation: int) -> None:
        """Replace every connection: the server is dead, or no longer the primary, and so it is for all of them."""
        # Those that were made together fail together; only the first of them speaks of the connections that are left.
        if generation == self._generation:
            self._generation += 1
            await self._pool.drain()

    async def _configure(self, connection: Connection) -> None:
        connection.generation = self._generation
        connection.statement_times = self._statement_times
        # On a database that was not migrated yet the types do not exist: migrations run on such connections.
        with suppress(psycopg.ProgrammingError):
            await register_vector_async(connection)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection in autocommit, as the owner of the schema: for work that belongs to no tenant."""
        with translated_errors():
            async with self._leased() as connection:
                yield connection

    @asynccontextmanager
    async def service_transaction(self, *, timeout_s: float | None = None) -> AsyncIterator[Connection]:
        """A transaction over all tenants, as the owner: authentication, projection, training, administration."""
        async with self._transaction(_ENTER_SERVICE, {}, timeout_s) as connection:
            yield connection

    @asynccontextmanager
    async def tenant_transaction(
        self, tenant_key: TenantKey, *, timeout_s: float | None = None, snapshot: bool = False
    ) -> AsyncIterator[Connection]:
        """A transaction for one tenant under row-level security.

        snapshot: every statement sees the state at the first one (REPEATABLE READ), for exports.
        """
        async with self._transaction(
            _ENTER_TENANT, {"tenant": str(tenant_key)}, timeout_s, snapshot=snapshot
        ) as connection:
            yield connection

    @asynccontextmanager
    async def _transaction(
        self, enter: bytes, parameters: Params, timeout_s: float | None, *, snapshot: bool = False
    ) -> AsyncIterator[Connection]:
        timeout_s = timeout_s or self._settings.statement_timeout_s
        async with AsyncExitStack() as stack:
            stack.enter_context(translated_errors())
            # How long the rest takes is up to what is done in it, and says nothing of PostgreSQL.
            with self._guarded():
                connection = await stack.enter_async_context(self._leased(timeout_s))
                await stack.enter_async_context(connection.transaction())
                if snapshot:
                    await connection.execute(b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                with self._timed(_TRIVIAL, self._settings.slow_answer_s):
                    await connection.execute(enter, {**parameters, "timeout_ms": _milliseconds(timeout_s)})
            yield connection

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Translate errors, and leave PostgreSQL alone while the breaker is open."""
        try:
            with self._breaker.guard(), translated_errors():
                yield
        except BreakerOpen as error:
            raise StorageUnavailable from error

    async def fetch_all(
        self,
        tenant_key: TenantKey,
        query: str | sql.Composed,
        params: Params,
        *,
        setting: Query | None = None,
        version: int | None = None,
    ) -> list[DictRow]:
        """The rows of `run_once`, for statements that change nothing: once more if the connection turns out dead."""
        return await self.retries.run(
            "read",
            lambda: self.run_once(tenant_key, query, params, setting=setting, version=version),
            _READ_AGAIN if self._must_answer else _ASK_ANOTHER,
            lambda error: isinstance(error, ConnectionLost),
        )

    @stage(SQL, named=lambda _self, _tenant_key, query, *_, **__: sql_span(query), told=lambda rows: {ROWS: len(rows)})
    async def run_once(
        self,
        tenant_key: TenantKey,
        query: str | sql.Composed,
        params: Params,
        *,
        setting: Query | None = None,
        version: int | None = None,
    ) -> list[DictRow]:
        """Run one statement for a tenant in a single round trip, in a transaction of its own.

        setting: one more statement before it (SET LOCAL of a planner or index option). version: of the tenant that the
        statement must see, or a later one; else raises ReplicaBehind.
        """
        timeout_s = self._settings.statement_timeout_s
        seen = None
        with self._guarded():
            async with self._leased(timeout_s) as connection:
                with self._timed(_READ, self._settings.breaker_slow_s), connection.timed(name_of(query) or UNNAMED):
                    # What goes out before a Sync is one transaction, which the Sync commits (see "Pipelining" in the
                    # manual of PostgreSQL). The driver's own transaction would wait for the server four times.
                    async with _pipeline(connection):
                        await connection.execute(
                            _ENTER_TENANT, {"tenant": str(tenant_key), "timeout_ms": _milliseconds(timeout_s)}
                        )
                        if setting is not None:
                            await connection.execute(setting)
                        # Each statement sees what was committed when it began: the next one sees this version at least.
                        if version is not None:
                            seen = await connection.execute(_SQL["tenant_version"].encode(), {"tenant": tenant_key})
                        cursor = await connection.execute(_as_query(query), params, binary=True)
                rows = await cursor.fetchall()
                found = await seen.fetchone() if seen is not None else None
        # Outside of what the breaker judges: a server that lags answers all the same.
        if version is not None and (found is None or found["version"] < version):
            raise ReplicaBehind
        return rows

    async def fetch_one(self, tenant_key: TenantKey, query: str | sql.Composed, params: Params) -> DictRow | None:
        """The first row of `fetch_all`, or None."""
        rows = await self.fetch_all(tenant_key, query, params)
        return rows[0] if rows else None

    @staticmethod
    async def snapshot_time(connection: Connection, longest_transaction_s: float) -> datetime:
        """A moment such that whatever a snapshot misses was written after it.

        Rows carry the start of the transaction that wrote them; one that is still open may have begun as long ago as
        a transaction may last. An export from here on repeats a little rather than miss something. On a replica the
        last commit that it has replayed counts, however far it lags; before the first one, everything is repeated.
        """
        cursor = await connection.execute(
            b"SELECT CASE WHEN pg_is_in_recovery()"
            b" THEN least(now(), coalesce(pg_last_xact_replay_timestamp(), 'epoch')) ELSE now() END"
            b" - make_interval(secs => %s) AS snapshot_time",
            [longest_transaction_s],
        )
        row = await cursor.fetchone()
        moment: datetime = row["snapshot_time"] if row else datetime.now(UTC)
        return moment

    async def analyze(self) -> None:
        """Refresh the planner's statistics after much was loaded."""
        async with self.connection() as connection:
            await connection.execute(b"ANALYZE")


async def execute(connection: Connection, query: str | sql.Composed, params: Params | None = None) -> Any:
    """Run a statement of a .sql file on a connection; returns the cursor."""
    with connection.timed(name_of(query) or UNNAMED):
        return await connection.execute(_as_query(query), params)


@asynccontextmanager
async def _pipeline(connection: Connection) -> AsyncIterator[None]:
    try:
        async with connection.pipeline():
            yield
    except IndexError as error:
        # What PostgreSQL refuses at the Sync may come in after all that the driver counts on.
        await connection.close()
        raise ConnectionLost from error


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


def _as_query(query: str | sql.Composed) -> sql.Composed | bytes:
    return query.encode() if isinstance(query, str) else query
