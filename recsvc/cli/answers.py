"""Answers to the questions of an evaluation, and how far two of them are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsvc.domain.arrays import Codes, Float64
from recsvc.domain.evaluation import EMPTY
from recsvc.training.protocols import Task

_SCORE_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Answers:
    """items, scores: (questions, k), best first, `EMPTY` and NaN at the end; seconds: spent on asking."""

    items: Codes
    scores: Float64
    degraded: int
    seconds: float


class AnswerSheet:
    """Takes answers in any order."""

    def __init__(self, task: Task, k: int) -> None:
        self._codes = {item_id: code for code, item_id in enumerate(task.table.item_ids)}
        self._items = np.full((len(task.questions), k), EMPTY, dtype=np.int64)
        self._scores = np.full((len(task.questions), k), np.nan)
        self._degraded = 0
        self.seconds = 0.0

    def write(self, row: int, item_ids: Sequence[str], scores: Sequence[float], *, degraded: bool) -> None:
        """Note the list for one question."""
        # An item that no event of the data set has is a miss like any other, and keeps its place.
        places = [self._codes.get(item_id, EMPTY) for item_id in item_ids]
        self._items[row, : len(places)] = places
        self._scores[row, : len(places)] = scores
        self._degraded += degraded

    def answers(self) -> Answers:
        """All that was noted."""
        return Answers(self._items, self._scores, self._degraded, self.seconds)


def agreement(one: Answers, other: Answers, rows: Sequence[int]) -> float:
    """The share of these questions that both answered with the same list, up to the order of equal scores."""
    alike = [
        _alike(
            dict(zip(one.items[row].tolist(), one.scores[row].tolist(), strict=True)),
            dict(zip(other.items[row].tolist(), other.scores[row].tolist(), strict=True)),
        )
        for row in rows
    ]
    return float(np.mean(alike)) if alike else 1.0


def _alike(one: dict[int, float], other: dict[int, float]) -> bool:
    """Whether two lists hold the same items with the same scores; at the cut, one of equals may stand for another."""
    one.pop(EMPTY, None)
    other.pop(EMPTY, None)
    if len(one) != len(other):
        return False
    scores = [*one.values(), *other.values()]
    tolerance = _SCORE_TOLERANCE * max(map(abs, scores), default=0.0)
    at_cut = min(scores, default=0.0) + tolerance
    shared = one.keys() & other.keys()
    return all(abs(one[item] - other[item]) <= tolerance for item in shared) and all(
        score <= at_cut for items in (one, other) for item, score in items.items() if item not in shared
    )
