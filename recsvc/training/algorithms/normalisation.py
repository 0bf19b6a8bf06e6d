"""Degree normalisation of an interaction matrix: what every algorithm here does before it looks at structure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsvc.domain.arrays import Float64, Interactions


def positive(interactions: Interactions) -> Interactions:
    """The entries above 0, repeated ones summed: a dislike says nothing about what goes together."""
    signals = sparse.csr_matrix(interactions, dtype=np.float32, copy=True)
    signals.sum_duplicates()
    signals.data[signals.data < 0] = 0
    signals.eliminate_zeros()
    return signals


def degrees(signals: Interactions) -> tuple[Float64, Float64]:
    """The sums of the rows (users) and of the columns (items)."""
    rows, columns = signals.shape
    row_of_entry = np.repeat(np.arange(rows), np.diff(signals.indptr))
    weights = signals.data.astype(np.float64)
    return (
        np.bincount(row_of_entry, weights=weights, minlength=rows).astype(np.float64),
        np.bincount(signals.indices, weights=weights, minlength=columns).astype(np.float64),
    )


def power_or_zero(values: Float64, exponent: float) -> Float64:
    """values^exponent, and 0 for what nobody touched."""
    touched = values > 0
    return np.where(touched, np.power(np.where(touched, values, 1.0), exponent), 0.0)


def scaled(matrix: Interactions, rows: Float64, columns: NDArray[np.floating]) -> Interactions:
    """Each entry times its row's and its column's factor."""
    factors = np.repeat(rows, np.diff(matrix.indptr)) * columns[matrix.indices]
    return sparse.csr_matrix(
        ((matrix.data * factors).astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape
    )
