"""Evaluation by the protocols of the field: a data set is split, and lists are judged against its test part.

What counts as relevant is what counts as liked in training: an event with a positive signal (a rating above the middle,
any other event of a type with a positive weight).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsvc.domain.arrays import Codes, Float64, Interactions
from recsvc.domain.evaluation import EMPTY, bootstrap_interval, catalogue_coverage, mean_novelty, rank_metrics, top_k
from recsvc.domain.events import DEFAULT_EVENT_TYPES, Event
from recsvc.training.algorithms.popularity import item_popularity
from recsvc.training.splits import given_split, leave_last_out, random_split, temporal_split

_WEIGHTS = {kind.event_type: kind.weight for kind in DEFAULT_EVENT_TYPES}
_MIDDLE_RATING = 2.5


class SplitKind(StrEnum):
    """How a data set is split."""

    GIVEN = "given"
    TEMPORAL = "temporal"
    LEAVE_LAST_OUT = "leave-last-out"
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Table:
    """A data set's events as arrays, one entry per event in the order of the files."""

    user_ids: Sequence[str]
    item_ids: Sequence[str]
    users: Codes
    items: Codes
    times: Float64
    liked: NDArray[np.bool_]
    is_given_test: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Task:
    """A split: which events are loaded, what users like in it, and what must be found again.

    train, test: (users, items) with 1 where a user likes an item. seen: the same for every item of the train part.
    """

    table: Table
    is_train: NDArray[np.bool_]
    train: Interactions
    seen: Interactions
    test: Interactions


@dataclass(frozen=True, slots=True)
class Judgement:
    """Figures of one set of lists: mean, and the ends of its 95 % confidence interval where there is one."""

    name: str
    users: int
    figures: Mapping[str, tuple[float, float, float]]


def read_table(train: Iterable[Event], test: Iterable[Event] = ()) -> Table:
    """The events of a data set; test: those of its own test part, if it has one."""
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    rows: list[tuple[int, int, float, bool, bool]] = []
    for part, events in enumerate((train, test)):
        for event in events:
            user = users.setdefault(str(event.user_id or event.session_id), len(users))
            item = items.setdefault(event.item_id, len(items))
            rows.append((user, item, event.event_time.timestamp(), _is_liked(event), part == 1))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Table(
        list(users), list(items), columns[0], columns[1], columns[2].astype(np.float64), columns[3], columns[4]
    )


def split_table(table: Table, kind: SplitKind, *, test_share: float, seed: int) -> Task:
    """Split a data set. The train part is what the split calls so; nothing of the test part is in it."""
    match kind:
        case SplitKind.GIVEN:
            split = given_split(table.users, table.items, table.is_given_test)
        case SplitKind.TEMPORAL:
            split = temporal_split(table.users, table.items, table.times, test_share)
        case SplitKind.LEAVE_LAST_OUT:
            split = leave_last_out(table.users, table.items, table.times)
        case SplitKind.RANDOM:
            split = random_split(table.users, table.items, test_share, seed)
    return Task(
        table=table,
        is_train=split.train,
        train=_matrix(table, split.train & table.liked),
        seen=_matrix(table, split.train),
        test=_matrix(table, split.test & table.liked),
    )


def judge(name: str, lists: Codes, task: Task, tested: NDArray[np.int64]) -> Judgement:
    """Figures of lists (tested users, k) of item codes; the interval is a bootstrap over users."""
    metrics = rank_metrics(lists, task.test[tested])
    popularity = item_popularity(task.train)
    figures: dict[str, tuple[float, float, float]] = {}
    k = lists.shape[1]
    for label, values in (
        (f"recall@{k}", metrics.recall),
        (f"ndcg@{k}", metrics.ndcg),
        (f"hit rate@{k}", metrics.hit_rate),
        ("mrr", metrics.reciprocal_rank),
    ):
        interval = bootstrap_interval(values)
        figures[label] = (interval.mean, interval.low, interval.high)
    coverage = catalogue_coverage(lists, len(popularity))
    novelty = mean_novelty(lists, popularity, task.train.shape[0])
    figures["coverage"] = (coverage, coverage, coverage)
    figures["novelty"] = (novelty, novelty, novelty)
    return Judgement(name, len(tested), figures)


def popularity_lists(task: Task, tested: NDArray[np.int64], k: int) -> Codes:
    """The most popular items of the train part that each user has not seen: the baseline that a model must beat."""
    popularity = item_popularity(task.train)
    lists = np.full((len(tested), k), EMPTY, dtype=np.int64)
    block = 512
    for start in range(0, len(tested), block):
        users = tested[start : start + block]
        scores = np.broadcast_to(popularity, (len(users), len(popularity))).copy()
        lists[start : start + block] = top_k(scores, k, task.seen[users])
    return lists


def tested_users(task: Task, at_most: int | None, seed: int) -> NDArray[np.int64]:
    """Users with something to find; a sample of them when there are more than `at_most`."""
    users = np.flatnonzero(np.diff(task.test.indptr) > 0)
    if at_most is not None and len(users) > at_most:
        users = np.sort(np.random.default_rng(seed).choice(users, at_most, replace=False))
    return users


def _is_liked(event: Event) -> bool:
    if event.event_type == "rate" and event.value is not None:
        return event.value > _MIDDLE_RATING
    return _WEIGHTS.get(event.event_type, 0.0) > 0


def _matrix(table: Table, mask: NDArray[np.bool_]) -> Interactions:
    shape = (len(table.user_ids), len(table.item_ids))
    matrix = sparse.csr_matrix(
        (np.ones(int(mask.sum()), dtype=np.float32), (table.users[mask], table.items[mask])), shape=shape
    )
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix
