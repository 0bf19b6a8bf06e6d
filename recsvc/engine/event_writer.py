"""Group commit: the events of many callers go to PostgreSQL in one transaction, and each caller hears after it only.

While one batch is being written the next one gathers, so that batches grow with the load and a caller who is alone
waits for nobody: the group commit of database logs (Gawlick & Kinkade 1985). A transaction costs as much as fifty
events do, so while many write a batch waits a moment for most of those who wrote before, and beside a batch that is
being written only a full one sets out. The counters of items follow a moment later; where events come one at a time
they, too, tell of an event once it is acknowledged. What waits is bounded; streams, which can wait without holding
anybody up, are given a part of the room only.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Self

from recsvc.domain.errors import DomainError, Overloaded, StorageUnavailable
from recsvc.domain.events import Event, Recorded
from recsvc.domain.ids import TenantKey
from recsvc.engine.attribution import Attribution
from recsvc.settings import WriterSettings
from recsvc.storage.events import EventRepository, Outcome
from recsvc.telemetry.metrics import Metrics
from recsvc.telemetry.spans import EVENT_COUNT, EVENTS_COMMIT, EVENTS_WRITE
from recsvc.telemetry.stages import stage

_STOP_S = 5.0
# A batch of so many callers, or events, is one of many.
_COMPANY = 8
_MANY = 1000
# Of the callers of before. With three in five, batches are smaller and cost a tenth more; with all, the last are waited
# for.
_MOST = 0.8


@dataclass(slots=True, eq=False)
class _Member:
    """What one caller wants to have written. context: of the caller's call, its trace included."""

    events: Sequence[Event]
    outcomes: asyncio.Future[list[Outcome]]
    context: Context = field(default_factory=copy_context)


@dataclass(slots=True)
class _Lane:
    """What waits of one tenant, and how many batches of it are being written.

    size: the events that wait. in_company: the batch before was of many callers or events, so more are to be expected.
    callers: how many it was of, or waited when it was written. enough: set once the wanted number of callers wait.
    """

    waiting: deque[_Member] = field(default_factory=deque)
    size: int = 0
    writing: int = 0
    in_company: bool = False
    callers: int = 0
    wanted: float = 0.0
    enough: asyncio.Event = field(default_factory=asyncio.Event)


