"""The matrix that algorithms learn from, made of a tenant's signals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsvc.domain.arrays import Codes, Float64, Interactions
from recsvc.domain.errors import NotEnoughData
from recsvc.storage.models import Signals

_LEAST_USERS, _LEAST_ITEMS, _LEAST_INTERACTIONS = 2, 2, 10


@dataclass(frozen=True, slots=True)
class Dataset:
    """Positive interactions; user_keys and item_keys name the rows and columns, `users` and `items` the pairs.

    signals: (pairs,), what the events of each pair add up to, above 0. signal_power: how much of that counts, 0 = every
    pair alike, 1 = in proportion.
    """

    user_keys: NDArray[np.int64]
    item_keys: NDArray[np.int64]
    users: Codes
    items: Codes
    times: Float64
    signals: Float64
    signal_power: float = 0.0

    def interactions(self, mask: NDArray[np.bool_] | None = None) -> Interactions:
        """(users, items) with signal^power where a user likes an item; mask: which pairs to take."""
        users = self.users if mask is None else self.users[mask]
        items = self.items if mask is None else self.items[mask]
        signals = self.signals if mask is None else self.signals[mask]
        return sparse.csr_matrix(
            (np.power(signals, self.signal_power).astype(np.float32), (users, items)),
            shape=(len(self.user_keys), len(self.item_keys)),
        )


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
    return Dataset(user_keys, item_keys, users, items, signals.times[liked], signals.signals[liked])
