"""EASE: item–item weights that reconstruct each item from the others by ridge regression (Steck 2019).

EASE regresses every item's column on all others, B = argmin |X − XB|² + λ|B|² with a zero diagonal, in closed form:
with P = (X'X + λI)^-1, B_ji = −P_ji / P_ii (eq. 8). It takes one dense inverse, so it is for catalogues of up to
`dense_items`: n² numbers of four bytes, 576 MB at 12,000 items, plus one block of the product.

Beyond that, each item is regressed on the `support` items of highest cosine with it only: w = (G_CC + λI)^-1 G_Ci for
G = X'X and the support C, which is without i. That is fsSLIM (Ning & Karypis 2011) without its L1 part; with all other
items as support, both are the same.

Beside λ, the diagonal may be raised in proportion: that is what dropout of the input does in expectation (DLAE, Steck
2020, "Autoencoders that don't overfit towards the identity"). The matrix may be normalised first,
X = D_u^-a R D_i^-b; the weights then are D_i^-b B D_i^c, so that they apply to R itself. Weights may be negative: "who
has j wants i less than the rest of their history suggests".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.linalg import lapack
from threadpoolctl import threadpool_limits

from recsvc.domain.arrays import Float32, Float64, Interactions
from recsvc.training.algorithms.cooccurrence import StrongestWeights, largest_per_row, product_sizes, row_blocks
from recsvc.training.algorithms.interface import ItemNeighbors, Progress, no_progress
from recsvc.training.algorithms.normalisation import degrees, positive, power_or_zero, scaled

_BLOCK_ENTRIES = 16_000_000
"""Upper bound on the entries of one block's product: about 200 MB while it is made."""

_GRAM_ENTRIES = 160_000_000
"""Co-occurrences held for the local regressions: 1.3 GB, twice that while they are joined. Where there may be more,
only the strongest of each item are held and the rest count as 0."""

_SOLVED_ENTRIES = 2_000_000
"""Coefficients of the equations that a thread solves at once: 8 MB, and the indices to look them up."""


@dataclass(frozen=True, slots=True)
class EaseConfig:
    """Hyper-parameters of the regression."""

    k: int = 100
    """Weights kept per item of the history: the largest in magnitude."""

    regularisation: float = 10.0
    """λ, in units of the diagonal of X'X. Without normalisation those are interactions: how many co-occurrences it
    takes to believe in a weight."""

    dropout: float = 0.5
    """p: the share of a history that is dropped at random while it must reconstruct the rest, in expectation: the
    diagonal of X'X counts p/(1 − p) times more (DLAE, Steck 2020). 0 = EASE as published."""

    dense_items: int = 6_000
    """Up to so many items the regression is exact. On goodbooks-10k, 10,001 items, the local one is as good (NDCG@20
    .264, dense .263) in a third of the time."""

    support: int = 100
    """Beyond that, items that each item is regressed on."""

    user_degree_exponent: float = 0.3
    """a: how much a user with a long history is damped."""

    item_degree_exponent: float = 0.0
    """b: how much a popular item is damped, in the fit and as evidence."""

    output_exponent: float = 0.0
    """c: how much an item's popularity raises its score; c = b undoes the normalisation."""

    threads: int | None = None
    """Threads for dense algebra; None = all that the machine gives."""

    def __post_init__(self) -> None:
        if self.regularisation <= 0:
            raise ValueError("the regularisation must be positive: co-occurrence matrices are singular")
        if not 0 <= self.dropout < 1:
            raise ValueError("a dropout of everything leaves nothing to learn from")

    @property
    def diagonal_factor(self) -> float:
        """What the diagonal of X'X is multiplied by."""
        return 1.0 + self.dropout / (1.0 - self.dropout)


@dataclass(frozen=True, slots=True)
class Ease:
    """The algorithm; `fit` has no state."""

    config: EaseConfig = EaseConfig()

    def fit(self, interactions: Interactions, progress: Progress = no_progress) -> ItemNeighbors:
        """Weights of `interactions` (users × items); entries ≤ 0 are ignored."""
        config = self.config
        signals = positive(interactions)
        user_degrees, item_degrees = degrees(signals)
        evidence = power_or_zero(item_degrees, -config.item_degree_exponent)
        outcome = power_or_zero(item_degrees, config.output_exponent)
        normalised = scaled(signals, power_or_zero(user_degrees, -config.user_degree_exponent), evidence)
        if signals.shape[1] > config.dense_items:
            kept = largest_per_row(scaled(_local_weights(normalised, config, progress), evidence, outcome), config.k)
        else:
            strongest = StrongestWeights(config.k)
            items = np.arange(signals.shape[1])
            for source, weights in enumerate(_dense_rows(normalised, config, progress)):
                strongest.add_row(items, (evidence[source] * weights * outcome).astype(np.float32))
            kept = strongest.neighbors()
        progress(1.0)
        return kept


