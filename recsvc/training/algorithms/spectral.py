"""Spectral item embeddings: a truncated SVD of the degree-normalised interaction matrix, with closed-form fold-in.

With R the signals, D_u and D_i the users' and items' degrees, and D_u^-a R D_i^-b ≈ U Σ V', a user with row r scores

    s = r · D_i^-b · V Σ^p V' · D_i^c

(PureSVD, Cremonesi et al. 2010, is a = b = c = p = 0; the ideal low-pass part of GF-CF, Shen et al. 2021, is
a = b = c = ½, p = 0). Because Σ^p splits evenly over both sides, one vector per item, V Σ^(p/2) D_i^c, and one scale
per item, D_i^-(b+c), hold the whole model. The SVD is the randomised range finder with block power iteration of Halko,
Martinsson, Tropp (2011, alg. 4.4 and 5.1).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from recsvc.domain.arrays import Float32, Float64, Interactions
from recsvc.training.algorithms.interface import ItemFactors, Progress, no_progress
from recsvc.training.algorithms.normalisation import degrees, positive, power_or_zero, scaled

Array = TypeVar("Array", Float32, Float64)

SMALLEST_DIMENSION = 16
"""Below this there is nothing to gain from fewer."""

_LEAST_BLOCK_ROWS = 4096
"""Users whose rows are multiplied at once, at least."""

_CORRECTABLE = 0.1
"""How far from orthonormal the first pass of CholeskyQR2 may leave a basis."""

_NULL_DIRECTION = 1e-5
"""Singular values below this share of the largest are rounding noise of single precision, not structure."""

_NULL_MATRIX = 1e-30
"""What stands for the largest singular value of a matrix of zeros."""


@dataclass(frozen=True, slots=True)
class SpectralConfig:
    """Hyper-parameters of the spectral embedding."""

    dimension: int = 1024
    """Length of an item vector, at most; small data gets fewer, see `rows_per_dimension`."""

    rows_per_dimension: float = 16.0
    """There are at least this many users and this many items for each dimension (but SMALLEST_DIMENSION are always
    allowed): beyond that directions are noise, and an ideal low-pass gives noise as much say as structure. On MovieLens
    100K, 943 users, NDCG@10 is .29 at 64 dimensions and .10 at 512; on Gowalla, 29,858 users, 512 beat 256."""

    user_degree_exponent: float = 0.3
    """a: how much a user with a long history is damped in the fit. 0 = every interaction counts the same."""

    item_degree_exponent: float = 0.5
    """b: how much a popular item is damped, in the fit and as evidence about a user."""

    output_exponent: float = 0.5
    """c: how much an item's popularity raises its score."""

    singular_value_power: float = 0.5
    """p: 0 = all directions count the same (ideal low-pass), larger = leading directions count more, so that a
    dimension too many costs little."""

    oversampling: int = 32
    """Extra random directions; they buy accuracy of the last singular vectors."""

    power_iterations: int = 4
    """Passes of block power iteration. The spectrum of interaction data falls slowly, so one or two are too few."""

    seed: int = 0
    """Of the random start."""

    threads: int | None = None
    """Threads for dense algebra; None = all that the machine gives."""


@dataclass(frozen=True, slots=True)
class Spectral:
    """The algorithm; `fit` has no state."""

    config: SpectralConfig = SpectralConfig()

    def fit(self, interactions: Interactions, progress: Progress = no_progress) -> ItemFactors:
        """Item vectors of `interactions` (users × items); entries ≤ 0 are ignored."""
        return Decomposition.of(interactions, self.config, progress).factors(self.config)


@dataclass(frozen=True, slots=True)
class Decomposition:
    """The costly part of a fit, which depends on the exponents a and b only: on it c, p and any smaller dimension
    can be tried for nothing.

    values: (d,); right: (n_items, d); item_degrees: (n_items,).
    """

    values: Float64
    right: Float32
    item_degrees: Float64

    @classmethod
    def of(cls, interactions: Interactions, config: SpectralConfig, progress: Progress = no_progress) -> Decomposition:
        """Decompose `interactions` (users × items) normalised by the config's a and b."""
        signals = positive(interactions)
        user_degrees, item_degrees = degrees(signals)
        normalised = scaled(
            signals,
            power_or_zero(user_degrees, -config.user_degree_exponent),
            power_or_zero(item_degrees, -config.item_degree_exponent),
        )
        with threadpool_limits(limits=config.threads, user_api="blas"):
            values, right = right_singular_vectors(normalised, config, progress)
        progress(1.0)
        return cls(values, right, item_degrees)

    @property
    def dimension(self) -> int:
        """How many directions were found: at most what was asked for."""
        return len(self.values)

    def factors(self, config: SpectralConfig) -> ItemFactors:
        """Item vectors by the config's c, p and dimension; its a and b are those of the decomposition."""
        leading = slice(0, config.dimension)
        vectors = self.right[:, leading] * self.values[leading] ** (config.singular_value_power / 2)
        vectors *= power_or_zero(self.item_degrees, config.output_exponent)[:, np.newaxis]
        scales = power_or_zero(self.item_degrees, -(config.item_degree_exponent + config.output_exponent))
        return ItemFactors(vectors.astype(np.float32), scales.astype(np.float32)).rescaled()


