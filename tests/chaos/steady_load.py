"""Steady calls while something fails, what they got, and the row of a table that says so.

A known user is one whose lists were asked for before. Half of the lists are asked for fresh, past the cache, and every
event is sent again until it is acknowledged.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import grpc
import numpy as np
import psycopg
from google.protobuf.duration_pb2 import Duration

from recsvc.domain.ids import TenantKey
from recsvc.embedded.postgres import EmbeddedPostgres
from recsvc.gen.v1 import ingestion_service_pb2 as events_pb
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from tests.api import Api
from tests.chaos.installation import ServerProcess

FAULT_S = float(os.environ.get("RECSVC_CHAOS_FAULT_S", "1"))
AVAILABILITY = 0.999
USERS = 20
CALLS_PER_S = 20
DEADLINE_S = 8.0
RECOVERED_S = 30.0
_NORMAL_S = 2.0
_numbers = itertools.count()


class Target(Protocol):
    """What is asked, and where its events end up."""

    @property
    def server(self) -> ServerProcess:
        """It takes the calls."""

    @property
    def postgres(self) -> EmbeddedPostgres:
        """The primary."""

    @property
    def tenant_key(self) -> TenantKey:
        """Of the tenant that the load is for."""


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


@dataclass(frozen=True)
class Outcome:
    """What one fault did: calls while all was well, when it began and later on, and what became of the events."""

    normal: Answers
    first: Answers
    later: Answers
    opened: set[str]
    recovery_s: float
    recorded: Recorded
    stored: Counter[str]

    @property
    def whole(self) -> Answers:
        """All calls during the fault."""
        return self.first + self.later

    @property
    def lost(self) -> set[str]:
        """Events that were acknowledged and are not there."""
        return self.recorded.acknowledged - self.stored.keys()

    @property
    def doubled(self) -> set[str]:
        """Events that are there more than once."""
        return {event_id for event_id in self.recorded.acknowledged if self.stored[event_id] > 1}

    def row(self, name: str) -> str:
        """One line of the table."""
        whole = self.whole
        return (
            f"\n{name:26} answered {len(whole.seconds) / whole.asked:7.2%}, known users {whole.known_answered:7.2%};"
            f" p99 normally {self.normal.percentile_ms(0.99):4.0f} ms,"
            f" at first {self.first.percentile_ms(0.99):5.0f} ms, later {self.later.percentile_ms(0.99):5.0f} ms;"
            f" open: {', '.join(sorted(self.opened)) or 'none'}; {dict(whole.levels)};"
            f" recovered in {self.recovery_s:.1f} s; {len(self.recorded.acknowledged)} events,"
            f" {self.recorded.refusals} refusals, {len(self.lost)} lost, {len(self.doubled)} doubled"
        )


async def make_known(apis: Sequence[Api]) -> None:
    """Events of all users, and their lists asked for by each of the callers."""
    for user in range(USERS):
        events = [
            events_pb.Event(event_type="view", user_id=f"u{user}", item_id=f"i{(7 * user + step) % 200}")
            for step in range(5)
        ]
        await apis[0].ingestion.BatchRecordEvents(events_pb.BatchRecordEventsRequest(events=events))
    for api in apis:
        for user in range(USERS):
            await ask(api, f"u{user}", fresh=False)


async def normally(apis: Sequence[Api]) -> Answers:
    """What calls get while all is well."""
    async with recording(apis):
        await asked_for(apis, _NORMAL_S)
        answers = await asked_for(apis, _NORMAL_S)
    assert not answers.failures
    assert answers.levels.keys() == {"NONE"}
    return answers


async def ask(api: Api, user_id: str, *, fresh: bool) -> pb.RecommendResponse:
    """A user's list, cached or fresh."""
    request = pb.RecommendRequest(user_id=user_id, max_staleness=Duration() if fresh else None)
    answer: pb.RecommendResponse = await api.recommendations.Recommend(request, timeout=DEADLINE_S)
    return answer


async def record(api: Api, event: events_pb.Event, recorded: Recorded) -> None:
    """Send an event until it is acknowledged, as clients do that are told UNAVAILABLE."""
    while event.event_id not in recorded.acknowledged:
        try:
            await api.ingestion.RecordEvent(events_pb.RecordEventRequest(event=event), timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            assert error.code().name in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}, error.details()  # noqa: PT017
            recorded.refusals += 1
            await asyncio.sleep(0.2)
        else:
            recorded.acknowledged.add(event.event_id)


@asynccontextmanager
async def recording(apis: Sequence[Api]) -> AsyncIterator[Recorded]:
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
                    user_id=f"u{number % (USERS // 2)}",
                    item_id=f"i{number % 200}",
                )
                group.create_task(record(apis[number % len(apis)], event, recorded))
                await asyncio.sleep(2 / CALLS_PER_S)

    sending = asyncio.create_task(send())
    try:
        yield recorded
    finally:
        is_over.set()
        await asyncio.wait_for(sending, RECOVERED_S)


async def asked_for(apis: Sequence[Api], seconds: float) -> Answers:
    """Calls at a steady rate, whatever becomes of those before: for cached lists, fresh ones, and for strangers."""
    answers = Answers()

    async def call(number: int) -> None:
        start = time.perf_counter()
        is_known = number % 4 != 3
        user_id = f"u{number % USERS}" if is_known else f"stranger{number}"
        answers.known += is_known
        try:
            answer = await ask(apis[number % len(apis)], user_id, fresh=number % 2 == 1)
        except grpc.aio.AioRpcError as error:
            answers.failures[f"{error.code().name} {error.details()}"] += 1
            answers.failures_of_known += is_known
        else:
            answers.levels[pb.Degradation.Level.Name(answer.degradation.level).removeprefix("LEVEL_")] += 1
            answers.seconds.append(time.perf_counter() - start)
            assert answer.items

    async with asyncio.TaskGroup() as group:
        for number in range(int(seconds * CALLS_PER_S)):
            group.create_task(call(number))
            await asyncio.sleep(1 / CALLS_PER_S)
    return answers


async def recovery_s(api: Api) -> float:
    """How long it takes from now until a fresh list is answered in full again."""
    start = time.monotonic()
    while (await ask(api, "u1", fresh=True)).degradation.level != pb.Degradation.Level.LEVEL_NONE:
        assert time.monotonic() - start < RECOVERED_S
        await asyncio.sleep(0.05)
    return time.monotonic() - start


def open_breakers(target: Target) -> set[str]:
    """Which dependencies the server leaves alone, or probes, at present."""
    return set(re.findall(r'recsvc_breaker_state\{dependency="(\w+)"\} [12]', metrics(target)))


def metrics(target: Target) -> str:
    """What the server's /metrics says."""
    address = f"http://127.0.0.1:{target.server.metrics_port}/metrics"
    with urllib.request.urlopen(address, timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def stored(target: Target) -> Counter[str]:
    """How often each event is in PostgreSQL."""
    with psycopg.connect(target.postgres.url) as connection:
        found = connection.execute("SELECT event_id FROM events WHERE tenant_key = %s", [target.tenant_key])
        return Counter(event_id for (event_id,) in found)
