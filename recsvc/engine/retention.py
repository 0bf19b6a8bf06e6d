"""Deletes what was kept for as long as it should be, a little at a time; any number of processes may."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Self

import structlog

from recsvc.domain.errors import DomainError
from recsvc.resilience.background import Background

_log = structlog.get_logger(__name__)
_BATCH = 1000
_EVERY_S = 3600.0
# Between two batches, so that whoever waits for the same rows or the disk has a turn.
_PAUSE_S = 0.1

DeleteSome = Callable[[int], Awaitable[int]]
"""Deletes up to so many and returns how many there were."""


class Retention:
    """An async context manager around the work."""

    def __init__(self, kinds: Mapping[str, DeleteSome], *, every_s: float = _EVERY_S) -> None:
        """kinds: what is deleted, by a name for the log. every_s: time between two looks, give or take half."""
        self._kinds = kinds
        self._every_s = every_s
        self._background = Background()

    async def __aenter__(self) -> Self:
        """Begin."""
        self._background.begin([self._work()])
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""
        await self._background.end()

    async def _work(self) -> None:
        while not self._background.is_ending:
            # Apart from other processes that were started together with this one.
            await self._background.rest(self._every_s * random.uniform(0.5, 1.5))  # noqa: S311  (jitter)
            for kind, delete_some in self._kinds.items():
                await self._delete(kind, delete_some)

    async def _delete(self, kind: str, delete_some: DeleteSome) -> None:
        try:
            deleted = _BATCH
            while deleted == _BATCH and not self._background.is_ending:
                deleted = await delete_some(_BATCH)
                await self._background.rest(_PAUSE_S)
        except DomainError as error:
            # What is left is deleted next time.
            _log.warning("retention.failed", kind=kind, error=error.reason)
