"""Which interactions a model may learn from and which it is judged by.

Each function takes parallel arrays of one entry per interaction and gives masks over them. Whatever the method, a
held-out pair that is also known before is dropped: seen items are not recommended, so it could never be hit. So is a
user of whom nothing is known when the question is asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from recsvc.domain.arrays import Codes, Float64, Mask


@dataclass(frozen=True, slots=True)
class Split:
    """Masks (n,) over the interactions; an interaction may be in none.

    train: what is learned from. test: what must be found. known: what is not learned from, but told before the
    question is asked; None for nothing.
    """

    train: Mask
    test: Mask
    known: Mask | None = None

    @property
    def told(self) -> Mask:
        """train and known together."""
        return self.train if self.known is None else self.train | self.known


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


def user_held_out_split(users: Codes, items: Codes, user_share: float, hidden_share: float, seed: int) -> Split:
    """Strong generalisation (Marlin 2004): `user_share` of the users, rounded, is kept out of training wholly.

    Of each of them a random `hidden_share` is to be found, and the rest is told once training is over.
    """
    rng = np.random.default_rng(seed)
    everybody = np.unique(users)
    kept_out = rng.choice(everybody, int(len(everybody) * user_share + 0.5), replace=False)
    is_out = np.isin(users, kept_out)
    hidden = np.zeros(len(users), dtype=np.bool_)
    theirs = np.flatnonzero(is_out)
    hidden[theirs] = ~random_split(users[theirs], items[theirs], hidden_share, int(rng.integers(2**31))).train
    known = is_out & ~hidden
    return Split(~is_out, hidden & _can_be_found(users, items, known, hidden), known)


def next_item_split(users: Codes, items: Codes, times: ArrayLike, test_share: float) -> Split:
    """Learn from the past, and predict every later step from all that the same user did before it.

    The past ends where `temporal_split` ends it. To be found is an item at its user's first event with it, unless
    nothing came before that; equal times of a user are one step.
    """
    moments = np.asarray(times, dtype=np.float64)
    train = temporal_split(users, items, moments, test_share).train
    if len(moments) == 0:
        return Split(train, train)
    return Split(
        train, ~train & (moments > _first_time(users, moments)[users]) & _is_first_of_pair(users, items, moments)
    )


def given_split(users: Codes, items: Codes, is_test: Mask) -> Split:
    """The caller's own split, without what could never be hit."""
    train = ~np.asarray(is_test, dtype=np.bool_)
    return Split(train, ~train & _can_be_found(users, items, train, ~train))


def _can_be_found(users: Codes, items: Codes, told: Mask, wanted: Mask) -> Mask:
    """Whether the user of a wanted entry has anything told, and not this very item."""
    found = np.zeros(len(users), dtype=np.bool_)
    entries = np.flatnonzero(wanted)
    pairs = _pairs(users, items)
    found[entries] = np.isin(users[entries], users[told]) & ~np.isin(pairs[entries], pairs[told])
    return found


def _pairs(users: Codes, items: Codes) -> Codes:
    """One number for each pair of user and item."""
    return np.asarray(users, dtype=np.int64) * (int(np.max(items, initial=0)) + 1) + items


def _first_time(users: Codes, moments: Float64) -> Float64:
    """For each user the time of their first entry."""
    first = np.full(int(np.max(users, initial=-1)) + 1, np.inf)
    np.minimum.at(first, users, moments)
    return first


def _is_first_of_pair(users: Codes, items: Codes, moments: Float64) -> Mask:
    """Whether an entry is the earliest of its user with its item; of equal times the first one given."""
    pairs = _pairs(users, items)
    order = np.lexsort((moments, pairs))
    first = np.zeros(len(users), dtype=np.bool_)
    first[order] = np.append(True, np.diff(pairs[order]) != 0)[: len(users)]
    return first


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
