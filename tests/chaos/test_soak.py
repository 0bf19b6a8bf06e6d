"""Long steady load: memory and open files do not grow, connections stay within their pools, and no call fails.

`RECSVC_SOAK_S` (default 10; `make soak` takes 900) says how long, and the load is 70 % of what the same callers reach
before it. How long calls take is printed and not asserted.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import psycopg
import pytest
import redis
from google.protobuf.duration_pb2 import Duration

from recsvc.embedded.process import tail
from recsvc.gen.v1 import ingestion_service_pb2 as events_pb
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from recsvc.settings import Settings
from tests.api import Api
from tests.chaos.installation import ITEMS, Installation, installed

_SOAK_S = float(os.environ.get("RECSVC_SOAK_S", "10"))
_CAPACITY_S = min(20.0, _SOAK_S / 5)
_SHARE = 0.7
_CALLERS = 16
_USERS, _STRANGERS = 200, 1000
_MEMORY_GROWTH = 0.05
_DEADLINE_S = 30.0

pytestmark = pytest.mark.timeout(300 + 3 * _SOAK_S)


@dataclass(frozen=True)
class Held:
    """What both servers hold at a moment; one figure each, or both together for the connections."""

    memory_bytes: tuple[int, ...]
    files: tuple[int, ...]
    postgres_connections: int
    redis_connections: int

    @property
    def other_files(self) -> int:
        """Those that no pool has open."""
        return sum(self.files) - self.postgres_connections - self.redis_connections


@dataclass
class Soak:
    """Calls, and how long they took: since the moment at which they were due."""

    api: Api
    seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def call(self, due: float | None = None) -> None:
        """The next call of the mix: of ten, five lists that may be cached, two fresh, two of strangers, one event."""
        start = time.perf_counter() if due is None else due
        try:
            await self._next(next(self.numbers))
        except grpc.aio.AioRpcError as error:
            self.failures[f"{error.code().name} {error.details()}"] += 1
        else:
            self.seconds.append(time.perf_counter() - start)

    async def _next(self, number: int) -> None:
        user_id = f"u{number * 7 % _USERS}"
        match number % 10:
            case 0:
                # Of all users in turn: how long a state takes to fold grows with the events of its user, and thousands
                # for a few users within minutes would make the end of a run another load than its beginning.
                await self.record(f"u{number // 10 % _USERS}", number)
            case 1 | 2:
                await self._list(pb.RecommendRequest(user_id=f"stranger{number % _STRANGERS}"))
            case 3 | 4:
                await self._list(pb.RecommendRequest(user_id=user_id, max_staleness=Duration()))
            case _:
                await self._list(pb.RecommendRequest(user_id=user_id))

    async def record(self, user_id: str, number: int) -> None:
        """An event of the user; there are as many pairs of user and item as users, so that nobody sees everything."""
        event = events_pb.Event(event_type="view", user_id=user_id, item_id=f"i{number % ITEMS}")
        await self.api.ingestion.RecordEvent(events_pb.RecordEventRequest(event=event), timeout=_DEADLINE_S)

    async def _list(self, request: pb.RecommendRequest) -> None:
        answer = await self.api.recommendations.Recommend(request, timeout=_DEADLINE_S)
        assert answer.items
        if answer.degradation.level != pb.Degradation.LEVEL_NONE:
            self.failures[f"degraded: {answer.degradation.reason}"] += 1

    async def capacity(self) -> float:
        """Calls a second that so many callers reach, each calling again once it has its answer."""
        end = time.perf_counter() + _CAPACITY_S

        async def caller() -> None:
            while time.perf_counter() < end:
                await self.call()

        async with asyncio.TaskGroup() as group:
            for _ in range(_CALLERS):
                group.create_task(caller())
        reached = len(self.seconds) / _CAPACITY_S
        self.seconds.clear()
        return reached

    async def run(self, calls_per_s: float, seconds: float) -> None:
        """Calls at a steady rate, whatever becomes of those before."""
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(int(seconds * calls_per_s)):
                due = start + number / calls_per_s
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(self.call(due))

    def percentiles_ms(self) -> tuple[float, float]:
        """The median and the 99th percentile since the last time that they were asked for."""
        median, p99 = np.quantile(self.seconds, (0.5, 0.99)) * 1000
        self.seconds.clear()
        return float(median), float(p99)


def _held(installation: Installation) -> Held:
    pids = [server.process.pid for server in installation.servers if server.process is not None]
    with psycopg.connect(installation.postgres.url) as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'recsvc'").fetchone()
    with redis.Redis.from_url(installation.redis.url) as client:
        redis_connections = len(client.client_list())
    assert row is not None
    return Held(
        tuple(_memory_bytes(pid) for pid in pids),
        tuple(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
        int(row[0]),
        redis_connections,
    )


def _memory_bytes(pid: int) -> int:
    """What would be free without the process, as far as it is not shared (private and anonymous)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


async def _watched(installation: Installation, seconds: float) -> list[Held]:
    """What is held, looked at thirty times."""
    found = []
    for _ in range(30):
        await asyncio.sleep(seconds / 30)
        found.append(await asyncio.to_thread(_held, installation))
    return found


def _median(figures: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Of each column."""
    return tuple(np.median(figures, axis=0).astype(int).tolist())


async def test_under_long_load_memory_and_files_do_not_grow_and_connections_stay_within_their_pools() -> None:
    async with (
        installed(seed=2) as installation,
        Api.connected(installation.server.port, installation.key) as api,
    ):
        soak, thirds = Soak(api), []
        for user in range(_USERS):
            await soak.record(f"u{user}", user)
        capacity = await soak.capacity()
        print(f"\ncapacity {capacity:.0f} calls/s; {_SHARE:.0%} of it for {_SOAK_S:.0f} s")
        for number in range(3):
            watching = asyncio.create_task(_watched(installation, _SOAK_S / 3))
            await soak.run(_SHARE * capacity, _SOAK_S / 3)
            held, (median_ms, p99_ms) = await watching, soak.percentiles_ms()
            # The end of a third, so that the first one is its own warm-up.
            thirds.append(held[-10:])
            memory_mib = [size / 2**20 for size in _median([each.memory_bytes for each in thirds[-1]])]
            print(
                f"third {number + 1}: p50 {median_ms:.1f} ms, p99 {p99_ms:.1f} ms; memory of the servers"
                f" {' and '.join(f'{size:.1f}' for size in memory_mib)} MiB,"
                f" files {_median([each.files for each in thirds[-1]])}, connections to PostgreSQL at most"
                f" {max(each.postgres_connections for each in held)}, to Redis"
                f" {max(each.redis_connections for each in held)}",
                flush=True,
            )
        if soak.failures:
            print(f"{dict(soak.failures)}\n{tail(installation.server.log)}")
    first, last = thirds[0], thirds[-1]
    before, after = (_median([each.memory_bytes for each in third]) for third in (first, last))
    growth = [now / then - 1 for then, now in zip(before, after, strict=True)]
    print(f"memory growth after the first third: {', '.join(f'{share:+.1%}' for share in growth)}")
    assert not soak.failures
    assert max(growth) < _MEMORY_GROWTH
    assert _median([[each.other_files] for each in last]) <= _median([[each.other_files] for each in first])
    assert max(each.postgres_connections for each in last) <= 2 * Settings().postgres.pool_size
    # Each server listens on one of its own beside the pool.
    assert max(each.redis_connections for each in last) <= 2 * (Settings().cache.pool_size + 1)