class EventWriter:
    """An async context manager; leaving it writes what waits."""

    def __init__(
        self,
        events: EventRepository,
        settings: WriterSettings,
        metrics: Metrics,
        attribution: Attribution | None = None,
        is_slow: Callable[[], bool] = lambda: False,
    ) -> None:
        """attribution: told of stored events that name a list. is_slow: whether the database is at present; then the
        counters of items follow a moment later."""
        self._events = events
        self._attribution = attribution
        self._settings = settings
        self._metrics = metrics
        metrics.events_waiting_limit.set(settings.queue)
        metrics.read_when_asked(metrics.events_waiting, lambda: self._held)
        self._is_slow = is_slow
        self._lanes: defaultdict[TenantKey, _Lane] = defaultdict(_Lane)
        self._batches: set[asyncio.Task[None]] = set()
        self._held = 0
        self._held_of_streams = 0
        self._wanting_room: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> Self:
        """Nothing runs until there is something to write."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Wait for what is being written."""
        while self._batches:
            _, late = await asyncio.wait(self._batches, timeout=_STOP_S)
            if late:
                for batch in late:
                    batch.cancel()
                break

    def is_busy(self) -> bool:
        """Whether events of many are being written."""
        return any(lane.in_company and lane.writing for lane in self._lanes.values())

    @stage(EVENTS_WRITE, named=lambda _self, _tenant_key, events, **_: (EVENTS_WRITE, {EVENT_COUNT: len(events)}))
    async def write(self, tenant_key: TenantKey, events: Sequence[Event], *, patiently: bool = False) -> list[Outcome]:
        """Write events as `EventRepository.write` does, together with what others want to have written.

        patiently: for streams: wait for room rather than fail. Raises Overloaded when too many events wait, and
        StorageUnavailable; the events may have been written even so, and their ids make repeating them safe.
        """
        if not events:
            return []
        await self._take_room(len(events), patiently)
        try:
            lane = self._lanes[tenant_key]
            member = _Member(events, asyncio.get_running_loop().create_future())
            lane.waiting.append(member)
            lane.size += len(events)
            if self._has_enough(lane):
                lane.enough.set()
            self._write_next(tenant_key, lane)
            return await member.outcomes
        finally:
            self._leave_room(len(events), patiently)

    async def _take_room(self, count: int, patiently: bool) -> None:
        if patiently:
            # A message larger than the room may still go alone.
            while self._held_of_streams and self._held_of_streams + count > self._settings.stream_queue:
                turn = asyncio.get_running_loop().create_future()
                self._wanting_room.append(turn)
                try:
                    await turn
                except asyncio.CancelledError:
                    self._pass_on(turn)
                    raise
            self._held_of_streams += count
        elif self._held and self._held + count > self._settings.queue:
            self._metrics.events.labels("overloaded").inc(count)
            raise Overloaded("too many events are waiting to be written")
        self._held += count

    def _leave_room(self, count: int, patiently: bool) -> None:
        self._held -= count
        if patiently:
            self._held_of_streams -= count
            # All look again: how much room each of them needs is theirs to know.
            while self._wanting_room:
                turn = self._wanting_room.popleft()
                if not turn.done():
                    turn.set_result(None)

    def _pass_on(self, turn: asyncio.Future[None]) -> None:
        with suppress(ValueError):
            self._wanting_room.remove(turn)

    def _write_next(self, tenant_key: TenantKey, lane: _Lane) -> None:
        allowed = self._settings.batches_in_flight if lane.size >= self._settings.batch else 1
        if lane.waiting and lane.writing < allowed:
            lane.writing += 1
            # Not in the context of the batch before, to whose call this one does not belong.
            context = lane.waiting[0].context.copy()
            batch = asyncio.create_task(self._write_batch(tenant_key, lane), context=context)
            self._batches.add(batch)
            batch.add_done_callback(self._batches.discard)

    async def _write_batch(self, tenant_key: TenantKey, lane: _Lane) -> None:
        """Write what waits by now; whoever came in the same turn of the loop is part of it."""
        if lane.in_company:
            await self._gather(lane)
        members = self._taken(lane)
        lane.in_company = len(members) >= _COMPANY or sum(len(member.events) for member in members) >= _MANY
        try:
            if members:
                self._metrics.event_batch_size.observe(sum(len(member.events) for member in members))
                # To count costs as much as to write: while others write, it is done for all of them a moment later.
                is_alone = len(members) == 1 and lane.callers <= 1 and not lane.in_company
                count_at_once = is_alone and not self._is_slow()
                await self._write_together(tenant_key, members, count_at_once=count_at_once)
        finally:
            for member in members:
                if not member.outcomes.done():
                    member.outcomes.set_exception(StorageUnavailable())
            lane.writing -= 1
            lane.callers = len(members) + len(lane.waiting)
            self._write_next(tenant_key, lane)

    async def _gather(self, lane: _Lane) -> None:
        """Wait a moment for most callers of before, and for no more than a full batch."""
        lane.wanted = _MOST * lane.callers
        lane.enough.clear()
        if self._has_enough(lane):
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.gather_s):
                await lane.enough.wait()

    def _has_enough(self, lane: _Lane) -> bool:
        return len(lane.waiting) >= lane.wanted or lane.size >= self._settings.batch

    def _taken(self, lane: _Lane) -> list[_Member]:
        members: list[_Member] = []
        size = 0
        while lane.waiting and (not members or size + len(lane.waiting[0].events) <= self._settings.batch):
            member = lane.waiting.popleft()
            lane.size -= len(member.events)
            # Whose call has ended wants nothing any more.
            if not member.outcomes.done():
                members.append(member)
                size += len(member.events)
        return members

    @stage(EVENTS_COMMIT, others=lambda _self, _tenant_key, members, **_: [each.context for each in members[1:]])
    async def _write_together(self, tenant_key: TenantKey, members: Sequence[_Member], *, count_at_once: bool) -> None:
        events = [event for member in members for event in member.events]
        try:
            outcomes = await self._events.write(tenant_key, events, count_at_once=count_at_once)
        except Exception as error:
            if len(members) == 1 or isinstance(error, DomainError):
                for member in members:
                    if not member.outcomes.done():
                        member.outcomes.set_exception(error)
                return
            # What PostgreSQL refuses for one event must not be everybody's failure.
            for member in members:
                await self._write_together(tenant_key, [member], count_at_once=count_at_once)
            return
        self._count(outcomes)
        if self._attribution is not None:
            self._attribution.note(tenant_key, _of_lists(events, outcomes))
        start = 0
        for member in members:
            if not member.outcomes.done():
                member.outcomes.set_result(outcomes[start : start + len(member.events)])
            start += len(member.events)

    def _count(self, outcomes: Sequence[Outcome]) -> None:
        refused = sum(not isinstance(outcome, Recorded) for outcome in outcomes)
        repeated = sum(isinstance(outcome, Recorded) and outcome.duplicate for outcome in outcomes)
        for label, count in (
            ("stored", len(outcomes) - refused - repeated),
            ("duplicate", repeated),
            ("refused", refused),
        ):
            if count:
                self._metrics.events.labels(label).inc(count)


def _of_lists(events: Sequence[Event], outcomes: Sequence[Outcome]) -> list[Event]:
    """Those that name a list and were stored just now."""
    return [
        event
        for event, outcome in zip(events, outcomes, strict=True)
        if event.recommendation_id and isinstance(outcome, Recorded) and not outcome.duplicate
    ]
