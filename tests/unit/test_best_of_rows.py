"""The k best of each row are those that a sort would put first."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsvc.engine.best_of_rows import LEAST, barring, best_of_rows, choose_best_of_all


def _some(seed: int, users: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (users, n), many of them equal, and which of them are barred: in some rows all, in some none."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(-3, 4, (users, n)).astype(np.float32)
    return scores, rng.random((users, n)) < rng.choice([0.0, 0.3, 0.9, 1.0], (users, 1))


def _first_of_a_sort(scores: np.ndarray, is_barred: np.ndarray, k: int) -> list[set[int]]:
    return [
        {int(at) for at in [at for at in np.argsort(-row, kind="stable") if not barred[at]][:k]}
        for row, barred in zip(scores, is_barred, strict=True)
    ]


def _chosen(mask: np.ndarray) -> list[set[int]]:
    return [set(np.flatnonzero(row).tolist()) for row in mask]


_seeds = st.integers(0, 2**32 - 1)


@given(_seeds, st.integers(1, 6), st.integers(1, 40), st.integers(0, 50))
def test_the_best_of_a_row_are_the_first_of_its_sort(seed: int, users: int, n: int, k: int) -> None:
    scores, is_barred = _some(seed, users, n)
    best = best_of_rows(scores + barring(is_barred), k)
    assert _chosen(best) == _first_of_a_sort(scores, is_barred, k)


@given(_seeds, st.integers(1, 6), st.integers(1, 40), st.integers(0, 50))
def test_scores_that_are_the_same_for_all_are_sorted_for_each_by_what_is_allowed(
    seed: int, users: int, n: int, k: int
) -> None:
    rows, is_barred = _some(seed, users, n)
    rng = np.random.default_rng(seed)
    is_open, is_known = rng.random(n) < 0.8, rng.random(n) < 0.8
    chosen = np.zeros((users, n), dtype=np.bool_)
    scores = np.where(is_known, rows[0], np.nan).astype(np.float64)
    choose_best_of_all(chosen, scores, is_open, is_open & ~is_barred, k)
    expected = _first_of_a_sort(np.tile(rows[0], (users, 1)), is_barred | ~(is_open & is_known), k)
    assert _chosen(chosen) == expected


def test_what_was_chosen_before_stays_chosen() -> None:
    chosen = np.array([[True, False, False]])
    everything = np.ones(3, dtype=np.bool_)
    choose_best_of_all(chosen, np.array([1.0, 2.0, 3.0]), everything, everything[None], 1)
    assert chosen.tolist() == [[True, False, True]]


@given(_seeds)
def test_barring_leaves_other_scores_to_the_last_bit(seed: int) -> None:
    scores, is_barred = np.random.default_rng(seed).normal(size=(3, 50)).astype(np.float32), np.zeros((3, 50), np.bool_)
    is_barred[:, ::3] = True
    barred = scores + barring(is_barred)
    assert np.array_equal(barred[~is_barred], scores[~is_barred])
    assert (barred[is_barred] < LEAST).all()


def test_what_is_barred_in_a_row_stays_different() -> None:
    barred = np.zeros((1, 30_000), dtype=np.float32) + barring(np.ones((1, 30_000), dtype=np.bool_))
    assert len(np.unique(barred)) == 30_000
