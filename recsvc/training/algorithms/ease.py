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

from recsvc.domain.arrays import Codes, Float32, Interactions
from recsvc.training.algorithms.cooccurrence import StrongestWeights, largest_per_row, row_blocks
from recsvc.training.algorithms.gram import Gram
from recsvc.training.algorithms.interface import ItemNeighbors, Progress, no_progress
from recsvc.training.algorithms.normalisation import degrees, positive, power_or_zero, scaled

_BLOCK_ENTRIES = 16_000_000
"""Upper bound on the entries of one block's product: about 200 MB while it is made."""

_BATCH_ITEMS = 200
"""Items whose regressions a thread solves before it takes more."""


@dataclass(frozen=True, slots=True)
class EaseConfig:
    """Hyper-parameters of the regression."""

    k: int = 300
    """Weights kept per item of the history: the largest in magnitude."""

    regularisation: float = 30.0
    """λ, in units of the diagonal of X'X. Without normalisation those are interactions: how many co-occurrences it
    takes to believe in a weight."""

    dropout: float = 0.5
    """p: the share of a history that is dropped at random while it must reconstruct the rest, in expectation: the
    diagonal of X'X counts p/(1 − p) times more (DLAE, Steck 2020). 0 = EASE as published."""

    dense_items: int = 6_000
    """Up to so many items the regression is exact. On goodbooks-10k, 10,001 items, the local one is as good (NDCG@20
    .264, dense .263) in a third of the time."""

    support: int = 300
    """Beyond that, items that each item is regressed on."""

    user_degree_exponent: float = 0.2
    """a: how much a user with a long history is damped."""

    item_degree_exponent: float = 0.0
    """b: how much a popular item is damped, in the fit and as evidence."""

    output_exponent: float = -0.1
    """c: how much an item's popularity raises its score; c = b undoes the normalisation, below b it is damped."""

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
    gram = Gram.of(matrix, config.support, lambda share: progress(0.3 * share))
    supports = gram.supports
    targets = np.repeat(np.arange(item_count), np.diff(supports.indptr))
    weights = np.zeros(len(targets), dtype=np.float32)
    batches = range(0, item_count, _BATCH_ITEMS)

    def solve(first: int) -> None:
        for target in range(first, min(first + _BATCH_ITEMS, item_count)):
            inside = slice(supports.indptr[target], supports.indptr[target + 1])
            weights[inside] = _regression(gram, target, supports.indices[inside], supports.weights[inside], config)

    # Each thread solves a batch of its own; a second layer of threads inside the solver would only get in the way.
    with (
        threadpool_limits(limits=1, user_api="blas"),
        ThreadPoolExecutor(config.threads or os.cpu_count()) as pool,
    ):
        for done, _ in enumerate(pool.map(solve, batches), start=1):
            progress(0.3 + 0.6 * done / len(batches))
    return sparse.csr_matrix((weights, (supports.indices, targets)), shape=(item_count, item_count))


def _regression(gram: Gram, target: int, support: Codes, cosines: Float32, config: EaseConfig) -> Float32:
    """(k,) the weights of the support for one item; cosines: (k,) with it."""
    if len(support) == 0:
        return np.zeros(0, dtype=np.float32)
    squares = gram.squares[support]
    equations = gram.among(support)
    equations[np.diag_indices(len(support))] = squares * config.diagonal_factor + config.regularisation
    right = (cosines * np.sqrt(gram.squares[target] * squares)).astype(np.float32)
    # The transpose of a symmetric matrix is itself, and in the order that LAPACK wants.
    _, weights, failed = lapack.sposv(equations.T, right, lower=0)
    if failed:
        # What the sparse matrix leaves out can cost it its definiteness.
        weights = np.linalg.solve(equations, right)
    return np.asarray(weights, dtype=np.float32)