def _dense_rows(matrix: Interactions, config: EaseConfig, progress: Progress) -> Iterator[Float32]:
    """The rows of B; one array of n² is all that is held."""
    item_count = matrix.shape[1]
    if item_count == 0:
        return
    gram = np.empty((item_count, item_count), dtype=np.float32)
    by_item = matrix.T.tocsr()
    for start, stop in row_blocks(np.full(item_count, float(item_count)), _BLOCK_ENTRIES):
        gram[start:stop] = (by_item[start:stop] @ matrix).toarray()
        progress(0.3 * stop / item_count)
    diagonal = np.diag_indices(item_count)
    gram[diagonal] = gram[diagonal] * config.diagonal_factor + config.regularisation
    with threadpool_limits(limits=config.threads, user_api="blas"):
        # LAPACK works by columns: the transpose of our rows is the same symmetric matrix, and nothing is copied.
        factor, failed = lapack.spotrf(gram.T, lower=1, overwrite_a=1, clean=0)
        if failed:
            raise FloatingPointError("the co-occurrence matrix is not positive definite in single precision")
        progress(0.5)
        precision, _ = lapack.spotri(factor, lower=1, overwrite_c=1)
    progress(0.9)
    own = np.diagonal(precision).copy()
    for source in range(item_count):
        # Only the lower triangle is filled.
        yield -np.concatenate((precision[source, :source], precision[source:, source])) / own


def _local_weights(matrix: Interactions, config: EaseConfig, progress: Progress) -> Interactions:
    """(sources, targets): each item's regression on its support."""
    item_count = matrix.shape[1]
    gram, squares, supports = _gram(matrix, config.support, lambda share: progress(0.3 * share))
    targets = np.repeat(np.arange(item_count), np.diff(supports.indptr))
    weights = np.zeros(len(targets), dtype=np.float32)
    batches = list(row_blocks(np.full(item_count, float(config.support**2)), _SOLVED_ENTRIES))

    def solve(batch: tuple[int, int]) -> None:
        inside = slice(supports.indptr[batch[0]], supports.indptr[batch[1]])
        weights[inside] = _regressions(gram, squares, supports, batch, config)

    # Each thread solves a batch of its own; a second layer of threads inside the solver would only get in the way.
    with (
        threadpool_limits(limits=1, user_api="blas"),
        ThreadPoolExecutor(config.threads or os.cpu_count()) as pool,
    ):
        for done, _ in enumerate(pool.map(solve, batches), start=1):
            progress(0.3 + 0.6 * done / len(batches))
    return sparse.csr_matrix((weights, (supports.indices, targets)), shape=(item_count, item_count))


def _gram(matrix: Interactions, support: int, progress: Progress) -> tuple[Interactions, Float64, ItemNeighbors]:
    """The upper triangle of X'X, its diagonal, and for each item those of the `support` highest cosines with it."""
    item_count = matrix.shape[1]
    entries = matrix.data.astype(np.float64)
    squares: Float64 = np.bincount(matrix.indices, weights=entries**2, minlength=item_count).astype(np.float64)
    lengths = power_or_zero(squares, -0.5)
    sizes = product_sizes(matrix)
    is_whole = bool(sizes.sum() <= _GRAM_ENTRIES)
    by_item = matrix.T.tocsr()
    supports = StrongestWeights(support)
    held = StrongestWeights(max(support, _GRAM_ENTRIES // item_count))
    blocks: list[Interactions] = []
    for start, stop in row_blocks(sizes, _BLOCK_ENTRIES):
        block = (by_item[start:stop] @ matrix).tocsr()
        cosines = scaled(block, lengths[start:stop], lengths)
        supports.add_rows(cosines)
        if is_whole:
            blocks.append(sparse.csr_matrix(sparse.triu(block, start + 1, format="csr")))
        else:
            held.add_rows(cosines)
        progress(stop / item_count)
    if is_whole:
        gram = sparse.csr_matrix(sparse.vstack(blocks, format="csr"), copy=False)
    else:
        strongest = held.neighbors().matrix()
        either = sparse.triu(strongest.maximum(strongest.T), 1, format="csr")
        gram = scaled(sparse.csr_matrix(either), np.sqrt(squares), np.sqrt(squares))
    return gram, squares, supports.neighbors()


def _regressions(
    gram: Interactions, squares: Float64, supports: ItemNeighbors, batch: tuple[int, int], config: EaseConfig
) -> Float32:
    """The coefficients of the items of `batch`, in the order of their supports."""
    start, stop = batch
    indptr = supports.indptr[start : stop + 1]
    sizes = np.diff(indptr)
    width = int(sizes.max(initial=0))
    equations = np.zeros((stop - start, width, width), dtype=np.float32)
    right = np.zeros((stop - start, width), dtype=np.float32)
    place = np.full(gram.shape[0], -1, dtype=np.int32)
    for row, size in enumerate(sizes.tolist()):
        inside = slice(indptr[row], indptr[row] + size)
        predictors = supports.indices[inside]
        place[predictors] = np.arange(size, dtype=np.int32)
        among = gram[predictors]
        columns = place[among.indices]
        found = np.flatnonzero(columns >= 0)
        rows, columns = np.searchsorted(among.indptr, found, side="right") - 1, columns[found]
        equations[row, rows, columns] = equations[row, columns, rows] = among.data[found]
        own = np.arange(size)
        equations[row, own, own] = squares[predictors] * config.diagonal_factor
        right[row, :size] = supports.weights[inside] * np.sqrt(squares[start + row] * squares[predictors])
        place[predictors] = -1
    # Places without a predictor are equations of their own, λw = 0.
    own = np.arange(width)
    equations[:, own, own] += config.regularisation
    solved = np.linalg.solve(equations, right[:, :, np.newaxis])[:, :, 0]
    return np.asarray(solved[own < sizes[:, np.newaxis]], dtype=np.float32)
