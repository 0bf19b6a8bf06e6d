"""One dependency is killed or stands still while lists are asked for: every call is answered, and says what it is.

`RECSVC_CHAOS_FAULT_S` (default 4) is how many seconds each fault lasts; a table of what was measured is printed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration

from recsvc.gen.v1 import ingestion_service_pb2 as events_pb
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from tests.api import Api
from tests.chaos.installation import Installation, installed
from tests.processes import family, kill_9

pytestmark = pytest.mark.timeout(600)

_FAULT_S = float(os.environ.get("RECSVC_CHAOS_FAULT_S", "4"))
_USERS = 20
_CALLS_PER_S = 20
_DEADLINE_S = 8.0
_RECOVERED_S = 30.0
_Level = pb.Degradation.Level


@dataclass
class Answers:
    """What calls got, in a stretch of time."""

    levels: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def percentile_ms(self, share: float) -> float:
        """Of the time that answers took."""
        return float(np.quantile(self.seconds, share)) * 1000 if self.seconds else 0.0


@pytest.fixture(scope="module")
async def installation() -> AsyncIterator[Installation]:
    """Two servers with users whose lists were asked for before."""
    async with installed(seed=1) as ready:
        async with Api.connected(ready.server.port, ready.key) as api:
            for user in range(_USERS):
                events = [
                    events_pb.Event(event_type="view", user_id=f"u{user}", item_id=f"i{(7 * user + step) % 200}")
                    for step in range(5)
                ]
                await api.ingestion.BatchRecordEvents(events_pb.BatchRecordEventsRequest(events=events))
            for user in range(_USERS):
                await _ask(api, f"u{user}", fresh=False)
        yield ready


async def _ask(api: Api, user_id: str, *, fresh: bool) -> pb.RecommendResponse:
    request = pb.RecommendRequest(user_id=user_id, max_staleness=Duration() if fresh else None)
    answer: pb.RecommendResponse = await api.recommendations.Recommend(request, timeout=_DEADLINE_S)
    return answer


async def _recorded(api: Api, event: events_pb.Event) -> events_pb.RecordEventResponse:
    """What the call answers in the end: who is told UNAVAILABLE sends the event again, as clients do."""
    async with asyncio.timeout(_RECOVERED_S):
        while True:
            try:
                answer: events_pb.RecordEventResponse = await api.ingestion.RecordEvent(
                    events_pb.RecordEventRequest(event=event), timeout=_DEADLINE_S
                )
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017  (any other fails the test)
                await asyncio.sleep(0.1)
            else:
                return answer


async def _asked_for(api: Api, seconds: float) -> Answers:
    """Calls at a steady rate, whatever becomes of those before: for cached lists, fresh ones, and for strangers."""
    answers = Answers()

    async def call(number: int) -> None:
        start = time.perf_counter()
        user_id = f"stranger{number}" if number % 4 == 3 else f"u{number % _USERS}"
        try:
            answer = await _ask(api, user_id, fresh=number % 2 == 1)
        except grpc.aio.AioRpcError as error:
            answers.failures[error.code().name] += 1
        else:
            answers.levels[_Level.Name(answer.degradation.level).removeprefix("LEVEL_")] += 1
            answers.seconds.append(time.perf_counter() - start)
            assert answer.items

    async with asyncio.TaskGroup() as group:
        for number in range(int(seconds * _CALLS_PER_S)):
            group.create_task(call(number))
            await asyncio.sleep(1 / _CALLS_PER_S)
    return answers


async def _recovery_s(api: Api) -> float:
    """How long it takes from now until a fresh list is answered again."""
    start = time.monotonic()
    while (await _ask(api, "u1", fresh=True)).degradation.level != _Level.LEVEL_NONE:
        assert time.monotonic() - start < _RECOVERED_S
        await asyncio.sleep(0.05)
    return time.monotonic() - start


@contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    """Processes that stand still inside, as on a machine that swaps or a disk that hangs."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def _postgres_killed(installation: Installation) -> Iterator[None]:
    kill_9(*family(installation.postgres.pid() or 0))
    try:
        yield
    finally:
        installation.postgres.start()


@contextmanager
def _postgres_stopped(installation: Installation) -> Iterator[None]:
    with _stopped(family(installation.postgres.pid() or 0)):
        yield


@contextmanager
def _redis_killed(installation: Installation) -> Iterator[None]:
    kill_9(installation.redis.pid())
    try:
        yield
    finally:
        installation.redis.start()


@contextmanager
def _redis_stopped(installation: Installation) -> Iterator[None]:
    with _stopped([installation.redis.pid() or 0]):
        yield


_FAULTS: dict[str, Callable[[Installation], AbstractContextManager[None]]] = {
    "postgres killed": _postgres_killed,
    "postgres stopped": _postgres_stopped,
    "redis killed": _redis_killed,
    "redis stopped": _redis_stopped,
}


@pytest.mark.parametrize("name", _FAULTS)
async def test_every_call_is_answered_while_one_dependency_is_away(installation: Installation, name: str) -> None:
    async with Api.connected(installation.server.port, installation.key) as api:
        normal = await _asked_for(api, 2.0)
        with _FAULTS[name](installation):
            first = await _asked_for(api, _FAULT_S / 2)
            later = await _asked_for(api, _FAULT_S / 2)
        recovery_s = await _recovery_s(api)
    print(
        f"\n{name}: p99 normally {normal.percentile_ms(0.99):.0f} ms, at first {first.percentile_ms(0.99):.0f} ms,"
        f" later {later.percentile_ms(0.99):.0f} ms; {dict(first.levels + later.levels)};"
        f" recovered in {recovery_s:.1f} s"
    )
    assert not normal.failures
    assert normal.levels.keys() == {"NONE"}
    assert not first.failures + later.failures
    if name.startswith("postgres"):
        assert later.levels["STALE"] > 0
        assert later.levels["FALLBACK"] > 0
    else:
        assert later.levels.keys() == {"NONE"}


async def test_an_event_that_is_refused_is_stored_once_when_it_is_sent_again(installation: Installation) -> None:
    event = events_pb.Event(event_id="refused-1", event_type="view", user_id="u1", item_id="i1")
    async with Api.connected(installation.server.port, installation.key) as api:
        with _postgres_killed(installation), pytest.raises(grpc.aio.AioRpcError) as refused:
            await api.ingestion.RecordEvent(events_pb.RecordEventRequest(event=event), timeout=_DEADLINE_S)
        # An attempt may be stored and yet be told UNAVAILABLE: that is what its id is for.
        await _recorded(api, event)
        listed = await api.ingestion.ListEvents(events_pb.ListEventsRequest(page_size=1000), timeout=_DEADLINE_S)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert [each.event_id for each in listed.events].count("refused-1") == 1
