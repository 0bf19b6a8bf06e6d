"""How soon lists follow events: from the acknowledgement of an event to the first answer, and the first push, without
the item that was viewed; and what many watchers cost. Other users' events flow in from another process meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
from rich.table import Table

from recsvc.gen.v1 import ingestion_service_pb2 as events_pb
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from recsvc.gen.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from recsvc.gen.v1.recommendation_service_pb2_grpc import RecommendationServiceStub

_RATE = 500.0
_PROBES = 200
_PROBES_PER_S = 20.0
_WATCHED = 20
_WATCHERS = 2000
_PASSERS = 1000
_OPENING = 64
_LONGEST_S = 20.0


@dataclass(slots=True)
class Freshness:
    """Milliseconds from acknowledgement to change, and the costs of the watchers."""

    flow_per_s: float = 0.0
    recommend_ms: list[float] = field(default_factory=list)
    push_ms: list[float] = field(default_factory=list)
    crowd_push_ms: list[float] = field(default_factory=list)
    crowd_flow_per_s: float = 0.0
    watcher_kib: float = 0.0
    stale_first_answers: int = 0

    def rows(self) -> list[tuple[str, float, float, float]]:
        """Label, p50 and p99 in ms, events a second beside it."""
        return [
            ("ack to changed Recommend", *_percentiles(self.recommend_ms), self.flow_per_s),
            (f"ack to push, {_WATCHED} watchers", *_percentiles(self.push_ms), self.flow_per_s),
            (f"ack to push, {_WATCHERS:,} watchers", *_percentiles(self.crowd_push_ms), self.crowd_flow_per_s),
        ]

    def figures(self) -> dict[str, float]:
        """For the JSON."""
        found = {"watcher KiB": self.watcher_kib, "stale first answers": float(self.stale_first_answers)}
        for label, p50, p99, flow in self.rows():
            found |= {f"{label}: p50 ms": p50, f"{label}: p99 ms": p99, f"{label}: events/s beside": flow}
        return found

    def table(self) -> Table:
        """For people."""
        table = Table("", "p50 ms", "p99 ms", "events/s beside", title="freshness (targets: p50 50 ms, p99 250 ms)")
        for label, p50, p99, flow in self.rows():
            table.add_row(label, f"{p50:.1f}", f"{p99:.1f}", f"{flow:,.0f}")
        table.caption = (
            f"{self.watcher_kib:.0f} KiB of the server for each of {_WATCHERS:,} watchers; "
            f"{self.stale_first_answers} first answers of {len(self.recommend_ms)} without the event (target 0)"
        )
        return table


def _percentiles(times_ms: Sequence[float]) -> tuple[float, float]:
    return float(np.percentile(times_ms, 50)), float(np.percentile(times_ms, 99))


class _Watch:
    """One watched list: what it last showed, and when an item was first missing from it."""

    def __init__(self, caller: _Caller, user_id: str) -> None:
        self.user_id = user_id
        self.items: list[str] = []
        self.is_open = asyncio.Event()
        self._awaited: list[tuple[str, asyncio.Future[float]]] = []
        self._task = asyncio.create_task(self._read(caller))

    def gone(self, item_id: str) -> asyncio.Future[float]:
        """When a list without the item came."""
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._awaited.append((item_id, future))
        return future

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _read(self, caller: _Caller) -> None:
        request = pb.WatchRecommendationsRequest(request=pb.RecommendRequest(user_id=self.user_id, count=10))
        async for update in caller.recommendations.WatchRecommendations(request, metadata=caller.metadata):
            if update.HasField("recommendation"):
                self.items = [item.item_id for item in update.recommendation.items]
                self.is_open.set()
                now = time.perf_counter()
                for item_id, gone in self._awaited:
                    if item_id not in self.items and not gone.done():
                        gone.set_result(now)
                self._awaited = [awaited for awaited in self._awaited if not awaited[1].done()]


class _Caller:
    """The calls of this bench over one channel."""

    def __init__(self, channel: grpc.aio.Channel, key: str) -> None:
        self.metadata = (("authorization", f"Bearer {key}"),)
        self.recommendations = RecommendationServiceStub(channel)
        self._ingestion = IngestionServiceStub(channel)

    async def record(self, user_id: str, item_id: str) -> float:
        """View an item; returns when that was acknowledged."""
        event = events_pb.Event(event_id=uuid.uuid4().hex, event_type="view", user_id=user_id, item_id=item_id)
        await self._ingestion.RecordEvent(
            events_pb.RecordEventRequest(event=event), metadata=self.metadata, timeout=_LONGEST_S
        )
        return time.perf_counter()

    async def listed(self, user_id: str) -> list[str]:
        answer = await self.recommendations.Recommend(
            pb.RecommendRequest(user_id=user_id, count=10), metadata=self.metadata, timeout=_LONGEST_S
        )
        return [item.item_id for item in answer.items]


async def measure(
    target: str, key: str, server_pid: int, user_ids: Sequence[str], item_ids: Sequence[str]
) -> Freshness:
    """All of it, within about half a minute."""
    found = Freshness()
    async with grpc.aio.insecure_channel(target) as channel:
        caller = _Caller(channel, key)
        probed = random.Random(2).sample(list(user_ids), 2 * _WATCHED)
        with _flow(target, key, item_ids) as flow:
            await _probe_answers(caller, probed[:_WATCHED], found)
            async with _watching(caller, probed[_WATCHED:]) as watches:
                found.push_ms = await _probe_pushes(caller, watches)
            found.flow_per_s = _rate_of(flow)
        before = _resident_kib(server_pid)
        visitors = [f"visitor-{number}" for number in range(_WATCHERS - len(user_ids))]
        async with _watching(caller, [*user_ids, *visitors][:_WATCHERS]) as watches:
            found.watcher_kib = (_resident_kib(server_pid) - before) / len(watches)
            with _flow(target, key, item_ids) as flow:
                found.crowd_push_ms = await _probe_pushes(caller, watches[: 5 * _WATCHED])
                found.crowd_flow_per_s = _rate_of(flow)
    return found


async def _probe_answers(caller: _Caller, user_ids: Sequence[str], found: Freshness) -> None:
    for number in range(_PROBES):
        user_id = user_ids[number % len(user_ids)]
        first = (await caller.listed(user_id))[0]
        acknowledged = await caller.record(user_id, first)
        if first in await caller.listed(user_id):
            found.stale_first_answers += 1
            async with asyncio.timeout(_LONGEST_S):
                while first in await caller.listed(user_id):
                    pass
        found.recommend_ms.append(1000 * (time.perf_counter() - acknowledged))


async def _probe_pushes(caller: _Caller, watches: Sequence[_Watch]) -> list[float]:
    """One watcher after the other; a push may come before the acknowledgement does, which counts as nothing."""
    times_ms: list[float] = []

    async def probe(watch: _Watch) -> None:
        first = watch.items[0]
        gone = watch.gone(first)
        acknowledged = await caller.record(watch.user_id, first)
        async with asyncio.timeout(_LONGEST_S):
            pushed = await gone
        times_ms.append(max(0.0, 1000 * (pushed - acknowledged)))

    async with asyncio.TaskGroup() as group:
        for number in range(_PROBES):
            group.create_task(probe(watches[number % len(watches)]))
            await asyncio.sleep(1 / _PROBES_PER_S)
    return times_ms


@contextlib.asynccontextmanager
async def _watching(caller: _Caller, user_ids: Sequence[str]) -> AsyncIterator[list[_Watch]]:
    """Watches of these users, all open."""
    watches: list[_Watch] = []
    try:
        for start in range(0, len(user_ids), _OPENING):
            opened = [_Watch(caller, user_id) for user_id in user_ids[start : start + _OPENING]]
            watches += opened
            async with asyncio.timeout(_LONGEST_S):
                await asyncio.gather(*(watch.is_open.wait() for watch in opened))
        yield watches
    finally:
        await asyncio.gather(*(watch.close() for watch in watches))


@contextlib.contextmanager
def _flow(target: str, key: str, item_ids: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Events of people who just pass, from another process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.event_flow"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdin is not None
        passers = [f"passer-{number}" for number in range(_PASSERS)]
        line = {"target": target, "rate": _RATE, "key": key, "user_ids": passers, "item_ids": list(item_ids)}
        process.stdin.write(json.dumps(line) + "\n")
        process.stdin.flush()
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _rate_of(flow: subprocess.Popen[str]) -> float:
    """Ends the flow."""
    out, _ = flow.communicate(timeout=30)
    return float(out)


def _resident_kib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    return float("nan")
