"""Clients that keep to the contract's rules while everything around them is killed.

What was not acknowledged is sent again with the same ids: a call after UNAVAILABLE, RESOURCE_EXHAUSTED or
DEADLINE_EXCEEDED, a stream everything above its last `acked_through`. Any other error is one that the service must not
give, and ends the run.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc

from recsvc.gen.v1 import ingestion_service_pb2 as pb
from recsvc.gen.v1 import recommendation_service_pb2 as recommend_pb
from tests.api import Api, describe
from tests.chaos.installation import ITEMS, Installation

USERS = 200
_WATCHED = 6
_CALL_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 0.5
_REPEATED = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"})
_WINDOW = 16
# The channel's own pause of up to two minutes between attempts would hide how soon a server takes calls again.
_CHANNEL = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500))
_TYPES = ("view", "click", "like", "add_to_cart", "purchase", "rate", "dislike", "impression")


@dataclass
class Ledger:
    """What was sent, what of it was acknowledged, and how often something had to be sent again."""

    sent: dict[str, pb.Event] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    repeated_calls: int = 0
    broken_streams: int = 0
    broken_watches: int = 0
    longest_silence_s: float = 0.0


@dataclass
class Load:
    """Clients of all kinds; they work while `on` is set, and rest once everything of theirs is acknowledged."""

    installation: Installation
    dice: random.Random
    ledger: Ledger = field(default_factory=Ledger)
    on: asyncio.Event = field(default_factory=asyncio.Event)
    busy: set[str] = field(default_factory=set)
    watches: list[Watch] = field(default_factory=list)

    def an_event(self, **fields: str) -> pb.Event:
        """A new event of a random moment of the last thirty days, in no order; or as the fields say."""
        chosen = {
            "event_type": self.dice.choice(_TYPES),
            "user_id": f"u{self.dice.randrange(USERS)}",
            "item_id": f"i{self.dice.randrange(ITEMS)}",
        }
        event = pb.Event(event_id=f"e{len(self.ledger.sent)}", **(chosen | fields))
        if event.event_type == "rate":
            event.value = self.dice.choice((0.5, 1.0, 2.0, 3.5, 5.0))
        age = timedelta(milliseconds=self.dice.randrange(30 * 86_400_000))
        event.event_time.FromDatetime(datetime.now(UTC) - age)
        self.ledger.sent[event.event_id] = event
        return event

    async def record(self, name: str, api: Api) -> None:
        """RecordEvent, one after the other."""

        async def once() -> None:
            event = self.an_event()
            answer = await self._insistently(
                lambda: api.ingestion.RecordEvent(pb.RecordEventRequest(event=event), timeout=_CALL_S)
            )
            assert answer.event_id == event.event_id
            self.ledger.acknowledged.add(event.event_id)

        await self._repeat(name, once, 0.02)

    async def record_batches(self, name: str, api: Api) -> None:
        """BatchRecordEvents."""

        async def once() -> None:
            events = [self.an_event() for _ in range(20)]
            answer = await self._insistently(
                lambda: api.ingestion.BatchRecordEvents(pb.BatchRecordEventsRequest(events=events), timeout=_CALL_S)
            )
            assert [result.status.code for result in answer.results] == [0] * len(events), answer
            self.ledger.acknowledged.update(event.event_id for event in events)

        await self._repeat(name, once, 0.2)

    async def _insistently(self, call: Callable[[], Awaitable[Any]]) -> Any:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                _must_be_repeatable(error)
            self.ledger.repeated_calls += 1
            await asyncio.sleep(self.dice.uniform(0, pause_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _repeat(self, name: str, once: Callable[[], Awaitable[None]], rest_s: float) -> None:
        while True:
            await self.on.wait()
            self.busy.add(name)
            await once()
            self.busy.discard(name)
            await asyncio.sleep(self.dice.uniform(0, 2 * rest_s))

    async def stream(self, name: str, api: Api) -> None:
        """StreamEvents, opened again after each break with all that was not acknowledged."""
        waiting: dict[int, list[pb.Event]] = {}
        last = 0
        while True:
            call = api.ingestion.StreamEvents(timeout=3600)

            async def send(call: Any = call) -> None:
                nonlocal last
                for sequence in sorted(waiting):
                    await call.write(pb.StreamEventsRequest(sequence=sequence, events=waiting[sequence]))
                while True:
                    await self.on.wait()
                    if len(waiting) < _WINDOW:
                        self.busy.add(name)
                        last += 1
                        waiting[last] = [self.an_event() for _ in range(5)]
                        await call.write(pb.StreamEventsRequest(sequence=last, events=waiting[last]))
                    await asyncio.sleep(self.dice.uniform(0, 0.1))

            sending = asyncio.create_task(send())
            try:
                while (answer := await call.read()) is not grpc.aio.EOF:
                    assert not answer.rejections, answer
                    for sequence in [number for number in waiting if number <= answer.acked_through]:
                        self.ledger.acknowledged.update(event.event_id for event in waiting.pop(sequence))
                    if not waiting:
                        self.busy.discard(name)
                assert await call.code() != grpc.StatusCode.OK, "the server ended a stream that its client had not"
            except grpc.aio.AioRpcError as error:
                _must_be_repeatable(error)
            finally:
                await _ended(sending)
                call.cancel()
            self.ledger.broken_streams += 1
            await asyncio.sleep(self.dice.uniform(0, _LONGEST_PAUSE_S))


@dataclass
class Watch:
    """WatchRecommendations of one user, opened again after each break without a token, so that the list comes first."""

    api: Api
    user_id: str
    load: Load
    present: list[str] | None = None
    heard: float = field(default_factory=time.monotonic)

    async def run(self) -> None:
        """Follow the list for ever; `heard` is when anything came last, be it an error."""
        while True:
            call = self.api.recommendations.WatchRecommendations(
                recommend_pb.WatchRecommendationsRequest(request=a_question(self.user_id)), timeout=3600
            )
            try:
                async for update in call:
                    self._hear()
                    if update.HasField("recommendation"):
                        self.present = [item.item_id for item in update.recommendation.items]
                raise AssertionError("the server ended a watch without a status")
            except grpc.aio.AioRpcError as error:
                _must_be_repeatable(error)
            self._hear()
            self.load.ledger.broken_watches += 1
            await asyncio.sleep(self.load.dice.uniform(0, _LONGEST_PAUSE_S))

    def silence_s(self) -> float:
        """How long nothing has come."""
        return time.monotonic() - self.heard

    def _hear(self) -> None:
        self.load.ledger.longest_silence_s = max(self.load.ledger.longest_silence_s, self.silence_s())
        self.heard = time.monotonic()


def a_question(user_id: str) -> recommend_pb.RecommendRequest:
    """A list that depends on nothing but the user's own state."""
    return recommend_pb.RecommendRequest(
        user_id=user_id, strategy=recommend_pb.STRATEGY_COLLABORATIVE, include_seen=True, count=10
    )


