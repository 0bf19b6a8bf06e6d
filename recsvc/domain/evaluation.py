"""How good a ranking is: the metrics of `recsvc evaluate`, of model acceptance and of the benchmarks.

All take the recommended items of many users at once and the held-out items of the same users, and give one value per
user, so that means, intervals and paired comparisons can be made from them. Knows nothing of how lists came about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recsvc.domain.arrays import Codes, Float64, Interactions, Mask, Scores
from recsvc.domain.ranking.blend import best_first

EMPTY = -1
"""Fills the places of a list that is shorter than k."""


@dataclass(frozen=True, slots=True)
class UserMetrics:
    """One value per test user, each array (users,). Users without a held-out item are left out before."""

    recall: Float64
    precision: Float64
    ndcg: Float64
    hit_rate: Float64
    reciprocal_rank: Float64
    average_precision: Float64

    def means(self) -> Mapping[str, float]:
        """The mean of each over the users; 0 when there are none."""
        values = {
            "recall": self.recall,
            "precision": self.precision,
            "ndcg": self.ndcg,
            "hit_rate": self.hit_rate,
            "mrr": self.reciprocal_rank,
            "map": self.average_precision,
        }
        return {name: float(value.mean()) if len(value) else 0.0 for name, value in values.items()}


def rank_metrics(recommended: Codes, held_out: Interactions) -> UserMetrics:
    """Metrics of the lists `recommended` (users, k; EMPTY fills short ones) against the rows of `held_out`.

    recall = hits / |test|; precision = hits / k; ndcg: gain 1, discount 1/log2(rank + 1), ideal of min(k, |test|) hits;
    reciprocal rank of the first hit; average precision over min(k, |test|). Users with no held-out item are dropped.
    """
    sizes_all = np.diff(held_out.indptr)
    tested = np.flatnonzero(sizes_all > 0)
    hits = hit_matrix(recommended, held_out)[tested].astype(np.float64)
    sizes = sizes_all[tested].astype(np.float64)
    k = recommended.shape[1]
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate(([0.0], np.cumsum(discounts)))
    attainable = np.minimum(k, sizes)
    hit_counts = hits.sum(axis=1)
    ranks = np.arange(1, k + 1)
    return UserMetrics(
        recall=hit_counts / sizes,
        precision=hit_counts / k,
        ndcg=(hits @ discounts) / ideal[attainable.astype(np.int64)],
        hit_rate=(hit_counts > 0).astype(np.float64),
        reciprocal_rank=(hits / ranks).max(axis=1, initial=0.0),
        average_precision=(hits * np.cumsum(hits, axis=1) / ranks).sum(axis=1) / attainable,
    )


def hit_matrix(recommended: Codes, held_out: Interactions) -> Mask:
    """(users, k): whether the item at that place of the list was held out."""
    users, item_count = held_out.shape
    # One sorted key per held-out pair: the last sentinel lets a search past the end find something that is no hit.
    rows = np.repeat(np.arange(users, dtype=np.int64), np.diff(held_out.indptr))
    pairs = np.append(np.sort(rows * item_count + held_out.indices), -1)
    wanted = np.arange(users, dtype=np.int64)[:, np.newaxis] * item_count + recommended
    found = pairs[np.searchsorted(pairs[:-1], wanted)] == wanted
    return np.asarray(found & (recommended != EMPTY))


def catalogue_coverage(recommended: Codes, item_count: int) -> float:
    """The share of all items that were recommended to anybody."""
    if item_count == 0:
        return 0.0
    return len(np.unique(recommended[recommended != EMPTY])) / item_count


def mean_novelty(recommended: Codes, item_popularity: Scores, user_count: int) -> float:
    """Mean −log2 p(i) in bits over all places, p(i) = the share of users who touched i (Zhou et al. 2010).

    item_popularity: (items,), users per item; an item that nobody touched counts as touched by one.
    """
    places = recommended[recommended != EMPTY]
    if len(places) == 0 or user_count == 0:
        return 0.0
    share = np.maximum(np.asarray(item_popularity, dtype=np.float64)[places], 1.0) / user_count
    return float(-np.log2(share).mean())


def recall_of(recommended: Codes, held_out: Interactions, item_weights: Float64) -> tuple[Float64, Float64]:
    """Per user of `held_out` the weight of what was found, and of all that was to be found; both (users,).

    item_weights (items,): 1 and 0 for a part of the catalogue; popularity^−β for the popularity-stratified recall of
    Steck (2011), whose users count by what they had to find: Σ found / Σ wanted over all of them.
    """
    hits = hit_matrix(recommended, held_out)
    weights = np.append(np.asarray(item_weights, dtype=np.float64), 0.0)
    return (hits * weights[recommended]).sum(axis=1), np.asarray(held_out @ weights[:-1], dtype=np.float64)


def top_k(scores: Scores, k: int, excluded: Interactions | None = None) -> Codes:
    """(users, k): the best items of dense `scores` (users, items), best first; EMPTY for −inf and past the end.

    excluded: rows of items that must not come, as a rule those of the training part. Equal scores come in the order of
    the items.
    """
    values = np.array(scores)
    if excluded is not None:
        rows = np.repeat(np.arange(values.shape[0]), np.diff(excluded.indptr))
        values[rows, excluded.indices] = -np.inf
    best = np.full((len(values), k), EMPTY, dtype=np.int64)
    for row, row_values in enumerate(values):
        positions = best_first(row_values, k)
        positions = positions[~np.isneginf(row_values[positions])]
        best[row, : len(positions)] = positions
    return best
