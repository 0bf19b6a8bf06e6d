"""How much each item was touched: the baseline that every model must beat, and the p(i) of novelty and coverage."""

from __future__ import annotations

import numpy as np

from recsvc.domain.arrays import Float64, Interactions


def item_popularity(interactions: Interactions) -> Float64:
    """(n_items,): the number of users with a positive signal about the item."""
    positive = interactions.data > 0
    return np.bincount(interactions.indices[positive], minlength=interactions.shape[1]).astype(np.float64)


def popularity_scores(interactions: Interactions, user_count: int) -> Float64:
    """(user_count, n_items): the same score for everybody, as a read-only view that costs one row."""
    popularity = item_popularity(interactions)
    return np.broadcast_to(popularity, (user_count, len(popularity)))
