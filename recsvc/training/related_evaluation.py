"""Evaluation of the calls beside Recommend: each has a question of its own, and baselines that answer it too.

- SimilarItems: which item the same user takes next (next_steps), as item-to-item models are judged in session-based
  recommendation (Ludewig & Jannach 2018).
- Bought together: the rest of a basket of which one item is told (basket_rest; Hariri et al. 2012).
- SimilarUsers: how much of what the k nearest users do later is what the user does later (overlap_with).
- RankItems: held-out items among sampled ones that the user never touched (mixed_candidates). Figures of such samples
  compare models on the same sample only (Krichene & Rendle 2020).

Everything here is arrays in, arrays out: who answers, the service or a baseline, is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from recsvc.domain.arrays import Codes, Float64, Interactions, Mask
from recsvc.domain.evaluation import EMPTY, rank_metrics
from recsvc.domain.significance import Bootstrap, Interval
from recsvc.training.protocols import Table

NDCG_K = 10


@dataclass(frozen=True, slots=True)
class ItemQuestions:
    """n questions about items. items: (n,) what is told; wanted: (n, items); users: (n,) whose question it is."""

    items: Codes
    wanted: Interactions
    users: Codes

    def __len__(self) -> int:
        """How many there are."""
        return len(self.items)


@dataclass(frozen=True, slots=True)
class Candidates:
    """What RankItems is to order for the user of one row: item codes, and which of them were held out."""

    row: int
    items: Codes
    is_wanted: Mask


@dataclass(frozen=True, slots=True)
class Judged:
    """The figures of one answerer, each with its 95 % interval from resampled users."""

    name: str
    figures: Mapping[str, Interval]


def next_steps(table: Table, train: Mask, at_most: int, seed: int) -> ItemQuestions:
    """For each step of a user after training: the item it ended with, and what the next step held.

    A step is all that a user liked at one time. Items that training did not see are neither told nor wanted.
    """
    entries = np.flatnonzero(~train & table.liked & _is_known(table, train))
    order = entries[np.lexsort((entries, table.times[entries], table.users[entries]))]
    starts = np.flatnonzero(
        np.append(True, (np.diff(table.users[order]) != 0) | (np.diff(table.times[order]) != 0))[: len(order)]
    )
    steps = np.split(table.items[order], starts[1:]) if len(order) else []
    users = table.users[order[starts]]
    told: list[int] = []
    wanted: list[Codes] = []
    whose: list[int] = []
    for at in range(len(steps) - 1):
        following = steps[at + 1][steps[at + 1] != steps[at][-1]]
        if users[at] == users[at + 1] and len(following):
            told.append(int(steps[at][-1]))
            wanted.append(following)
            whose.append(int(users[at]))
    return _sampled(told, wanted, whose, len(table.item_ids), at_most, seed)


def basket_rest(table: Table, baskets: Codes, train: Mask, at_most: int, seed: int) -> ItemQuestions:
    """For each basket after training with two items or more: one of them by chance, and the others.

    baskets: (entries,) which basket an entry belongs to, negative for none.
    """
    entries = np.flatnonzero(~train & table.liked & _is_known(table, train) & (baskets >= 0))
    order = entries[np.argsort(baskets[entries], kind="stable")]
    starts = np.flatnonzero(np.append(True, np.diff(baskets[order]) != 0)[: len(order)])
    rng = np.random.default_rng(seed)
    told: list[int] = []
    wanted: list[Codes] = []
    whose: list[int] = []
    for start, own in zip(starts, np.split(order, starts[1:]) if len(order) else [], strict=True):
        items = np.unique(table.items[own])
        if len(items) > 1:
            given = int(rng.choice(items))
            told.append(given)
            wanted.append(items[items != given])
            whose.append(int(table.users[order[start]]))
    return _sampled(told, wanted, whose, len(table.item_ids), at_most, seed)


def mixed_candidates(
    held_out: Interactions, seen: Interactions, known_items: Codes, negatives: int, most_wanted: int, seed: int
) -> list[Candidates]:
    """For each row: at most `most_wanted` of its held-out items among `negatives` that it never touched.

    All are items that training knows: an item that is new could be told from them by that alone. A row of which nothing
    is left is passed over.
    """
    rng = np.random.default_rng(seed)
    found = []
    for row in range(held_out.shape[0]):
        touched = np.union1d(_row(seen, row), _row(held_out, row))
        wanted = np.intersect1d(_row(held_out, row), known_items)
        if not len(wanted):
            continue
        free = np.setdiff1d(known_items, touched, assume_unique=True)
        if len(wanted) > most_wanted:
            wanted = rng.choice(wanted, most_wanted, replace=False)
        others = rng.choice(free, min(negatives, len(free)), replace=False)
        items = np.concatenate([wanted, others])
        mixed = rng.permutation(len(items))
        found.append(Candidates(row, items[mixed], mixed < len(wanted)))
    return found


def judge_lists(name: str, lists: Codes, questions: ItemQuestions) -> Judged:
    """Hit rate and NDCG of lists (questions, k) of item codes."""
    metrics = rank_metrics(lists, questions.wanted)
    k = lists.shape[1]
    return _judged(name, {f"hit rate@{k}": metrics.hit_rate, f"ndcg@{k}": metrics.ndcg}, questions.users)


def judge_neighbors(name: str, neighbors: Codes, users: Codes, held_out: Interactions) -> Judged:
    """Overlap of each user's held-out items with those of the nearest one, and of all of (users, k)."""
    overlap = overlap_with(neighbors, users, held_out)
    figures = {f"overlap@{k}": overlap[:, :k].mean(axis=1) for k in sorted({1, neighbors.shape[1]})}
    return _judged(name, figures, users)


