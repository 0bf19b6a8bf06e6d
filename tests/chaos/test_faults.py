"""One dependency fails in one of many ways under steady load: all lists are answered, no acknowledged event is lost.

`RECSVC_CHAOS_FAULT_S` (default 1) is how many seconds each fault lasts; a table of what was measured is printed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration

from recsvc.domain.errors import StorageUnavailable
from recsvc.gen.v1 import ingestion_service_pb2 as events_pb
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from recsvc.settings import PostgresSettings
from recsvc.storage.database import Database
from recsvc.telemetry.metrics import Metrics
from tests.api import Api
from tests.chaos.faults import FAULTS, postgres_killed, redis_out_of_memory
from tests.chaos.installation import Installation, installed
from tests.chaos.proxy import Toxic

pytestmark = pytest.mark.timeout(600)

_FAULT_S = float(os.environ.get("RECSVC_CHAOS_FAULT_S", "1"))
_LONG_S = 10.0
"""From here on there are calls enough for a percentile; in a short run one pause of the machine would be the 99th."""
_NORMAL_S = 2.0
_USERS = 20
_CALLS_PER_S = 20
_DEADLINE_S = 8.0
_RECOVERED_S = 30.0
_OPENED_S = 10.0
_AVAILABILITY = 0.999
_SILENT = {"postgres stopped", "postgres partitioned", "redis stopped", "redis partitioned"}
"""What only a breaker keeps callers from waiting for; in the others it need not open, or opens and closes."""
_Level = pb.Degradation.Level


@dataclass
class Answers:
    """What calls got, in a stretch of time."""

    levels: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    failures_of_known: int = 0
    known: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def asked(self) -> int:
        """All calls."""
        return len(self.seconds) + self.failures.total()

    @property
    def known_answered(self) -> float:
        """The share of the calls for users seen before that were answered."""
        return 1 - self.failures_of_known / self.known

    def __add__(self, other: Answers) -> Answers:
        return Answers(
            self.levels + other.levels,
            self.failures + other.failures,
            self.failures_of_known + other.failures_of_known,
            self.known + other.known,
            self.seconds + other.seconds,
        )

    def percentile_ms(self, share: float) -> float:
        """Of the time that answers took."""
        return float(np.quantile(self.seconds, share)) * 1000 if self.seconds else 0.0


@dataclass
class Recorded:
    """Events of one stretch of time, sent again until each was acknowledged."""

    acknowledged: set[str] = field(default_factory=set)
    refusals: int = 0


_numbers = itertools.count()


@pytest.fixture(scope="module")
async def installation() -> AsyncIterator[Installation]:
    """Two servers with users whose lists were asked for before."""
    async with installed(seed=1, is_poisoned=True) as ready:
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


@pytest.fixture(scope="module")
async def normal(installation: Installation) -> Answers:
    """What calls get while all is well."""
    async with Api.connected(installation.server.port, installation.key) as api, _recording(api):
        await _asked_for(api, _NORMAL_S)
        answers = await _asked_for(api, _NORMAL_S)
    assert not answers.failures
    assert answers.levels.keys() == {"NONE"}
    return answers


async def _ask(api: Api, user_id: str, *, fresh: bool) -> pb.RecommendResponse:
    request = pb.RecommendRequest(user_id=user_id, max_staleness=Duration() if fresh else None)
    answer: pb.RecommendResponse = await api.recommendations.Recommend(request, timeout=_DEADLINE_S)
    return answer


async def _record(api: Api, event: events_pb.Event, recorded: Recorded) -> None:
    """Send an event until it is acknowledged, as clients do that are told UNAVAILABLE."""
    while event.event_id not in recorded.acknowledged:
        try:
            await api.ingestion.RecordEvent(events_pb.RecordEventRequest(event=event), timeout=_DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            assert error.code().name in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}, error.details()  # noqa: PT017
            recorded.refusals += 1
            await asyncio.sleep(0.2)
        else:
            recorded.acknowledged.add(event.event_id)


@asynccontextmanager
async def _recording(api: Api) -> AsyncIterator[Recorded]:
    """Events at a steady rate inside the block; at its end all of them are acknowledged."""
    recorded, is_over = Recorded(), asyncio.Event()

    async def send() -> None:
        async with asyncio.TaskGroup() as group:
            while not is_over.is_set():
                number = next(_numbers)
                event = events_pb.Event(
                    event_id=f"event-{number}",
                    event_type="view",
                    # Half of the users seen before go on, the lists of the others stay as they are.
                    user_id=f"u{number % (_USERS // 2)}",
                    item_id=f"i{number % 200}",
                )
                group.create_task(_record(api, event, recorded))
                await asyncio.sleep(2 / _CALLS_PER_S)

    sending = asyncio.create_task(send())
    try:
        yield recorded
    finally:
        is_over.set()
        await asyncio.wait_for(sending, _RECOVERED_S)


async def _asked_for(api: Api, seconds: float) -> Answers:
    """Calls at a steady rate, whatever becomes of those before: for cached lists, fresh ones, and for strangers."""
    answers = Answers()

    async def call(number: int) -> None:
        start = time.perf_counter()
        is_known = number % 4 != 3
        user_id = f"u{number % _USERS}" if is_known else f"stranger{number}"
        answers.known += is_known
        try:
            answer = await _ask(api, user_id, fresh=number % 2 == 1)
        except grpc.aio.AioRpcError as error:
            answers.failures[f"{error.code().name} {error.details()}"] += 1
            answers.failures_of_known += is_known
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


def _open_breakers(installation: Installation) -> set[str]:
    """Which dependencies the server leaves alone, or probes, at present."""
    address = f"http://127.0.0.1:{installation.server.metrics_port}/metrics"
    with urllib.request.urlopen(address, timeout=5) as answer:
        text = answer.read().decode()
    return set(re.findall(r'recsvc_breaker_state\{dependency="(\w+)"\} [12]', text))


def _stored(installation: Installation) -> Counter[str]:
    """How often each event is in PostgreSQL."""
    with psycopg.connect(installation.postgres.url) as connection:
        found = connection.execute("SELECT event_id FROM events WHERE tenant_key = %s", [installation.tenant_key])
        return Counter(event_id for (event_id,) in found)


@pytest.mark.parametrize("name", FAULTS)
async def test_lists_are_answered_and_events_are_kept_while_one_dependency_fails(
    installation: Installation, normal: Answers, name: str
) -> None:
    async with Api.connected(installation.server.port, installation.key) as api, _recording(api) as recorded:
        with FAULTS[name](installation):
            first = await _asked_for(api, _FAULT_S / 2)
            opened = await asyncio.to_thread(_open_breakers, installation)
            start = time.monotonic()
            while name in _SILENT and not opened and time.monotonic() < start + _OPENED_S:
                first += await _asked_for(api, _FAULT_S / 4)
                opened = await asyncio.to_thread(_open_breakers, installation)
            later = await _asked_for(api, _FAULT_S / 2)
        recovery_s = await _recovery_s(api)
    stored = await asyncio.to_thread(_stored, installation)
    whole = first + later
    lost = recorded.acknowledged - stored.keys()
    doubled = {event_id for event_id in recorded.acknowledged if stored[event_id] > 1}
    print(
        f"\n{name:26} answered {len(whole.seconds) / whole.asked:7.2%}, known users {whole.known_answered:7.2%};"
        f" p99 normally {normal.percentile_ms(0.99):4.0f} ms, at first {first.percentile_ms(0.99):5.0f} ms, later"
        f" {later.percentile_ms(0.99):5.0f} ms; open: {', '.join(opened) or 'none'}; {dict(whole.levels)};"
        f" recovered in {recovery_s:.1f} s; {len(recorded.acknowledged)} events, {recorded.refusals} refusals,"
        f" {len(lost)} lost, {len(doubled)} doubled"
    )
    assert whole.known_answered >= _AVAILABILITY, whole.failures
    assert not whole.failures
    assert (lost, doubled) == (set(), set())
    if name in _SILENT:
        assert opened == {"postgresql" if name.startswith("postgres") else "redis"}
        if _FAULT_S >= _LONG_S:
            assert later.percentile_ms(0.99) <= 3 * normal.percentile_ms(0.99) + 250
    if name.startswith("redis"):
        assert whole.levels.keys() == {"NONE"}


async def test_an_event_that_is_refused_is_stored_once_when_it_is_sent_again(installation: Installation) -> None:
    event = events_pb.Event(event_id="refused-1", event_type="view", user_id="u1", item_id="i1")
    async with Api.connected(installation.server.port, installation.key) as api:
        with postgres_killed(installation), pytest.raises(grpc.aio.AioRpcError) as refused:
            await api.ingestion.RecordEvent(events_pb.RecordEventRequest(event=event), timeout=_DEADLINE_S)
        # An attempt may be stored and yet be told UNAVAILABLE: that is what its id is for.
        await asyncio.wait_for(_record(api, event, Recorded()), _RECOVERED_S)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (await asyncio.to_thread(_stored, installation))["refused-1"] == 1


async def test_an_answer_that_never_comes_is_waited_for_little_longer_than_its_statement_may_take(
    installation: Installation,
) -> None:
    network = installation.postgres_network
    assert network is not None
    url = f"postgresql://recsvc@127.0.0.1:{network.port}/recsvc"
    async with Database(url, PostgresSettings(statement_timeout_s=0.2), Metrics()) as database:
        async with asyncio.timeout(_DEADLINE_S):
            with network.poisoned(Toxic(is_partitioned=True)), pytest.raises(StorageUnavailable):
                await database.fetch_all(installation.tenant_key, "SELECT 1", {})


async def test_no_list_misses_an_acknowledged_event_while_redis_is_out_of_memory(installation: Installation) -> None:
    async with Api.connected(installation.server.port, installation.key) as api:
        before = {f"u{user}": await _ask(api, f"u{user}", fresh=False) for user in range(_USERS)}
        with redis_out_of_memory(installation):
            for user_id, answer in before.items():
                bought = answer.items[0].item_id
                event = events_pb.Event(
                    event_id=f"bought-{user_id}", event_type="purchase", user_id=user_id, item_id=bought
                )
                await _record(api, event, Recorded())
                after = await _ask(api, user_id, fresh=False)
                assert bought not in {item.item_id for item in after.items}
