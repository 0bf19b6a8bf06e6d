"""Which interactions a model may learn from and which it is judged by.

Each function takes parallel arrays of one entry per interaction and gives two masks over them. Whatever the method, a
held-out pair that is also in the training part is dropped: seen items are not recommended, so it could never be hit.
So is a user without a training interaction: nothing could be known about them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from recsvc.domain.arrays import Codes, Float64, Mask


@dataclass(frozen=True, slots=True)
class Split:
    """Masks (n,) over the interactions; an interaction may be in neither."""

    train: Mask
    test: Mask


def temporal_split(users: Codes, items: Codes, times: ArrayLike, test_share: float) -> Split:
    """Learn from the past: the last `test_share` of all interactions by time is held out. Equal times stay together."""
    moments = np.asarray(times, dtype=np.float64)
    if len(moments) == 0:
        return given_split(users, items, np.zeros(0, dtype=np.bool_))
    threshold = np.quantile(moments, 1.0 - test_share, method="higher")
    return given_split(users, items, moments > threshold)


def leave_last_out(users: Codes, items: Codes, times: ArrayLike, count: int = 1) -> Split:
    """Hold out each user's last `count` interactions; users with no more than that stay whole in the training part."""
    moments = np.asarray(times, dtype=np.float64)
    return given_split(users, items, _from_the_end(users, moments, count))


def random_split(users: Codes, items: Codes, test_share: float, seed: int) -> Split:
    """Hold out a random `test_share` of each user's interactions, rounded; at least one always stays."""
    keys = np.random.default_rng(seed).random(len(users))
    sizes = np.bincount(users, minlength=0)
    counts = np.minimum(np.floor(sizes * test_share + 0.5).astype(np.int64), np.maximum(sizes - 1, 0))
    return given_split(users, items, _rank_from_the_end(users, keys) < counts[users])


def given_split(users: Codes, items: Codes, is_test: Mask) -> Split:
    """The caller's own split, without what could never be hit."""
    train = ~np.asarray(is_test, dtype=np.bool_)
    known_user = np.isin(users, users[train])
    pairs = np.asarray(users, dtype=np.int64) * (int(np.max(items, initial=0)) + 1) + items
    repeated = np.isin(pairs, pairs[train])
    return Split(train, ~train & known_user & ~repeated)


def _from_the_end(users: Codes, keys: Float64, count: int) -> Mask:
    sizes = np.bincount(users, minlength=0)
    return (_rank_from_the_end(users, keys) < count) & (sizes[users] > count)


def _rank_from_the_end(users: Codes, keys: Float64) -> Codes:
    """For each entry, how many of the same user have a larger key; equal keys in the order given."""
    order = np.lexsort((keys, users))
    sizes = np.bincount(users, minlength=0)
    ends = np.cumsum(sizes)
    ranks = np.empty(len(users), dtype=np.int64)
    ranks[order] = ends[users[order]] - 1 - np.arange(len(users))
    return ranks
