"""The algorithms that a model is compared with, each behind the same two methods and with defaults from its source.

None is tuned here; whoever states a figure of a baseline says so, or tunes it on a part of the train part. Seen items
are scored like all others: the caller masks them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsvc.domain.arrays import Codes, Float32, Float64, Interactions
from recsvc.training.algorithms.als import AlsConfig, item_factors, user_factors
from recsvc.training.algorithms.ease import Ease, EaseConfig
from recsvc.training.algorithms.interface import ItemNeighbors, NeighborAlgorithm, Progress, no_progress
from recsvc.training.algorithms.item_knn import ItemKnn
from recsvc.training.algorithms.normalisation import positive
from recsvc.training.algorithms.popularity import item_popularity
from recsvc.training.algorithms.sequences import MarkovTransitions, Sequences
from recsvc.training.algorithms.session_knn import SessionKnn


@dataclass(frozen=True, slots=True)
class TrainPart:
    """What a baseline may learn from.

    interactions: (users, items), what each user likes; users, items, times: the events behind it, one entry per event,
    in any order, times in seconds.
    """

    interactions: Interactions
    users: Codes
    items: Codes
    times: Float64

    def sequences(self) -> Sequences:
        """What users liked one after another."""
        return Sequences.of(self.users, self.items, self.times, self.interactions.shape[1])


ITEM_KNN = ItemKnn()
EASE = Ease(
    EaseConfig(
        k=1000,
        regularisation=250.0,
        dropout=0.0,
        user_degree_exponent=0.0,
        output_exponent=0.0,
        dense_items=20_000,
    )
)
"""As published, but that keeps every weight, and this the thousand largest of each item. λ is what libraries set by
default; beyond 20,000 items it is the local approximation."""
ALS = AlsConfig()


class Baseline(Protocol):
    """Learns from the train part of a split and scores its users."""

    name: str

    def fit(self, part: TrainPart, progress: Progress = no_progress) -> None: ...

    def scores(self, users: NDArray[np.int64]) -> Float32:
        """(len(users), n_items), higher is better, 0 where there is nothing to say; the caller asks for few at once."""
        ...


class Popularity:
    """The number of users who like an item, the same for everybody."""

    name = "popularity"

    def fit(self, part: TrainPart, progress: Progress = no_progress) -> None:
        self._popularity = item_popularity(part.interactions).astype(np.float32)
        progress(1.0)

    def scores(self, users: NDArray[np.int64]) -> Float32:
        return np.tile(self._popularity, (len(users), 1))


class ByNeighbors:
    """Item–item weights summed over all that a user likes."""

    def __init__(self, name: str, algorithm: NeighborAlgorithm) -> None:
        self.name = name
        self._algorithm = algorithm

    def fit(self, part: TrainPart, progress: Progress = no_progress) -> None:
        self._interactions = part.interactions
        self._neighbors = self._algorithm.fit(part.interactions, progress)

    def scores(self, users: NDArray[np.int64]) -> Float32:
        return self._neighbors.scores(self._interactions[users]).toarray()


class ExactAls:
    """Implicit ALS with each user's own factor, solved exactly for the final item factors."""

    name = "als"

    def __init__(self, config: AlsConfig = ALS) -> None:
        self._config = config

    def fit(self, part: TrainPart, progress: Progress = no_progress) -> None:
        signals = positive(part.interactions)
        if signals.nnz == 0:
            user_count, item_count = signals.shape
            self._users, self._items = np.zeros((user_count, 1), np.float32), np.zeros((item_count, 1), np.float32)
        else:
            self._items = item_factors(signals, self._config, lambda share: progress(0.95 * share))
            self._users = user_factors(signals, self._items, self._config)
        progress(1.0)

    def scores(self, users: NDArray[np.int64]) -> Float32:
        return self._users[users] @ self._items.T


class LastTransitions:
    """First-order Markov chain: what follows the items of a user's last step."""

    name = "transitions"

    def fit(self, part: TrainPart, progress: Progress = no_progress) -> None:
        sequences = part.sequences()
        self._last = _last_items(sequences, part.interactions.shape[0])
        self._transitions: ItemNeighbors = MarkovTransitions().fit(sequences, progress)

    def scores(self, users: NDArray[np.int64]) -> Float32:
        return self._transitions.scores(self._last[users]).toarray()


class SessionNeighbors:
    """V-SkNN with each user's history as a session."""

    name = "vsknn"

    def fit(self, part: TrainPart, progress: Progress = no_progress) -> None:
        self._memory = SessionKnn.of(part.sequences(), part.interactions.shape[0])
        progress(1.0)

    def scores(self, users: NDArray[np.int64]) -> Float32:
        return self._memory.scores(users)


BASELINES: Mapping[str, Callable[[], Baseline]] = MappingProxyType(
    {
        "popularity": Popularity,
        "item-knn": lambda: ByNeighbors("item-knn", ITEM_KNN),
        "als": ExactAls,
        "ease": lambda: ByNeighbors("ease", EASE),
        "transitions": LastTransitions,
        "vsknn": SessionNeighbors,
    }
)
"""By name; each call makes a fresh one."""


def _last_items(sequences: Sequences, user_count: int) -> Interactions:
    """(user_count, n_items): 1 for the items of each user's last step."""
    last_step = np.zeros(user_count, dtype=np.int64)
    np.maximum.at(last_step, sequences.users, sequences.steps)
    is_last = sequences.steps == last_step[sequences.users]
    users, items = sequences.users[is_last], sequences.items[is_last]
    return sparse.csr_matrix(
        (np.ones(len(users), dtype=np.float32), (users, items)), shape=(user_count, sequences.item_count)
    )
