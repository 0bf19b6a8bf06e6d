"""Item–item weights from random walks over the bipartite graph: RP3beta with free degree exponents.

    S_ji = d_j^-α · Σ_u r_uj · d_u^-γ · r_ui · d_i^-β

is the walk j → u → i with its transition probabilities raised to powers, damped by the popularity of where it ends
(Paudel, Christoffel, Newell, Bernstein 2017: α = γ; β their beta). Only the best `k` of each item are kept. The product
is made in blocks of items, so that memory stays bounded however dense the co-occurrence is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recsvc.domain.arrays import Float32, Float64, Interactions
from recsvc.training.algorithms.interface import ItemNeighbors, Progress, no_progress
from recsvc.training.algorithms.normalisation import degrees, positive, power_or_zero, scaled

_BLOCK_ENTRIES = 16_000_000
"""Upper bound on the entries of one block's product: about 200 MB while it is made."""


@dataclass(frozen=True, slots=True)
class NeighborsConfig:
    """Hyper-parameters of the item–item weights."""

    k: int = 100
    """Neighbours kept per item; serving reads this many for every item that the user touched."""

    source_degree_exponent: float = 0.6
    """α: how much a popular item is damped as evidence."""

    user_degree_exponent: float = 0.6
    """γ: how much a user with a long history is damped."""

    target_degree_exponent: float = 0.3
    """β: how much a popular item is damped as a suggestion."""


@dataclass(frozen=True, slots=True)
class Neighbors:
    """The algorithm; `fit` has no state."""

    config: NeighborsConfig = NeighborsConfig()

    def fit(self, interactions: Interactions, progress: Progress = no_progress) -> ItemNeighbors:
        """Weights of `interactions` (users × items); entries ≤ 0 are ignored."""
        config = self.config
        signals = positive(interactions)
        item_count = signals.shape[1]
        user_degrees, item_degrees = degrees(signals)
        source = power_or_zero(item_degrees, -config.source_degree_exponent)
        user = power_or_zero(user_degrees, -config.user_degree_exponent / 2)
        target = power_or_zero(item_degrees, -config.target_degree_exponent)
        to_users = scaled(signals, user, source).T.tocsr()
        to_items = scaled(signals, user, target)

        counts = np.zeros(item_count, dtype=np.int64)
        indices: list[np.ndarray[tuple[int], np.dtype[np.int32]]] = []
        weights: list[Float32] = []
        for start, stop in _blocks(_product_sizes(signals), _BLOCK_ENTRIES):
            product = (to_users[start:stop] @ to_items).tocsr()
            for row in range(stop - start):
                inside = slice(product.indptr[row], product.indptr[row + 1])
                items, row_weights = _best(product.indices[inside], product.data[inside], start + row, config.k)
                counts[start + row] = len(items)
                indices.append(items)
                weights.append(row_weights)
            progress(stop / item_count)
        progress(1.0)
        return ItemNeighbors(
            np.concatenate(([0], np.cumsum(counts))),
            np.concatenate(indices) if indices else np.zeros(0, np.int32),
            np.concatenate(weights) if weights else np.zeros(0, np.float32),
        )


def _product_sizes(signals: Interactions) -> Float64:
    """For each item, a bound on how many items share a user with it."""
    history_lengths = np.diff(signals.indptr).astype(np.float64)
    entry_sizes = np.repeat(history_lengths, np.diff(signals.indptr))
    sizes = np.bincount(signals.indices, weights=entry_sizes, minlength=signals.shape[1])
    return np.minimum(sizes, signals.shape[1])


def _blocks(sizes: Float64, limit: int) -> Iterator[tuple[int, int]]:
    """Consecutive ranges whose sizes add up to at most `limit`, or single items that are larger."""
    start, total = 0, 0.0
    for item, size in enumerate(sizes.tolist()):
        if total + size > limit and item > start:
            yield start, item
            start, total = item, 0.0
        total += size
    if start < len(sizes):
        yield start, len(sizes)


def _best(
    items: np.ndarray[tuple[int], np.dtype[np.int32]], weights: Float32, itself: int, k: int
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int32]], Float32]:
    """The k largest weights without the item itself, best first; equal weights in the order of the items."""
    others = items != itself
    items, weights = items[others], weights[others]
    if len(items) > k:
        # Everything tied with the k-th stays until the sort, so that ties break by item and not by partition order.
        threshold = np.partition(weights, len(weights) - k)[len(weights) - k]
        near = weights >= threshold
        items, weights = items[near], weights[near]
    order = np.lexsort((items, -weights))[:k]
    return items[order].astype(np.int32), weights[order].astype(np.float32)
