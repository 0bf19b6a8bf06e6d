"""Counters of items: how many events tell of each, and their decayed sums for popularity and trends.

Recording an event only notes what it says about its item, in the same transaction; here these notes are added up,
many at a time. Each is added exactly once: it is taken out in the transaction that adds it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from psycopg.rows import DictRow

from recsvc.domain.arrays import Float64
from recsvc.domain.decay import log2_sum
from recsvc.domain.recommendations import POPULARITY_HALF_LIFE, TREND_HALF_LIVES
from recsvc.storage.arrays import numbers
from recsvc.storage.binary_copy import Keys
from recsvc.storage.database import Database, execute
from recsvc.storage.retries import CONFLICTS, despite_deadlocks
from recsvc.storage.statements import load

_SQL = load("item_counters")
_BATCHES = 50
_HALF_LIVES = dict(
    zip(("popularity", "trend_day", "trend_week"), (POPULARITY_HALF_LIFE, *TREND_HALF_LIVES), strict=True)
)


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
            cursor = await execute(connection, _SQL["take_signals"], {"batches": _BATCHES})
            taken = await cursor.fetchall()
            # In the order in which every process locks the counters of items.
            for tenant_key, added_up in sorted((await asyncio.to_thread(_added_up, taken)).items()):
                await execute(connection, _SQL["add_counts"], {"tenant": tenant_key, **added_up})
        return len(taken)


def _added_up(taken: Iterable[DictRow]) -> dict[int, dict[str, list[float]]]:
    """By tenant the columns of what is to be added: an entry for each item."""
    notes: defaultdict[int, list[tuple[Keys, Float64, Float64]]] = defaultdict(list)
    for row in taken:
        notes[row["tenant_key"]].append(
            (
                numbers(row["item_keys"], ">i8"),
                numbers(row["log_weights"], ">f8"),
                numbers(row["ages_s"], ">f8"),
            )
        )
    return {
        tenant_key: _counters(*map(np.concatenate, zip(*of_tenant, strict=True)))
        for tenant_key, of_tenant in notes.items()
    }


def _counters(item_keys: Keys, log_weights: Float64, ages_s: Float64) -> dict[str, list[float]]:
    keys, codes, counts = np.unique(item_keys, return_inverse=True, return_counts=True)
    sums = {
        name: log2_sum(log_weights + ages_s / half_life.total_seconds(), codes, len(keys)).tolist()
        for name, half_life in _HALF_LIVES.items()
    }
    return {"item_keys": keys.tolist(), "event_counts": counts.tolist(), **sums}
