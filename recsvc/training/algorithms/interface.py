"""What a trained algorithm leaves behind: item factors and item–item weights, and how either scores a user.

Both are item-side only: everything about a user is a weighted sum over the items they touched, so that a new event is
taken into account without retraining and the same arithmetic can run inside SQL. Knows nothing of storage or events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from scipy import sparse

from recsvc.domain.arrays import Float32, Interactions
from recsvc.training.algorithms.normalisation import scaled

Progress: TypeAlias = Callable[[float], None]
"""Told the share of the work that is done, 0–1, never falling."""


def no_progress(_share: float) -> None:
    """For callers that do not watch."""


@dataclass(frozen=True, slots=True)
class ItemFactors:
    """Item vectors with closed-form fold-in.

    vectors: (n_items, d), what retrieval searches by inner product; fold_in_scales: (n_items,).
    User vector: u = Σ_j w_j · fold_in_scales_j · vectors_j over the touched items j with signals w_j.
    score(i) = u · vectors_i.
    An item that nobody touched has the zero vector and scale 0.
    """

    vectors: Float32
    fold_in_scales: Float32

    @property
    def dimension(self) -> int:
        return int(self.vectors.shape[1])

    def rescaled(self) -> ItemFactors:
        """The same scores from vectors that lie where half precision is finest: times a power of two."""
        largest = float(np.abs(self.vectors).max(initial=0.0))
        unit = 1.0 if largest == 0.0 else float(2.0 ** np.floor(np.log2(16.0 / largest)))
        return ItemFactors(
            (self.vectors * unit).astype(np.float32, copy=False),
            (self.fold_in_scales / unit**2).astype(np.float32, copy=False),
        )

    def fold_in(self, interactions: Interactions) -> Float32:
        """User vectors, (n_users, d), of the rows of `interactions`."""
        weighted = scaled(interactions, np.ones(interactions.shape[0]), self.fold_in_scales)
        return np.asarray(weighted @ self.vectors, dtype=np.float32)

    def scores(self, interactions: Interactions) -> Float32:
        """Exact scores, (n_users, n_items); the caller keeps the number of rows small."""
        return self.fold_in(interactions) @ self.vectors.T


@dataclass(frozen=True, slots=True)
class ItemNeighbors:
    """Sparse item–item weights S as CSR: row j lists the items that follow from j, strongest first.

    score(i) = Σ_j w_j · S_ji over the touched items j. An item is never its own neighbour. A weight may be negative;
    strongest is what has the largest magnitude.
    """

    indptr: np.ndarray[tuple[int], np.dtype[np.int64]]
    indices: np.ndarray[tuple[int], np.dtype[np.int32]]
    weights: Float32

    @property
    def item_count(self) -> int:
        return len(self.indptr) - 1

    def matrix(self) -> Interactions:
        """The weights as a sparse matrix (n_items, n_items)."""
        size = (self.item_count, self.item_count)
        return sparse.csr_matrix((self.weights, self.indices, self.indptr), shape=size)

    def scores(self, interactions: Interactions) -> Interactions:
        """Scores of the rows of `interactions`, sparse: what is absent has no neighbour among the touched items."""
        return (interactions @ self.matrix()).tocsr()


class FactorAlgorithm(Protocol):
    """Learns item vectors."""

    def fit(self, interactions: Interactions, progress: Progress = no_progress) -> ItemFactors: ...


class NeighborAlgorithm(Protocol):
    """Learns item–item weights."""

    def fit(self, interactions: Interactions, progress: Progress = no_progress) -> ItemNeighbors: ...
