"""Item–item matrices that are never held whole: made in blocks of rows, of which the strongest weights are kept.

However dense the co-occurrence of a catalogue is, memory is bounded by one block and by what is kept. Knows nothing of
how the weights are made.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from recsvc.domain.arrays import Codes, Float32, Float64, Interactions
from recsvc.training.algorithms.interface import ItemNeighbors


def product_sizes(signals: Interactions) -> Float64:
    """For each item, a bound on how many items share a user with it."""
    history_lengths = np.diff(signals.indptr).astype(np.float64)
    entry_sizes = np.repeat(history_lengths, np.diff(signals.indptr))
    sizes = np.bincount(signals.indices, weights=entry_sizes, minlength=signals.shape[1])
    return np.minimum(sizes, signals.shape[1])


def row_blocks(sizes: Float64, limit: float) -> Iterator[tuple[int, int]]:
    """Consecutive ranges whose sizes add up to at most `limit`, or single items that are larger."""
    start, total = 0, 0.0
    for item, size in enumerate(sizes.tolist()):
        if total + size > limit and item > start:
            yield start, item
            start, total = item, 0.0
        total += size
    if start < len(sizes):
        yield start, len(sizes)


class StrongestWeights:
    """Takes the rows of an item–item matrix in order and keeps the `k` weights of largest magnitude of each."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._counts: list[int] = []
        self._indices: list[NDArray[np.int32]] = []
        self._weights: list[Float32] = []

    def add_row(self, items: Codes, weights: Float32) -> None:
        """The next row; what it weighs itself and weights of 0 are left out."""
        kept_items, kept_weights = strongest(items, weights, len(self._counts), self._k)
        self._counts.append(len(kept_items))
        self._indices.append(kept_items)
        self._weights.append(kept_weights)

    def add_rows(self, rows: Interactions) -> None:
        """The next rows, one after the other."""
        for start, stop in zip(rows.indptr[:-1].tolist(), rows.indptr[1:].tolist(), strict=True):
            self.add_row(rows.indices[start:stop], rows.data[start:stop])

    def neighbors(self) -> ItemNeighbors:
        """What was kept."""
        return ItemNeighbors(
            np.concatenate(([0], np.cumsum(np.array(self._counts, dtype=np.int64)))),
            np.concatenate(self._indices) if self._indices else np.zeros(0, np.int32),
            np.concatenate(self._weights) if self._weights else np.zeros(0, np.float32),
        )


def strongest(items: Codes, weights: Float32, itself: int, k: int) -> tuple[NDArray[np.int32], Float32]:
    """The k weights of largest magnitude without the item itself, strongest first; equal ones in the order of items."""
    others = (items != itself) & (weights != 0)
    items, weights = items[others], weights[others]
    magnitudes = np.abs(weights)
    if len(items) > k:
        # Everything tied with the k-th stays until the sort, so that ties break by item and not by partition order.
        threshold = np.partition(magnitudes, len(magnitudes) - k)[len(magnitudes) - k]
        near = magnitudes >= threshold
        items, weights, magnitudes = items[near], weights[near], magnitudes[near]
    order = np.lexsort((items, -magnitudes))[:k]
    return items[order].astype(np.int32), weights[order].astype(np.float32)


def largest_per_row(weights: Interactions, k: int) -> ItemNeighbors:
    """The k entries of each row that are largest in magnitude; see `StrongestWeights`."""
    kept = StrongestWeights(k)
    kept.add_rows(weights)
    return kept.neighbors()
