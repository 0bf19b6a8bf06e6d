"""What items say for others, in a form in which the rows of whole histories are added up quickly.

A sparse matrix of fixed-width blocks, a row being one or a few of them (blocked ELLPACK): to take rows out of it copies
whole blocks, and what a row counts is one factor for each block. A compressed sparse matrix looks at every entry for
either, which takes half as long again.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import sparse

from recsvc.domain.arrays import Codes, Float32

# As a rule rows are nearly all of one length, and then each is a block; else filling up costs no more than this.
_WIDTHS = (128, 64, 32)
_MOST_FILLED_UP = 1.25
_LEAST_WIDTH = 16
# Entries that are added up at a time: more would fall out of the processor's caches.
_ENTRIES = 150_000


@dataclass(frozen=True, slots=True)
class BlockedRows:
    """A matrix with float32 entries.

    columns, values: (blocks, width), filled up with zeros, which add nothing. starts: (rows + 1,), where the blocks of
    each row begin. width_of_rows: how many columns the matrix has.
    """

    columns: Codes
    values: Float32
    starts: Codes
    width_of_rows: int

    @classmethod
    def of(cls, matrix: sparse.csr_matrix[np.float32]) -> Self:
        """The same matrix."""
        lengths = np.diff(matrix.indptr)
        width = _width(lengths)
        starts = np.concatenate([[0], np.cumsum(_blocks(lengths, width))])
        places = np.repeat(starts[:-1] * width - matrix.indptr[:-1], lengths) + np.arange(matrix.nnz)
        columns = np.zeros((starts[-1], width), dtype=np.int32)
        columns.ravel()[places] = matrix.indices
        values = np.zeros(columns.shape, dtype=np.float32)
        values.ravel()[places] = matrix.data
        return cls(columns, values, starts, matrix.shape[1])

    @property
    def size_bytes(self) -> int:
        """Memory of all arrays."""
        return self.columns.nbytes + self.values.nbytes + self.starts.nbytes

    def sums(self, bounds: Codes, rows: Codes, factors: Float32) -> Float32:
        """(groups, columns): of each group the sum of its rows times their factors, in their order.

        rows, factors: of all groups, one after the other; bounds: (groups + 1,), where each group begins.
        """
        counts = self.starts[rows + 1] - self.starts[rows]
        ends = np.concatenate([[0], np.cumsum(counts)])
        blocks = np.repeat(self.starts[rows] - ends[:-1], counts) + np.arange(ends[-1])
        of_blocks = np.repeat(factors, counts)[:, None]
        cuts, width = ends[bounds], self.columns.shape[1]
        total = np.empty((len(bounds) - 1, self.width_of_rows), dtype=np.float32)
        for first, last in itertools.pairwise(_shares(cuts.tolist(), max(1, _ENTRIES // width))):
            start, end = cuts[first], cuts[last]
            values = self.values.take(blocks[start:end], axis=0)
            values *= of_blocks[start:end]
            columns = self.columns.take(blocks[start:end], axis=0)
            # Added up in place: a sparse product keeps a list of what it has met.
            of_groups = ((cuts[first : last + 1] - start) * width).astype(np.int32)
            sparse.csr_matrix(
                (values.ravel(), columns.ravel(), of_groups), shape=(last - first, self.width_of_rows)
            ).toarray(out=total[first:last])
        return total


def _width(lengths: Codes) -> int:
    longest, entries = int(lengths.max(initial=1)), int(lengths.sum())
    for width in (longest, *_WIDTHS):
        if width <= longest and int(_blocks(lengths, width).sum()) * width <= _MOST_FILLED_UP * entries:
            return width
    return _LEAST_WIDTH


def _blocks(lengths: Codes, width: int) -> Codes:
    """How many blocks rows of such lengths take."""
    return -(-lengths // width)


def _shares(cuts: Sequence[int], most: int) -> list[int]:
    """Which groups to begin a share with such that those of a share, but for the last, have fewer than `most` blocks.

    cuts: where the blocks of each group begin, and the end of the last.
    """
    shares = [0]
    for group, start in enumerate(cuts[:-1]):
        if start - cuts[shares[-1]] >= most:
            shares.append(group)
    return [*shares, len(cuts) - 1]
