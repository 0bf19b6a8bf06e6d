"""Which items lists show, and how different they are: the figures besides accuracy, and what is popular.

All take lists (users, k) of item codes in which `EMPTY` fills the places that stay free. Knows nothing of how lists
came about or of what was held out.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from scipy import sparse

from recsvc.domain.arrays import Codes, Float64, Interactions, Scores
from recsvc.domain.evaluation import EMPTY

_BLOCK_LISTS = 256
"""Lists whose item vectors are summed at once."""


class Stratum(IntEnum):
    """A third of all interactions: those with the most popular items, with the middle, and with the many rare ones."""

    HEAD = 0
    MID = 1
    TAIL = 2


def popularity_strata(item_popularity: Scores) -> Codes:
    """(items,) the stratum of each item: by popularity, each holds a third of all interactions.

    An item belongs where its first interaction falls when the items are laid end to end, most popular first; one that
    nobody touched is tail.
    """
    popularity = np.asarray(item_popularity, dtype=np.float64)
    order = np.argsort(-popularity, kind="stable")
    before = np.cumsum(popularity[order]) - popularity[order]
    strata = np.full(len(popularity), int(Stratum.TAIL))
    third = popularity.sum() / 3.0
    if third > 0:
        strata[order] = np.minimum(before // third, int(Stratum.TAIL)).astype(np.int64)
    strata[popularity <= 0] = Stratum.TAIL
    return strata


def exposure(recommended: Codes, item_count: int) -> Float64:
    """(items,) how many lists show each item."""
    return np.bincount(recommended[recommended != EMPTY], minlength=item_count).astype(np.float64)


def lorenz_curve(exposures: Float64) -> Float64:
    """(items + 1,) the share of all exposure that the least shown 0, 1, … items have together; ends with 1."""
    total = exposures.sum()
    if total == 0:
        return np.linspace(0.0, 1.0, len(exposures) + 1)
    return np.asarray(np.concatenate(([0.0], np.cumsum(np.sort(exposures)) / total)), dtype=np.float64)


def gini(exposures: Float64) -> float:
    """Gini index of exposure: 0 when all items are shown alike, towards 1 when one is shown alone (Gini 1912).

    1 − 2 ∫ Lorenz, over the whole catalogue with the items that nobody is shown.
    """
    curve = lorenz_curve(exposures)
    return float(1.0 - np.sum(curve[1:] + curve[:-1]) / max(len(exposures), 1)) if len(exposures) else 0.0


def list_novelty(recommended: Codes, item_popularity: Scores, user_count: int) -> Float64:
    """(users,) mean −log2 p(i) in bits of each list, as `mean_novelty` has it over all; NaN for an empty list."""
    shown = recommended != EMPTY
    share = np.maximum(np.asarray(item_popularity, dtype=np.float64)[recommended], 1.0) / max(user_count, 1)
    bits = np.where(shown, -np.log2(share), 0.0).sum(axis=1)
    lengths = shown.sum(axis=1)
    return np.asarray(np.where(lengths > 0, bits / np.maximum(lengths, 1), np.nan), dtype=np.float64)


def list_diversity(recommended: Codes, item_vectors: Interactions) -> Float64:
    """(users,) intra-list diversity: 1 − the mean cosine of all pairs of items in a list (Ziegler et al. 2005).

    item_vectors: (items, d) sparse; an item with the zero vector is left out, and a list that has not two others is
    NaN.
    """
    unit = unit_rows(item_vectors)
    known = np.append(np.diff(unit.indptr) > 0, False)
    found = np.full(len(recommended), np.nan)
    for start in range(0, len(recommended), _BLOCK_LISTS):
        block = recommended[start : start + _BLOCK_LISTS]
        rows, places = np.nonzero(known[block])
        chosen = sparse.csr_matrix(
            (np.ones(len(rows), dtype=np.float32), (rows, block[rows, places])), shape=(len(block), unit.shape[0])
        )
        sums = (chosen @ unit).tocsr()
        sizes = np.bincount(rows, minlength=len(block)).astype(np.float64)
        # |Σ v|² = Σ |v|² + 2 Σ_{i<j} v_i·v_j, and every |v| is 1.
        squares = np.asarray(sums.multiply(sums).sum(axis=1), dtype=np.float64).ravel()
        pairs = sizes * (sizes - 1.0)
        similarity = np.divide(squares - sizes, pairs, out=np.full(len(block), np.nan), where=pairs > 0)
        found[start : start + _BLOCK_LISTS] = 1.0 - similarity
    return found


def unit_rows(vectors: Interactions) -> Interactions:
    """The rows at length 1; zero rows stay."""
    lengths = np.sqrt(np.asarray(vectors.multiply(vectors).sum(axis=1), dtype=np.float64).ravel())
    scales = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    scaled = vectors.tocsr(copy=True)
    scaled.eliminate_zeros()
    scaled.data = (scaled.data * np.repeat(scales, np.diff(scaled.indptr))).astype(np.float32)
    return scaled
