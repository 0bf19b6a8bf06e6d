"""Chooses, on held-out interactions, how much each source counts and how many dimensions are worth storing.

Data sets differ more in this than in anything else: dense small ones want few dimensions and little of the neighbours,
sparse large ones the opposite. Item factors are ordered by singular value, so one fit serves every dimension tried. The
scores are blended by the function that serves; the held-out part must not be the one that the model is judged by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from recsvc.domain.arrays import Float32, Float64, Interactions, Positions, Scores
from recsvc.domain.evaluation import EMPTY, rank_metrics
from recsvc.domain.ranking.blend import best_first, blend
from recsvc.training.algorithms.interface import ItemFactors, ItemNeighbors, Progress, no_progress

COLLABORATIVE = "collaborative"
NEIGHBORS = "neighbors"

Weights = Mapping[str, float]

DEFAULT_WEIGHTS: Weights = {COLLABORATIVE: 1.0, NEIGHBORS: 1.0}
"""Without held-out data. On Gowalla one third to two thirds differ by less than .001 in NDCG@20."""

WEIGHTS_TRIED: Sequence[Weights] = (
    DEFAULT_WEIGHTS,
    {COLLABORATIVE: 2.0, NEIGHBORS: 1.0},
    {COLLABORATIVE: 1.0, NEIGHBORS: 2.0},
    {COLLABORATIVE: 4.0, NEIGHBORS: 1.0},
    {COLLABORATIVE: 1.0, NEIGHBORS: 4.0},
)

_BLOCK_USERS = 256

_CANDIDATES = 200
"""Per source. On Gowalla the lists are the same as from a ranking of all items."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The choice, and the NDCG of all that was tried by (dimension, weights in the order of `WEIGHTS_TRIED`)."""

    dimension: int
    weights: Weights
    ndcg: float
    tried: Mapping[tuple[int, int], float] = field(default_factory=dict)


def select(
    factors: ItemFactors,
    neighbors: ItemNeighbors,
    train: Interactions,
    held_out: Interactions,
    *,
    k: int = 20,
    max_users: int = 2000,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Selection:
    """The dimension (that of `factors`, or half or a quarter of it) and weights with the best mean NDCG@k.

    factors, neighbors: fitted on `train`; held_out: (users, items), same rows as `train`. At most `max_users` users,
    drawn by `seed`, are scored. The default, all dimensions and `DEFAULT_WEIGHTS`, stays unless the best is better by
    more than one standard error.
    """
    users = np.flatnonzero(np.diff(held_out.indptr) > 0)
    if len(users) > max_users:
        users = np.sort(np.random.default_rng(seed).choice(users, max_users, replace=False))
    dimensions = sorted({max(1, factors.dimension // divisor) for divisor in (1, 2, 4)}, reverse=True)
    models = {dimension: factors.truncated(dimension) for dimension in dimensions}
    recommended = {
        (dimension, which): np.full((len(users), k), EMPTY, dtype=np.int64)
        for dimension in dimensions
        for which in range(len(WEIGHTS_TRIED))
    }
    for start in range(0, len(users), _BLOCK_USERS):
        known = train[users[start : start + _BLOCK_USERS]]
        from_neighbors = _unseen(neighbors.scores(known).toarray(), known)
        for dimension in dimensions:
            from_factors = _unseen(models[dimension].scores(known), known)
            for row in range(known.shape[0]):
                for which, items in enumerate(_lists(from_factors[row], from_neighbors[row], k)):
                    recommended[dimension, which][start + row, : len(items)] = items
        progress(min(1.0, (start + _BLOCK_USERS) / len(users)))
    wanted = held_out[users]
    ndcgs = {key: rank_metrics(lists, wanted).ndcg for key, lists in recommended.items()}
    tried = {key: float(values.mean()) if len(values) else 0.0 for key, values in ndcgs.items()}
    default, best = (dimensions[0], 0), max(tried, key=lambda key: tried[key])
    dimension, which = best if _clearly_better(ndcgs[best], ndcgs[default]) else default
    progress(1.0)
    return Selection(dimension, WEIGHTS_TRIED[which], tried[dimension, which], tried)


def _clearly_better(one: Float64, other: Float64) -> bool:
    """Whether the mean over the same users is higher by more than one standard error of the difference.

    The rule of one standard error (Breiman et al. 1984): the best of fifteen is best by luck more often than not.
    """
    if len(one) < 2:
        return False
    difference = one - other
    return bool(difference.mean() > difference.std(ddof=1) / np.sqrt(len(difference)))


def _lists(from_factors: Scores, from_neighbors: Scores, k: int) -> Iterator[Positions]:
    """One user's list for each of WEIGHTS_TRIED, from what either source would retrieve."""
    candidates = np.union1d(best_first(from_factors, _CANDIDATES), best_first(from_neighbors, _CANDIDATES))
    components = {COLLABORATIVE: from_factors[candidates], NEIGHBORS: from_neighbors[candidates]}
    for weights in WEIGHTS_TRIED:
        scores = blend(components, weights).scores
        best = best_first(scores, k)
        yield candidates[best[scores[best] > 0]]


def _unseen(scores: Float32, known: Interactions) -> Float32:
    """The scores with 0 for what the user has: it is not recommended, so it must not set the maximum."""
    scores[np.repeat(np.arange(known.shape[0]), np.diff(known.indptr)), known.indices] = 0.0
    return scores
