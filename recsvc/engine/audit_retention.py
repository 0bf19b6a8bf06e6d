"""Deletes entries of the audit log that are older than they need be, a few at a time; any number of processes may."""

from __future__ import annotations

import asyncio
import random
from typing import Self

import structlog

from recsvc.domain.errors import DomainError
from recsvc.storage.audit_log import AuditLog

_log = structlog.get_logger(__name__)
_BATCH = 1000
_EVERY_S = 3600.0
_STOP_S = 5.0


class AuditRetention:
    """An async context manager around the work."""

    def __init__(self, audit_log: AuditLog, days: int) -> None:
        self._audit_log = audit_log
        self._days = days
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin."""
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_STOP_S)

    async def _work(self) -> None:
        while True:
            # Apart from other processes that were started together with this one.
            await asyncio.sleep(_EVERY_S * random.uniform(0.5, 1.5))  # noqa: S311  (jitter)
            try:
                deleted = _BATCH
                while deleted == _BATCH:
                    deleted = await self._audit_log.delete_older(self._days, _BATCH)
            except DomainError as error:
                _log.warning("audit_retention.failed", error=error.reason)
