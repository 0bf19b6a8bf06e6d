"""The lists that baselines give to the questions of a task, for the served ones to be compared with.

Every baseline is fitted on the very train part that the service learns from, is told the same history when asked, and
leaves out the same items that the subject has. A list that ends early goes on with what is popular, as the service's
does. Beside a live service baselines learn anew now and then from all that has happened, as a nightly job lets them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from scipy import sparse

from recsvc.domain.arrays import Codes, Float32, Float64, Interactions
from recsvc.domain.evaluation import EMPTY, top_k
from recsvc.training.algorithms.als import item_factors, user_factors
from recsvc.training.algorithms.interface import NeighborAlgorithm
from recsvc.training.algorithms.popularity import item_popularity
from recsvc.training.algorithms.sequences import MarkovTransitions
from recsvc.training.algorithms.session_knn import SessionKnn
from recsvc.training.baselines import ALS, BASELINES, EASE, ITEM_KNN, TrainPart
from recsvc.training.protocols import SplitKind, Task

_BLOCK = 256

Scoring = Callable[[slice], Float32]
"""Scores (questions of the slice, items) of some of the questions."""

Advance = Callable[[int], object]
"""Told how many more questions are answered."""

_TOLD_LATER = (SplitKind.USER_HELD_OUT, SplitKind.NEXT_ITEM)
"""Protocols in which a question is asked with a history that is not all in the train part."""


def train_part(task: Task) -> TrainPart:
    """What a baseline may learn from: the liked events of the train part."""
    table = task.table
    mask = task.split.train & table.liked
    return TrainPart(task.train, table.users[mask], table.items[mask], table.times[mask])


def baseline_lists(
    name: str,
    task: Task,
    k: int,
    advance: Advance = lambda _count: None,
    *,
    learn_every_s: float | None = None,
) -> Codes:
    """(questions, k) item codes, best first, of one of BASELINES.

    learn_every_s: fit it anew so often, on all that happened before; None: once, on the train part.
    """
    questions = task.questions
    lists = np.full((len(questions), k), EMPTY, dtype=np.int64)
    for rows, part in _rounds(task, learn_every_s):
        ages, seen = questions.ages[rows], questions.seen[rows]
        scoring = _of_histories(name, part, ages) if task.kind in _TOLD_LATER else _of_users(name, part, task)
        popularity = item_popularity(part.interactions)
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            scores = np.asarray(scoring(block), dtype=np.float64)
            lists[rows[block]] = top_k(_going_on(scores, popularity), k, seen[block])
            advance(len(scores))
    return lists


def _rounds(task: Task, learn_every_s: float | None) -> Iterator[tuple[Codes, TrainPart]]:
    """Questions, each with what a baseline has learned from by then, which is older than all of them."""
    moments = task.questions.moments
    if learn_every_s is None or not len(moments):
        yield np.arange(len(moments)), train_part(task)
        return
    table = task.table
    rounds = np.floor((moments - moments.min()) / learn_every_s)
    for number in np.unique(rounds):
        known = table.liked & (table.times < moments.min() + number * learn_every_s)
        part = TrainPart(table.matrix(known), table.users[known], table.items[known], table.times[known])
        yield np.flatnonzero(rounds == number), part


def _going_on(scores: Float64, popularity: Float64) -> Float64:
    """The scores with the popular items, below all others, where there is nothing to say; −inf for unknown items."""
    nothing = (scores == 0.0) | np.isneginf(scores)
    lowest = np.where(nothing, np.inf, scores).min(axis=1, keepdims=True, initial=0.0)
    share = popularity / (popularity.max(initial=0.0) + 1.0)
    filled = np.where(nothing, lowest - 2.0 + share, scores)
    return np.where(nothing & (popularity == 0.0), -np.inf, filled)


def _of_users(name: str, part: TrainPart, task: Task) -> Scoring:
    baseline = BASELINES[name]()
    baseline.fit(part)
    subjects = task.questions.subjects.astype(np.int64)
    return lambda block: baseline.scores(subjects[block])


def _of_histories(name: str, part: TrainPart, ages: Interactions) -> Scoring:
    """The same baselines, asked with histories (questions, items) by age that they did not learn from."""
    return _HISTORIES[name](part, ages)


def _by_popularity(part: TrainPart, ages: Interactions) -> Scoring:
    popularity = item_popularity(part.interactions).astype(np.float32)
    return lambda block: np.tile(popularity, (ages[block].shape[0], 1))


def _by_neighbors(algorithm: NeighborAlgorithm) -> Callable[[TrainPart, Interactions], Scoring]:
    def scoring(part: TrainPart, ages: Interactions) -> Scoring:
        neighbors = algorithm.fit(part.interactions)
        history = _touched(ages)
        return lambda block: neighbors.scores(history[block]).toarray()

    return scoring


def _by_als(part: TrainPart, ages: Interactions) -> Scoring:
    items = item_factors(part.interactions, ALS)
    histories = _touched(ages)
    return lambda block: np.asarray(user_factors(histories[block], items, ALS) @ items.T)


def _by_transitions(part: TrainPart, ages: Interactions) -> Scoring:
    transitions = MarkovTransitions().fit(part.sequences())
    last = _touched(ages, at_most=1)
    return lambda block: transitions.scores(last[block]).toarray()


def _by_sessions(part: TrainPart, ages: Interactions) -> Scoring:
    memory = SessionKnn.of(part.sequences(), part.interactions.shape[0])
    # The questions stand below the memory, where nobody finds them as neighbours.
    first = memory.contents.shape[0]
    asked = replace(
        memory,
        contents=sparse.vstack([memory.contents, ages]).tocsr(),
        row_of=np.where(np.diff(ages.indptr) > 0, first + np.arange(ages.shape[0]), -1),
    )
    return lambda block: asked.scores(np.arange(ages.shape[0])[block])


_HISTORIES: Mapping[str, Callable[[TrainPart, Interactions], Scoring]] = {
    "popularity": _by_popularity,
    "item-knn": _by_neighbors(ITEM_KNN),
    "als": _by_als,
    "ease": _by_neighbors(EASE),
    "transitions": _by_transitions,
    "vsknn": _by_sessions,
}


def _touched(ages: Interactions, at_most: int | None = None) -> Interactions:
    """1 for every item of a history, or for those no older than `at_most`."""
    touched = ages.copy()
    touched.data = np.asarray(touched.data <= (at_most or np.inf), dtype=np.float32)
    touched.eliminate_zeros()
    return touched