def judge_scores(name: str, scores: Sequence[Float64], candidates: Sequence[Candidates], users: Codes) -> Judged:
    """AUC and NDCG of the scores that candidates were given; equal scores count half, and stand in random order."""
    rng = np.random.default_rng(0)
    auc = np.array([area_under_curve(given, asked.is_wanted) for given, asked in zip(scores, candidates, strict=True)])
    ndcg = np.zeros(len(scores))
    discounts = 1.0 / np.log2(np.arange(2, NDCG_K + 2))
    for row, (given, asked) in enumerate(zip(scores, candidates, strict=True)):
        best = np.lexsort((rng.random(len(given)), -given))[:NDCG_K]
        ideal = discounts[: min(NDCG_K, int(asked.is_wanted.sum()))].sum()
        ndcg[row] = (asked.is_wanted[best] * discounts[: len(best)]).sum() / ideal
    return _judged(name, {"auc": auc, f"ndcg@{NDCG_K}": ndcg}, users)


def overlap_with(neighbors: Codes, users: Codes, held_out: Interactions) -> Float64:
    """(users, k): the Jaccard index of a user's held-out items and each neighbour's; 0 for an empty place."""
    found = np.zeros(neighbors.shape)
    sizes = np.diff(held_out.indptr)
    for row, (user, own) in enumerate(zip(users, neighbors, strict=True)):
        places = np.flatnonzero(own != EMPTY)
        shared = np.asarray((held_out[own[places]] @ held_out[int(user)].T).todense()).ravel()
        together = sizes[own[places]] + sizes[user] - shared
        found[row, places] = np.divide(shared, together, out=np.zeros(len(places)), where=together > 0)
    return found


def area_under_curve(scores: Float64, is_wanted: Mask) -> float:
    """The chance that a wanted candidate scores above another one (Mann & Whitney 1947); a tie is half a win."""
    wanted = int(is_wanted.sum())
    others = len(scores) - wanted
    if wanted == 0 or others == 0:
        return 0.5
    # Imported here: scipy.stats takes half a second, for which every other command would wait.
    from scipy.stats import rankdata

    ranks = rankdata(scores)
    return float((ranks[is_wanted].sum() - wanted * (wanted + 1) / 2) / (wanted * others))