def right_singular_vectors(
    matrix: Interactions, config: SpectralConfig, progress: Progress = no_progress
) -> tuple[Float64, Float32]:
    """The leading singular values (d,) and right singular vectors (n, d) of `matrix`, without its null directions."""
    user_count, item_count = matrix.shape
    smaller_side = min(user_count, item_count)
    supported = max(int(smaller_side / config.rows_per_dimension), SMALLEST_DIMENSION)
    rank = min(config.dimension, supported, smaller_side)
    width = min(rank + config.oversampling, smaller_side)
    blocks = _row_blocks(matrix, config.threads)
    steps = config.power_iterations + 2
    rng = np.random.default_rng(config.seed)
    start = np.zeros((item_count, width), dtype=np.float32)
    for block in blocks.one_by_one():
        start += block.T @ rng.standard_normal((block.shape[0], width), dtype=np.float32)
    basis = orthonormal(start)
    progress(1 / steps)
    for iteration in range(config.power_iterations):
        basis = orthonormal(blocks.summed(partial(_normal_product, basis=basis), np.zeros_like(basis)))
        progress((iteration + 2) / steps)
    # The Gram matrix is small, and in double precision squaring the singular values costs nothing that we keep.
    squares, rotation = np.linalg.eigh(
        blocks.summed(partial(_gram_of_projection, basis=basis), np.zeros((width, width)))
    )
    values = np.sqrt(np.maximum(squares[::-1][:rank], 0.0))
    kept = values > _NULL_DIRECTION * max(values.max(initial=0.0), _NULL_MATRIX)
    leading = rotation[:, ::-1][:, :rank][:, kept].astype(np.float32)
    return values[kept], basis @ leading


@dataclass(frozen=True, slots=True)
class _RowBlocks:
    """A matrix in blocks of rows, so that nothing as long as all users and as wide as the basis is ever held.

    Sums are made in the order of the blocks, however many threads share the work: the same data gives the same model.
    """

    matrix: Interactions
    rows: int
    threads: int

    def one_by_one(self) -> Iterator[Interactions]:
        """The blocks in order."""
        for start in range(0, self.matrix.shape[0], self.rows):
            yield self.matrix[start : start + self.rows]

    def summed(self, part: Callable[[Interactions], Array], total: Array) -> Array:
        """total + Σ part(block)."""
        blocks = self.one_by_one()
        with ThreadPoolExecutor(self.threads) as pool:
            while some := list(islice(blocks, self.threads)):
                for found in pool.map(part, some):
                    total += found
        return total


def _row_blocks(matrix: Interactions, threads: int | None) -> _RowBlocks:
    # What a block adds is as large as all items: with fewer rows than half of those, adding would take longest.
    return _RowBlocks(matrix, max(_LEAST_BLOCK_ROWS, matrix.shape[1] // 2), threads or os.cpu_count() or 1)


def _normal_product(block: Interactions, basis: Float32) -> Float32:
    return np.asarray(block.T @ (block @ basis), dtype=np.float32)


def _gram_of_projection(block: Interactions, basis: Float32) -> Float64:
    projected = block @ basis
    return np.asarray(projected.T @ projected, dtype=np.float64)


def orthonormal(columns: Float32) -> Float32:
    """An orthonormal basis of what the columns span.

    CholeskyQR2 (Fukaya et al. 2014): products of matrices, several times as fast as Householder's QR for tall ones.
    Columns that are nearly dependent have no Cholesky factor in single precision; QR takes those.
    """
    basis = columns
    for _ in range(2):
        gram = np.asarray(basis.T @ basis, dtype=np.float64)
        try:
            factor = np.linalg.cholesky(gram)
        except np.linalg.LinAlgError:
            return np.linalg.qr(columns)[0]
        basis = basis @ np.linalg.inv(factor).T.astype(np.float32)
    # The second pass corrects what rounding cost the first, if that was not too much.
    return basis if np.abs(gram - np.eye(len(gram))).max(initial=0.0) < _CORRECTABLE else np.linalg.qr(columns)[0]
