"""What sources that learn from behaviour would say of items too new to have any.

A new item has a vector by its content, and so a collaborative score; but nobody has touched it together with anything,
so that item–item sources are silent. In a sum, silence would count as "no", and the more these sources weigh the less
a new item could ever be shown. It does not: what they would say is estimated from what they say of the other
candidates of the same list that score alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsvc.domain.arrays import Float64, Mask, Scores
from recsvc.domain.ranking.blend import Blended, scaled_by_maximum

_NOTHING = 1e-12
_LEAST_KNOWN = 10
"""Candidates that a regression needs."""


def with_estimates(
    blended: Blended,
    told: Scores,
    is_new: Mask,
    *,
    is_old: Mask | None = None,
    silent: Sequence[str] = ("neighbors", "sequence"),
    credited_to: str = "content",
) -> Blended:
    """The same scores, with an estimate of the silent sources' contributions for new items credited to their content.

    told: (…, n), the scores of the source that knows new items, whether or not it counts in the blend; NaN where it
    knows none. is_new: (…, n), candidates that training did not know; is_old: (…, n), those that it knew, default all
    others. The estimate is the linear regression, over the old candidates of the same list, of what the silent sources
    contribute on what is told; within what they are told and contribute, since a line says nothing of what lies beyond
    its points.
    """
    parts = [blended.contributions[name] for name in silent if name in blended.contributions]
    if not parts or not is_new.any():
        return blended
    is_old = ~is_new if is_old is None else is_old
    is_enough = is_old.sum(axis=-1, keepdims=True) >= _LEAST_KNOWN
    if not is_enough.any():
        return blended
    # What would be said of lists that have too few is not taken.
    is_old = is_old | ~is_enough
    whole = np.sum(parts, axis=0)
    shares = scaled_by_maximum(told)
    slope, level = _regression(shares, whole, is_old)
    expected = _within(level + slope * _within(shares, shares, is_old), whole, is_old)
    estimate = np.where(is_new & (shares > 0) & is_enough, np.maximum(expected - whole, 0.0), 0.0)
    contributions = dict(blended.contributions)
    contributions[credited_to] = contributions.get(credited_to, np.zeros_like(estimate)) + estimate
    return Blended(blended.scores + estimate, contributions)


def _regression(x: Float64, y: Float64, is_point: Mask) -> tuple[Float64, Float64]:
    """Slope and level (…, 1) of y over x by least squares, of the points (…, n) of each list."""
    points = np.maximum(is_point.sum(axis=-1, keepdims=True), 1)
    x_mean, y_mean = (np.where(is_point, each, 0.0).sum(axis=-1, keepdims=True) / points for each in (x, y))
    centred = np.where(is_point, x - x_mean, 0.0)
    variance = (centred * centred).sum(axis=-1, keepdims=True)
    covariance = (centred * y).sum(axis=-1, keepdims=True)
    slope = np.where(variance > _NOTHING, covariance / np.where(variance > _NOTHING, variance, 1.0), 0.0)
    return slope, y_mean - slope * x_mean


def _within(values: Float64, bounds: Float64, is_bound: Mask) -> Float64:
    """Values (…, n), no smaller and no larger than the bounds of their list."""
    least = np.where(is_bound, bounds, np.inf).min(axis=-1, keepdims=True)
    most = np.where(is_bound, bounds, -np.inf).max(axis=-1, keepdims=True)
    return np.asarray(np.clip(values, least, most))
