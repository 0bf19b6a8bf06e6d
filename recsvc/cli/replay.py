"""Records what happened after training as time goes on: an evaluated service is then as live as in real life."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from recsvc.cli.loading import Loaded
from recsvc.domain.errors import DomainError
from recsvc.domain.events import Event
from recsvc.domain.ids import TenantKey
from recsvc.storage.events import EventRepository
from recsvc.training.leakage import check_past

_AT_ONCE = 20_000
_TIMEOUT_S = 600.0


class Replay:
    """Events that are recorded no sooner than they happened."""

    def __init__(self, repository: EventRepository, tenant_key: TenantKey, events: Iterable[Event]) -> None:
        self._repository = repository
        self._tenant_key = tenant_key
        self._events: Sequence[Event] = sorted(events, key=lambda event: event.event_time)
        self._done = 0
        self.loaded = Loaded()

    async def until(self, moment: float) -> None:
        """Record all that happened before the moment, in seconds since 1970, and is not recorded yet."""
        end = bisect_left(self._events, moment, key=lambda event: event.event_time.timestamp())
        for start in range(self._done, end, _AT_ONCE):
            chunk = self._events[start : min(start + _AT_ONCE, end)]
            check_past(chunk, moment)
            for outcome in await self._repository.write(self._tenant_key, chunk, timeout_s=_TIMEOUT_S):
                if isinstance(outcome, DomainError):
                    self.loaded.refuse(outcome)
                else:
                    self.loaded.events += 1
        self._done = max(self._done, end)