def popular_lists(popularity: Float64, questions: ItemQuestions, k: int) -> Codes:
    """The baseline that gives everybody the most popular items, but for the one that is told."""
    best = np.argsort(-popularity, kind="stable")[: k + 1]
    lists = np.full((len(questions), k), EMPTY, dtype=np.int64)
    for row, item in enumerate(questions.items):
        others = best[best != item][:k]
        lists[row, : len(others)] = others
    return lists


def random_lists(known: Codes, questions: ItemQuestions, k: int, seed: int) -> Codes:
    """The baseline of chance: k known items, but for the one that is told."""
    rng = np.random.default_rng(seed)
    lists = np.full((len(questions), k), EMPTY, dtype=np.int64)
    for row, item in enumerate(questions.items):
        drawn = rng.choice(known, min(k + 1, len(known)), replace=False)
        others = drawn[drawn != item][:k]
        lists[row, : len(others)] = others
    return lists


def random_neighbors(pool: Codes, users: Codes, k: int, seed: int) -> Codes:
    """The baseline of chance: k other users."""
    rng = np.random.default_rng(seed)
    return np.array([_but(rng.choice(pool, min(k + 1, len(pool)), replace=False), user, k) for user in users])


def active_neighbors(train: Interactions, pool: Codes, users: Codes, k: int) -> Codes:
    """The baseline that gives everybody the users with most items in training, as popularity does with items."""
    best = pool[np.argsort(-np.diff(train.indptr)[pool], kind="stable")][: k + 1]
    return np.array([_but(best, user, k) for user in users])


def nearest_by_items(train: Interactions, pool: Codes, users: Codes, k: int) -> Codes:
    """What an exact comparison of the items themselves gives: the users with the highest Jaccard index in training."""
    sizes = np.diff(train.indptr)[pool]
    others = train[pool]
    found = []
    for user in users:
        shared = np.asarray((others @ train[int(user)].T).todense()).ravel()
        index = shared / np.maximum(1, sizes + train[int(user)].nnz - shared)
        best = pool[np.argsort(-index, kind="stable")[: k + 1]]
        found.append(_but(best, user, k))
    return np.array(found)


def known_items(table: Table, train: Mask) -> Codes:
    """Items that training saw somebody like."""
    return np.unique(table.items[train & table.liked])


def _judged(name: str, values: Mapping[str, Float64], users: Codes) -> Judged:
    bootstrap = Bootstrap(users)
    columns = np.stack(list(values.values()), axis=1)
    observed, resampled = bootstrap.estimates(columns, np.ones(columns.shape))
    return Judged(
        name,
        {
            figure: bootstrap.interval(float(observed[column]), resampled[:, column])
            for column, figure in enumerate(values)
        },
    )


def _is_known(table: Table, train: Mask) -> Mask:
    return np.isin(table.items, known_items(table, train))


def _sampled(
    told: Sequence[int], wanted: Sequence[Codes], whose: Sequence[int], item_count: int, at_most: int, seed: int
) -> ItemQuestions:
    chosen: Sequence[int] = range(len(told))
    if len(told) > at_most:
        chosen = sorted(np.random.default_rng(seed).choice(len(told), at_most, replace=False).tolist())
    kept = [np.unique(wanted[at]) for at in chosen]
    indptr = np.concatenate(([0], np.cumsum([len(items) for items in kept]))).astype(np.int64)
    indices = np.concatenate(kept) if kept else np.zeros(0, dtype=np.int64)
    matrix = sparse.csr_matrix(
        (np.ones(len(indices), dtype=np.float32), indices, indptr), shape=(len(kept), item_count)
    )
    return ItemQuestions(
        np.array([told[at] for at in chosen], dtype=np.int64), matrix, np.array([whose[at] for at in chosen], np.int64)
    )


def _but(found: Codes, user: int, k: int) -> Codes:
    others = found[found != user][:k]
    return np.concatenate([others, np.full(k - len(others), EMPTY, dtype=np.int64)])


def _row(matrix: Interactions, row: int) -> Codes:
    return np.asarray(matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]], dtype=np.int64)
