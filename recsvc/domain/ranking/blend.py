"""One score from several sources, and what each source contributed to it.

Sources score on scales of their own: an inner product, a sum of walk probabilities, a decayed count. Dividing each by
the user's own maximum brings them together per user, which a global constant would not. The score is the plain sum of
the contributions, so that an explanation can name shares that add up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recsvc.domain.arrays import Codes, Float64, Positions, Scores

_NOTHING = 1e-30
"""Maxima up to here are rounding residue; dividing by them could overflow."""


@dataclass(frozen=True, slots=True)
class Blended:
    """scores: (…, n); contributions: per source (…, n), adding up to `scores`."""

    scores: Float64
    contributions: Mapping[str, Float64]


def blend(components: Mapping[str, Scores], weights: Mapping[str, float]) -> Blended:
    """Weighted sum of the sources, each divided by its maximum over the last axis.

    components: per source (n,), or (users, n); NaN, where the source does not know the candidate, counts as 0. A source
    whose maximum is not positive says nothing about this user and contributes 0; so does one without a weight.
    """
    contributions = {
        source: weights.get(source, 0.0) * scaled_by_maximum(component) for source, component in components.items()
    }
    if not contributions:
        raise ValueError("blend needs at least one component")
    scores = np.asarray(sum(contributions.values()), dtype=np.float64)
    return Blended(scores, contributions)


def scaled_by_maximum(component: Scores) -> Float64:
    """The component divided by its own maximum over the last axis; zeros where that is not positive."""
    # In place: at training this is done to the scores of all items, and each copy would cost as much as the product.
    known = np.array(component, dtype=np.float64)
    known[~np.isfinite(known)] = 0.0
    maximum = known.max(axis=-1, keepdims=True, initial=0.0)
    known /= np.where(maximum > _NOTHING, maximum, np.inf)
    return known


def best_first(scores: Scores, k: int) -> Positions:
    """Positions of the k largest scores (n,), best first; equal scores in the order of the candidates."""
    if len(scores) > 4 * k:
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k] if k > 0 else np.inf
        near = np.flatnonzero(scores >= threshold)
        return near[np.argsort(-scores[near], kind="stable")][:k]
    return np.argsort(-scores, kind="stable")[:k]


def best_first_of_rows(scores: Scores, k: int) -> tuple[Codes, Positions]:
    """`best_first` of each row (rows, n) that has anything: the rows, ascending, and the position of each in its row.

    A score of −∞ is that of nobody, and a row may so have fewer than k.
    """
    n = scores.shape[1]
    is_near = scores > -np.inf
    if 0 < k < n:
        is_near &= scores >= np.partition(scores, n - k, axis=1)[:, n - k, None]
    rows, positions = np.nonzero(is_near)
    order = np.lexsort((-scores[rows, positions], rows))
    rows, positions = rows[order], positions[order]
    places = np.arange(len(rows)) - np.searchsorted(rows, rows)
    return rows[places < k], positions[places < k]
