"""Which cells of a matrix, a row for each user and a column for each item, are the k best of their row.

Of a set of users these are most of the numbers that are looked at, so what is said here is said in few passes: a cell
that may not be chosen holds a score below all others rather than NaN, and what is the same for all rows is sorted once.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from recsvc.domain.arrays import Float32, Float64, Mask
from recsvc.domain.ranking.blend import best_first

LEAST = np.float32(-1e29)
"""Below all scores, and above whatever `barring` was added to."""


def barring(is_barred: Mask) -> Float32:
    """(…, n): what leaves nothing of a score it is added to where is_barred (…, n), and changes it nowhere else.

    To choose between two values takes five times as long. Of a row all are different, since equal numbers make a
    partition five times as slow, or worse.
    """
    return np.multiply(is_barred, _depths(is_barred.shape[-1]))


@lru_cache(maxsize=64)
def _depths(n: int) -> Float32:
    return np.asarray(-1e30 * (1.0 + np.arange(n) / n), dtype=np.float32)


def best_of_rows(scores: Float32, k: int) -> Mask:
    """(users, n): which of the scores (users, n) are the k largest of their row that are above `LEAST`.

    Of equal ones at the end of it the first are taken.
    """
    n = scores.shape[1]
    if not k:
        return np.zeros(scores.shape, dtype=np.bool_)
    if k >= n:
        return np.asarray(scores > LEAST)
    least = np.maximum(np.partition(scores, n - k, axis=1)[:, n - k, None], LEAST)
    best: Mask = scores >= least
    crowded = np.flatnonzero(best.sum(axis=1) > k)
    if len(crowded):
        above = scores[crowded] > least[crowded]
        equal = best[crowded] & ~above
        room = k - above.sum(axis=1, keepdims=True)
        best[crowded] = above | (equal & (np.cumsum(equal, axis=1) <= room))
    return best


def choose_best_of_all(chosen: Mask, scores: Float64, is_open: Mask, is_allowed: Mask, k: int) -> None:
    """Add to the chosen, (users, n), those that `best_of_rows` finds where scores (n,) are the same for all users.

    A score that is NaN is not known. is_open: (n,), where anybody may be allowed something; is_allowed: (users, n).
    """
    if not k:
        return
    known = np.flatnonzero(is_open & (scores == scores))
    # Nobody's k best lie further down than what they are not allowed pushes them.
    barred = np.count_nonzero(is_open) - is_allowed.sum(axis=1)
    order = known[best_first(scores[known], k + int(barred.max(initial=0)))]
    best = is_allowed.take(order, axis=1)
    best &= np.cumsum(best, axis=1, dtype=np.int32) <= k
    rows, places = np.divmod(np.flatnonzero(best), max(1, len(order)))
    chosen[rows, order[places]] = True
