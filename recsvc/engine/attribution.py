"""Finds out which shown lists events came of, for the metrics of what strategies are worth.

An event that names a list is looked up in the log of shown lists, off the path of both: a bounded queue, emptied in
batches. The log is written a moment after a list went out, so an event that came faster is looked up again. What a
process that dies had queued is not counted.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Self

import structlog

from recsvc.domain.errors import DomainError
from recsvc.domain.events import DEFAULT_EVENT_TYPES, Event
from recsvc.domain.ids import TenantKey
from recsvc.resilience.background import Background
from recsvc.storage.shown import ListOfEvent, ShownRepository
from recsvc.telemetry.metrics import Metrics
from recsvc.telemetry.metrics.labels import OTHER

_log = structlog.get_logger(__name__)
_CAPACITY = 20_000
_BATCH = 1000
_EVERY_S = 1.0
# Seconds of rest for each second of work: nobody waits for it.
_REST = 4.0
# More than the log of shown lists lags behind unless the database is away.
_LOOKS = 5
_TYPES = frozenset(kind.event_type for kind in DEFAULT_EVENT_TYPES)


@dataclass(frozen=True, slots=True)
class _Waiting:
    event: Event
    looks: int = 0


class Attribution:
    """An async context manager around the looking up."""

    def __init__(self, shown: ShownRepository, metrics: Metrics) -> None:
        self._shown = shown
        self._metrics = metrics
        self._lanes: dict[TenantKey, deque[_Waiting]] = {}
        self._background = Background()
        metrics.watch_queue("attribution", self._size, _CAPACITY)

    async def __aenter__(self) -> Self:
        """Begin to look events up."""
        self._background.begin([self._run()])
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop; what still waits is not counted."""
        await self._background.end()

    def note(self, tenant_key: TenantKey, events: Sequence[Event]) -> None:
        """These events, each of which names a list, are stored; never waits."""
        if not events:
            return
        room = max(0, _CAPACITY - self._size())
        self._lanes.setdefault(tenant_key, deque()).extend(map(_Waiting, events[:room]))
        if len(events) > room:
            self._metrics.unattributed_events.labels("dropped").inc(len(events) - room)

    async def attribute_once(self) -> None:
        """Look up what waits by now, once. Raises StorageUnavailable; what was not looked up then waits on."""
        for tenant_key, lane in list(self._lanes.items()):
            left = len(lane)
            while left > 0:
                start = time.monotonic()
                some = list(islice(lane, min(_BATCH, left)))
                found = await self._shown.lists_of(tenant_key, [waiting.event for waiting in some])
                for _ in some:
                    lane.popleft()
                lane.extend(self._counted(some, found))
                left -= len(some)
                await self._background.rest(_REST * (time.monotonic() - start))
            if not lane:
                del self._lanes[tenant_key]

    def _size(self) -> int:
        return sum(map(len, self._lanes.values()))

    async def _run(self) -> None:
        while not self._background.is_ending:
            await self._background.rest(_EVERY_S)
            try:
                await self.attribute_once()
            except DomainError as error:
                _log.warning("attribution.failed", error=error.reason)
            except Exception:
                _log.exception("attribution.crashed")

    def _counted(self, some: Sequence[_Waiting], found: Sequence[ListOfEvent | None]) -> list[_Waiting]:
        """Count those whose lists were found; returns those to look up again."""
        counted: Counter[tuple[str, str, bool]] = Counter()
        again: list[_Waiting] = []
        for waiting, shown in zip(some, found, strict=True):
            if shown is None and waiting.looks + 1 < _LOOKS:
                again.append(_Waiting(waiting.event, waiting.looks + 1))
            elif shown is None or not shown.has_item:
                reason = "unknown_list" if shown is None else "other_item"
                self._metrics.unattributed_events.labels(reason).inc()
            else:
                event_type = waiting.event.event_type
                counted[shown.strategy, event_type if event_type in _TYPES else OTHER, shown.is_conversion] += 1
        for (strategy, event_type, is_conversion), events in counted.items():
            labels = (strategy, event_type, str(is_conversion).lower())
            self._metrics.attributed_events.labels(*labels).inc(events)
        return again
