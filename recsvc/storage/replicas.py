"""The read replicas: which of them are fresh enough to be asked, and who is asked instead when one fails.

Only reads that may be a little old come here. Each replica has a pool and a breaker of its own. How far it lags is
measured against the positions that the primary's log was seen at, by one clock, so that neither an idle primary nor
the clocks of the servers mislead; while the primary is away, a replica that has all that was seen there stays.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self, TypeVar

import structlog
from psycopg import sql
from psycopg.errors import SerializationFailure
from psycopg.rows import DictRow

from recsvc.domain.consistency import NO_REPLICA, Consistency
from recsvc.domain.errors import DeadlinePassed, StorageUnavailable
from recsvc.domain.ids import TenantKey
from recsvc.resilience.in_time import in_time
from recsvc.settings import PostgresSettings
from recsvc.storage.connection import Connection
from recsvc.storage.database import Database, Params, Query, ReplicaBehind
from recsvc.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)
_POLL_S = 0.005
_JITTER = 0.25
"""So that many processes do not ask the servers in the same moment."""
_POSITION = b"SELECT pg_current_wal_lsn() - '0/0'::pg_lsn AS position"
# A server that was promoted is no replica of ours: it says nothing of what the primary holds.
_REPLAYED = b"SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() - '0/0'::pg_lsn END AS position"
_Answer = TypeVar("_Answer")


class PrimaryPositions:
    """Where the primary's log was, and when; `kept` of the last looks."""

    def __init__(self, kept: int) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=kept)

    def add(self, moment_s: float, position: int) -> None:
        """The log was there at that moment of the monotonic clock."""
        # After a failover the log may go on from an earlier position.
        if self._seen and position < self._seen[-1][1]:
            self._seen.clear()
        # An idle primary says nothing new, and must not push out what is old.
        if not self._seen or position != self._seen[-1][1]:
            self._seen.append((moment_s, position))

    def lag_s(self, now_s: float, replayed: int | None) -> float:
        """For how long what the replica lacks has been seen; infinite where nothing is known."""
        if replayed is None or not self._seen:
            return float("inf")
        return next((now_s - moment_s for moment_s, position in self._seen if position > replayed), 0.0)