@asynccontextmanager
async def running_load(installation: Installation, dice: random.Random) -> AsyncIterator[Load]:
    """Clients of both servers; a failure of any of them ends the block with it."""
    load = Load(installation, dice)
    ports = [server.port for server in installation.servers]
    async with (
        Api.connected(ports[0], installation.key, options=_CHANNEL) as first,
        Api.connected(ports[1], installation.key, options=_CHANNEL) as second,
        asyncio.TaskGroup() as group,
    ):
        apis = (first, second)
        # Of whom nothing is known, the list is everybody's, and may be as old as a cached one.
        known = [load.an_event(event_type="like", user_id=f"u{number}") for number in range(_WATCHED)]
        await first.ingestion.BatchRecordEvents(pb.BatchRecordEventsRequest(events=known), timeout=_CALL_S)
        load.ledger.acknowledged.update(event.event_id for event in known)
        load.watches = [Watch(apis[number % 2], f"u{number}", load) for number in range(_WATCHED)]
        tasks = [group.create_task(watch.run()) for watch in load.watches]
        tasks += [group.create_task(load.record(f"record-{number}", apis[number % 2])) for number in range(4)]
        for number in range(2):
            tasks.append(group.create_task(load.record_batches(f"batch-{number}", apis[number])))
            tasks.append(group.create_task(load.stream(f"stream-{number}", apis[number])))
        yield load
        for task in tasks:
            task.cancel()


def _must_be_repeatable(error: grpc.aio.AioRpcError) -> None:
    # What the library says itself when a connection breaks while it writes; the service has no such message.
    is_local = error.details() == "Internal error from Core"
    assert is_local or error.code().name in _REPEATED, describe(error)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and not isinstance(task.exception(), grpc.aio.AioRpcError | asyncio.InvalidStateError):
        await task
