"""The matrix that algorithms learn from, made of a tenant's signals."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsvc.domain.arrays import Codes, Float64, Interactions, Mask
from recsvc.domain.errors import NotEnoughData
from recsvc.storage.models import Signals

_LEAST_USERS, _LEAST_ITEMS, _LEAST_INTERACTIONS = 2, 2, 10


@dataclass(frozen=True, slots=True)
class Pairs:
    """(pairs,) each: what users did with items, and when last."""

    users: Codes
    items: Codes
    times: Float64


NO_PAIRS = Pairs(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))


@dataclass(frozen=True, slots=True)
class Dataset:
    """Positive interactions; user_keys and item_keys name the rows and columns, `users` and `items` the pairs.

    signals: (pairs,), what the events of each pair add up to, above 0. signal_power: how much of that counts, 0 = every
    pair alike, 1 = in proportion. disliked: pairs with a negative signal, of the same users and items;
    disliked_strength: what each of them counts, 0 = nothing. rejected: keys of further items, which somebody disliked
    and nobody liked.
    """

    user_keys: NDArray[np.int64]
    item_keys: NDArray[np.int64]
    users: Codes
    items: Codes
    times: Float64
    signals: Float64
    signal_power: float = 0.0
    disliked: Pairs = NO_PAIRS
    disliked_strength: float = 0.0
    rejected: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def shape(self) -> tuple[int, int]:
        """Users and items."""
        return len(self.user_keys), len(self.item_keys)

    def liked(self, mask: Mask | None = None) -> Interactions:
        """(users, items) with signal^power where a user likes an item; mask: which pairs to take."""
        users = self.users if mask is None else self.users[mask]
        items = self.items if mask is None else self.items[mask]
        signals = self.signals if mask is None else self.signals[mask]
        return sparse.csr_matrix(
            (np.power(signals, self.signal_power).astype(np.float32), (users, items)), shape=self.shape
        )

    def interactions(self, mask: Mask | None = None, until: float = np.inf) -> Interactions:
        """What models learn from: what is liked, and with a strength of its own what is disliked.

        mask: which liked pairs to take; until: seconds since 1970, the latest disliked ones to take.
        """
        liked = self.liked(mask)
        if not self.disliked_strength:
            return liked
        taken = self.disliked.times <= until
        strengths = np.full(int(taken.sum()), self.disliked_strength, dtype=np.float32)
        disliked = sparse.csr_matrix((strengths, (self.disliked.users[taken], self.disliked.items[taken])), self.shape)
        return sparse.csr_matrix(liked + disliked)

    @property
    def counted(self) -> tuple[Pairs, Float64]:
        """All pairs that count in a history, the liked ones first, and their signals: −1 where disliked."""
        liked = Pairs(self.users, self.items, self.times)
        if not self.disliked_strength:
            return liked, self.signals
        joined = [
            np.concatenate([getattr(liked, name), getattr(self.disliked, name)]) for name in ("users", "items", "times")
        ]
        return Pairs(*joined), np.concatenate([self.signals, np.full(len(self.disliked.users), -1.0)])


def from_signals(signals: Signals) -> Dataset:
    """The dataset of all positive signals.

    Raises NotEnoughData when there is nothing to learn from.
    """
    liked = np.flatnonzero(signals.signals > 0)
    # Rows come in the order of whatever plan was used; the same events must give the same split, and so the same model.
    liked = liked[np.lexsort((signals.item_keys[liked], signals.user_keys[liked]))]
    user_keys, users = np.unique(signals.user_keys[liked], return_inverse=True)
    item_keys, items = np.unique(signals.item_keys[liked], return_inverse=True)
    if len(user_keys) < _LEAST_USERS or len(item_keys) < _LEAST_ITEMS or len(users) < _LEAST_INTERACTIONS:
        raise NotEnoughData(
            f"training needs at least {_LEAST_USERS} users, {_LEAST_ITEMS} items and {_LEAST_INTERACTIONS} positive "
            f"interactions; there are {len(user_keys)}, {len(item_keys)} and {len(users)}"
        )
    return Dataset(
        user_keys,
        item_keys,
        users,
        items,
        signals.times[liked],
        signals.signals[liked],
        disliked=_disliked(signals, user_keys, item_keys),
        rejected=np.setdiff1d(signals.item_keys[signals.signals < 0], item_keys),
    )


def _disliked(signals: Signals, user_keys: NDArray[np.int64], item_keys: NDArray[np.int64]) -> Pairs:
    """The pairs with a negative signal of users and items that are liked or like something."""
    mask = signals.signals < 0
    mask &= np.isin(signals.user_keys, user_keys) & np.isin(signals.item_keys, item_keys)
    found = np.flatnonzero(mask)
    found = found[np.lexsort((signals.item_keys[found], signals.user_keys[found]))]
    return Pairs(
        np.searchsorted(user_keys, signals.user_keys[found]),
        np.searchsorted(item_keys, signals.item_keys[found]),
        signals.times[found],
    )
