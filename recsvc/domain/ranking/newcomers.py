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
    silent: Sequence[str] = ("neighbors", "sequence"),
    credited_to: str = "content",
) -> Blended:
    """The same scores, with an estimate of the silent sources' contributions for new items credited to their content.

    told: (n,), the scores of the source that knows new items, whether or not it counts in the blend; NaN where it knows
    none. is_new: (n,), candidates that training did not know. The estimate is the linear regression, over the other
    candidates, of what the silent sources contribute on what is told; within what they are told and contribute, since
    a line says nothing of what lies beyond its points.
    """
    parts = [blended.contributions[name] for name in silent if name in blended.contributions]
    if not parts or not is_new.any() or int((~is_new).sum()) < _LEAST_KNOWN:
        return blended
    whole = np.sum(parts, axis=0)
    shares = scaled_by_maximum(told)
    known, said = shares[~is_new], whole[~is_new]
    slope, level = _regression(known, said)
    expected = np.clip(level + slope * np.clip(shares, known.min(), known.max()), said.min(), said.max())
    estimate = np.where(is_new & (shares > 0), np.maximum(expected - whole, 0.0), 0.0)
    contributions = dict(blended.contributions)
    contributions[credited_to] = contributions.get(credited_to, np.zeros_like(estimate)) + estimate
    return Blended(blended.scores + estimate, contributions)


def _regression(x: Float64, y: Float64) -> tuple[float, float]:
    """Slope and level of y over x by least squares."""
    centred = x - x.mean()
    variance = float(centred @ centred)
    slope = float(centred @ y) / variance if variance > _NOTHING else 0.0
    return slope, float(y.mean() - slope * x.mean())
