"""Counters of items: how many events tell of each, and their decayed sums for popularity and trends.

Recording an event only notes what it says about its item, in the same transaction; here these notes are added up,
many at a time. Each is added exactly once: it is taken out in the transaction that adds it.
"""

from __future__ import annotations

from recsvc.domain.recommendations import POPULARITY_HALF_LIFE
from recsvc.storage.database import Database, execute
from recsvc.storage.retries import CONFLICTS, despite_deadlocks
from recsvc.storage.statements import load

_SQL = load("item_counters")
_BATCHES = 50


class ItemCounterRepository:
    """Adds up what events said about items. Any number of processes may."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count_all(self) -> None:
        """Add up all that was noted before the call."""
        while await self.count_once() == _BATCHES:
            pass

    async def count_once(self) -> int:
        """Add up the oldest notes of all tenants; returns how many batches of events they were of."""
        return await despite_deadlocks(self._database, "count_signals", self._count, worth_another=CONFLICTS)

    async def _count(self) -> int:
        async with self._database.service_transaction() as connection:
            # What a crash undoes is whole: the notes are there again, to be added up again.
            await execute(connection, _SQL["without_flush"])
            cursor = await execute(
                connection,
                _SQL["count_signals"],
                {"batches": _BATCHES, "popularity_s": POPULARITY_HALF_LIFE.total_seconds()},
            )
            row = await cursor.fetchone()
        return int(row["batches"])