class Replicas:
    """Routes reads that may be `replica_max_lag_s` old; an async context manager."""

    def __init__(self, primary: Database, settings: PostgresSettings, metrics: Metrics) -> None:
        self._primary = primary
        self._settings = settings
        self._metrics = metrics
        self._replicas = {
            f"replica{number}": Database(
                url.get_secret_value(), settings, metrics, name=f"replica{number}", must_answer=False
            )
            for number, url in enumerate(settings.replica_urls, start=1)
        }
        self._fresh: set[str] = set()
        self._replayed: dict[str, int] = {}
        # Enough to tell a lag that is too long from one that is not, with looks that come early.
        looks = settings.replica_max_lag_s / settings.replica_check_s / (1 - _JITTER)
        self._positions = PrimaryPositions(int(looks) + 2)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Open the pools; a replica that is away joins when it comes."""
        for replica in self._replicas.values():
            await self._stack.enter_async_context(replica)
        if self._replicas:
            await self._check()
            watching = asyncio.create_task(self._watch())
            self._stack.callback(watching.cancel)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the pools."""
        await self._stack.aclose()

    @property
    def fresh(self) -> frozenset[str]:
        """The replicas in the set at present."""
        return frozenset(self._fresh)

    async def position(self) -> int | None:
        """Where the primary's log is now, so that all that was committed before lies behind it; None if it is away."""
        return await self._position(self._primary, _POSITION)

    async def read_as(self, consistency: Consistency, question: Callable[[Database], Awaitable[_Answer]]) -> _Answer:
        """What a server answers that is as new as the caller wants: `read` for a caller who lets it be old."""
        if consistency.position is None:
            return await question(self._primary)
        return await self.read(question, position=consistency.position, patience_s=self._settings.replica_patience_s)

    async def fetch_all(
        self,
        tenant_key: TenantKey,
        query: str | sql.Composed,
        params: Params,
        *,
        version: int,
        setting: Query | None = None,
        suffices: Callable[[Sequence[DictRow]], bool] = lambda _: True,
    ) -> list[DictRow]:
        """`Database.fetch_all` of a replica that has the tenant at this version or a later one, else of the primary.

        suffices: whether the rows of a replica are new enough in other ways.
        """

        async def ask(database: Database) -> list[DictRow]:
            if database is self._primary:
                return await database.fetch_all(tenant_key, query, params, setting=setting)
            rows = await database.fetch_all(tenant_key, query, params, setting=setting, version=version)
            if not suffices(rows):
                raise ReplicaBehind
            return rows

        return await self.read(ask, patience_s=self._settings.replica_patience_s)

    async def read(
        self,
        question: Callable[[Database], Awaitable[_Answer]],
        *,
        position: int = 0,
        patience_s: float | None = None,
    ) -> _Answer:
        """What a replica in the set answers, else another one or the primary; asked twice at most.

        position: of the primary's log, which the replica must have replayed; for a moment it is waited for. patience_s:
        for a replica's answer; None for what may take as long as it likes. A question may raise ReplicaBehind, and is
        then asked of the primary. Raises StorageUnavailable, and whatever the question raises by itself.
        """
        first, second = await self._choose(position), None
        if first is None:
            return await self._ask(None, question)
        try:
            asked = self._ask(first, question)
            return await (asked if patience_s is None else in_time(asked, patience_s))
        except ReplicaBehind:
            # It is fresh enough for other questions.
            pass
        except DeadlinePassed:
            if patience_s is None:
                raise
            self._fresh.discard(first)
        except (StorageUnavailable, SerializationFailure):
            # Until the next look says otherwise.
            self._fresh.discard(first)
            second = await self._choose(position)
        return await self._ask(second, question)

    @asynccontextmanager
    async def export_transaction(
        self, tenant_key: TenantKey, *, timeout_s: float, may_lag: bool = True
    ) -> AsyncIterator[Connection]:
        """A read-only snapshot for one tenant; another server is asked only if this one does not let it begin.

        may_lag: False asks the primary. Raises StorageUnavailable, also when the replica had to drop rows that were
        being read.
        """

        async def begun(database: Database) -> tuple[AsyncExitStack, Connection]:
            async with AsyncExitStack() as stack:
                connection = await stack.enter_async_context(
                    database.tenant_transaction(tenant_key, snapshot=True, timeout_s=timeout_s)
                )
                return stack.pop_all(), connection

        stack, connection = await (self.read(begun) if may_lag else begun(self._primary))
        async with stack:
            try:
                yield connection
            except SerializationFailure as error:
                raise StorageUnavailable from error

    async def _choose(self, position: int) -> str | None:
        """A replica that has replayed so far, or does so while it is waited for; None for the primary."""
        # What it had replayed when it was last looked at is often enough.
        fit = sorted(name for name in self._fresh if self._replayed.get(name, 0) >= position)
        if not fit and self._fresh and position < NO_REPLICA:
            name = random.choice(sorted(self._fresh))  # noqa: S311  (spreads load)
            fit = [name] if await self._comes_to(name, position) else []
        return random.choice(fit) if fit else None  # noqa: S311

    async def _comes_to(self, name: str, position: int) -> bool:
        until = time.monotonic() + self._settings.replica_wait_s
        while True:
            replayed = await self._position(self._replicas[name], _REPLAYED)
            if replayed is None:
                return False
            self._replayed[name] = replayed
            if replayed >= position:
                return True
            if time.monotonic() + _POLL_S > until:
                return False
            await asyncio.sleep(_POLL_S)

    async def _ask(self, name: str | None, question: Callable[[Database], Awaitable[_Answer]]) -> _Answer:
        self._metrics.reads.labels(name or "primary").inc()
        return await question(self._replicas[name] if name is not None else self._primary)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._settings.replica_check_s * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311
            try:
                await self._check()
            except Exception:
                # Nobody would look again.
                _log.exception("replicas.check_failed")
                self._fresh.clear()

    async def _check(self) -> None:
        """Look at the primary first: what a replica has replayed by then counts as behind only if it lacks more."""
        moment_s = time.monotonic()
        position = await self._position(self._primary, _POSITION)
        if position is not None:
            self._positions.add(moment_s, position)
        await asyncio.gather(*(self._judge(name, replica) for name, replica in self._replicas.items()))

    async def _judge(self, name: str, replica: Database) -> None:
        replayed = await self._position(replica, _REPLAYED)
        lag_s = self._positions.lag_s(time.monotonic(), replayed)
        self._metrics.replica_lag_seconds.labels(name).set(lag_s)
        is_fresh = lag_s <= self._settings.replica_max_lag_s
        if is_fresh and name not in self._fresh:
            _log.info("replica.joined", replica=name, lag_s=lag_s)
            self._fresh.add(name)
        elif not is_fresh and name in self._fresh:
            _log.info("replica.left", replica=name, lag_s=lag_s)
            self._fresh.discard(name)
        # After a failover it may go on from an earlier position.
        self._replayed[name] = replayed or 0

    async def _position(self, database: Database, statement: bytes) -> int | None:
        try:
            return await in_time(_number(database, statement), self._settings.replica_check_s)
        except (StorageUnavailable, DeadlinePassed):
            return None


async def _number(database: Database, statement: bytes) -> int | None:
    async with database.service_transaction() as connection:
        row = await (await connection.execute(statement)).fetchone()
    return int(row["position"]) if row and row["position"] is not None else None
