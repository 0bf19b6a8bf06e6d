"""The co-occurrence matrix X'X of a catalogue, as local regressions ask for it: small dense parts of it, by items.

Up to some ten thousand items it is held dense in half precision: a part is then a look-up. Beyond that it is held
sparse, and where even that is too much, only the strongest of each item are, and the rest count as 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsvc.domain.arrays import Codes, Float32, Float64, Interactions
from recsvc.training.algorithms.cooccurrence import StrongestWeights, product_sizes, row_blocks
from recsvc.training.algorithms.interface import ItemNeighbors, Progress
from recsvc.training.algorithms.normalisation import power_or_zero, scaled

_BLOCK_ENTRIES = 16_000_000
"""Upper bound on the entries of one block's product: about 200 MB while it is made."""

_DENSE_ROWS = 500
"""Rows that are dense in single precision at once."""

DENSE_BYTES = 4 * 2**30
"""Most memory of a dense matrix, 46,000 items: looking up a part is ten times as fast as in the sparse one."""

SPARSE_ENTRIES = 160_000_000
"""Co-occurrences held in the sparse one: 1.3 GB, twice that while they are joined."""

_LARGEST_HALF = 2.0**15


@dataclass(frozen=True, slots=True)
class Gram:
    """squares: (n,), the diagonal; supports: for each item those of the highest cosines with it, and the cosines.

    among: (k,) items → (k, k) what they have in common, but for the diagonal.
    """

    squares: Float64
    supports: ItemNeighbors
    among: Callable[[Codes], Float32]

    @classmethod
    def of(cls, matrix: Interactions, support: int, progress: Progress) -> Gram:
        """X'X of `matrix` X (users × items), and the `support` strongest of each item."""
        item_count = matrix.shape[1]
        entries = matrix.data.astype(np.float64)
        squares: Float64 = np.bincount(matrix.indices, weights=entries**2, minlength=item_count).astype(np.float64)
        lengths = power_or_zero(squares, -0.5)
        sizes = product_sizes(matrix)
        held: _HalfDense | _Sparse
        if 2 * item_count**2 <= DENSE_BYTES:
            held = _HalfDense(item_count, float(squares.max(initial=1.0)))
        else:
            held = _Sparse(squares, max(support, SPARSE_ENTRIES // item_count), sizes.sum() <= SPARSE_ENTRIES)
        by_item = matrix.T.tocsr()
        supports = StrongestWeights(support)
        for start, stop in row_blocks(sizes, _BLOCK_ENTRIES):
            block = (by_item[start:stop] @ matrix).tocsr()
            cosines = scaled(block, lengths[start:stop], lengths)
            supports.add_rows(cosines)
            held.add(start, block, cosines)
            progress(stop / item_count)
        held.finish()
        return cls(squares, supports.neighbors(), held.among)


class _HalfDense:
    """Everything, scaled to where half precision reaches."""

    def __init__(self, item_count: int, largest: float) -> None:
        # By Cauchy and Schwarz no entry is above the largest of the diagonal.
        self._unit = np.float32(2.0 ** np.floor(np.log2(_LARGEST_HALF / max(largest, 1e-30))))
        self._entries = np.zeros((item_count, item_count), dtype=np.float16)

    def add(self, start: int, block: Interactions, _cosines: Interactions) -> None:
        for first in range(0, block.shape[0], _DENSE_ROWS):
            rows = block[first : first + _DENSE_ROWS]
            self._entries[start + first : start + first + rows.shape[0]] = rows.toarray() * self._unit

    def finish(self) -> None:
        """Nothing is left to do."""

    def among(self, items: Codes) -> Float32:
        return self._entries[items[:, np.newaxis], items].astype(np.float32) / self._unit


class _Sparse:
    """The upper triangle, whole or only the strongest of either item."""

    def __init__(self, squares: Float64, kept: int, is_whole: np.bool_ | bool) -> None:
        self._squares = squares
        self._blocks: list[Interactions] = []
        self._strongest = None if is_whole else StrongestWeights(kept)
        self._upper: Interactions | None = None

    def add(self, start: int, block: Interactions, cosines: Interactions) -> None:
        if self._strongest is not None:
            self._strongest.add_rows(cosines)
        else:
            self._blocks.append(sparse.csr_matrix(sparse.triu(block, start + 1, format="csr")))

    def finish(self) -> None:
        """Join what was added."""
        if self._strongest is None:
            self._upper = sparse.csr_matrix(sparse.vstack(self._blocks, format="csr"), copy=False)
            self._blocks = []
            return
        strongest = self._strongest.neighbors().matrix()
        either = sparse.csr_matrix(sparse.triu(strongest.maximum(strongest.T), 1, format="csr"))
        self._upper = scaled(either, np.sqrt(self._squares), np.sqrt(self._squares))

    def among(self, items: Codes) -> Float32:
        assert self._upper is not None  # noqa: S101  (finished before it is asked)
        place: NDArray[np.int32] = np.full(self._upper.shape[0], -1, dtype=np.int32)
        place[items] = np.arange(len(items), dtype=np.int32)
        rows_of_items = self._upper[items]
        columns = place[rows_of_items.indices]
        found = np.flatnonzero(columns >= 0)
        rows, columns = np.searchsorted(rows_of_items.indptr, found, side="right") - 1, columns[found]
        part = np.zeros((len(items), len(items)), dtype=np.float32)
        part[rows, columns] = part[columns, rows] = rows_of_items.data[found]
        return part
