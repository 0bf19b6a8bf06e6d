"""What lists show and how different they are: by hand, and within the bounds of the definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from recsvc.domain.evaluation import EMPTY, mean_novelty
from recsvc.domain.exposure import (
    Stratum,
    exposure,
    gini,
    list_diversity,
    list_novelty,
    lorenz_curve,
    popularity_strata,
)

counts = st.lists(st.integers(0, 50), min_size=1, max_size=30).map(lambda drawn: np.array(drawn, dtype=np.float64))


def _vectors(*rows: list[float]) -> sparse.csr_matrix:
    return sparse.csr_matrix(np.array(rows, dtype=np.float32))


def test_each_stratum_holds_a_third_of_the_interactions() -> None:
    strata = popularity_strata(np.array([2, 30, 10, 10, 1, 10, 0, 27]))
    assert strata[[1]].tolist() == [Stratum.HEAD]
    assert strata[[7, 2]].tolist() == [Stratum.MID, Stratum.MID]
    assert strata[[3, 5, 0, 4, 6]].tolist() == [Stratum.TAIL] * 5


@given(counts)
def test_a_more_popular_item_is_never_in_a_lower_stratum(popularity: np.ndarray) -> None:
    strata = popularity_strata(popularity)
    order = np.argsort(-popularity, kind="stable")
    assert (np.diff(strata[order]) >= 0).all()
    if popularity.any():
        assert strata[order[0]] == Stratum.HEAD
    assert (strata[popularity == 0] == Stratum.TAIL).all()


def test_exposure_counts_places_that_are_filled() -> None:
    assert exposure(np.array([[0, 2], [2, EMPTY]]), 4).tolist() == [1, 0, 2, 0]


def test_gini_of_the_extremes() -> None:
    assert gini(np.full(10, 3.0)) == pytest.approx(0.0)
    assert gini(np.array([0.0] * 99 + [5.0])) == pytest.approx(0.99)
    assert gini(np.array([1.0, 3.0])) == pytest.approx(0.25)


@given(counts)
def test_gini_equals_the_mean_difference(exposures: np.ndarray) -> None:
    if exposures.sum() == 0:
        assert gini(exposures) == pytest.approx(0.0)
        return
    by_definition = np.abs(exposures[:, None] - exposures[None, :]).mean() / (2 * exposures.mean())
    assert gini(exposures) == pytest.approx(by_definition, abs=1e-9)
    assert -1e-12 <= gini(exposures) < 1


@given(counts)
def test_the_lorenz_curve_rises_from_0_to_1_below_the_diagonal(exposures: np.ndarray) -> None:
    curve = lorenz_curve(exposures)
    assert curve[0] == 0.0
    assert curve[-1] == pytest.approx(1.0)
    assert (np.diff(curve) >= -1e-12).all()
    assert (curve <= np.linspace(0, 1, len(curve)) + 1e-9).all()


def test_novelty_of_each_list_averages_to_that_of_all() -> None:
    popularity, lists = np.array([8.0, 2.0, 1.0]), np.array([[0, 1], [2, 0]])
    assert list_novelty(lists, popularity, 8).tolist() == [1.0, 1.5]
    assert list_novelty(lists, popularity, 8).mean() == pytest.approx(mean_novelty(lists, popularity, 8))


def test_an_empty_list_has_no_novelty() -> None:
    found = list_novelty(np.array([[EMPTY, EMPTY], [0, EMPTY]]), np.array([2.0]), 8)
    assert np.isnan(found[0])
    assert found[1] == 2.0


def test_diversity_of_equal_and_of_unrelated_items() -> None:
    vectors = _vectors([1, 0, 0], [5, 0, 0], [0, 1, 0], [0, 0, 2])
    lists = np.array([[0, 1, EMPTY], [0, 2, 3], [0, 1, 2]])
    assert list_diversity(lists, vectors).tolist() == pytest.approx([0.0, 1.0, 2 / 3])


def test_items_of_which_nothing_is_known_are_left_out() -> None:
    vectors = _vectors([1, 0], [0, 0], [0, 1])
    found = list_diversity(np.array([[0, 1, 2], [0, 1, EMPTY]]), vectors)
    assert found[0] == pytest.approx(1.0)
    assert np.isnan(found[1])


@given(st.integers(0, 2**31), st.integers(2, 6))
def test_diversity_is_the_mean_over_pairs(seed: int, length: int) -> None:
    rng = np.random.default_rng(seed)
    dense = rng.integers(0, 3, (12, 5)).astype(np.float32)
    dense[:, 0] += 1
    unit = dense / np.linalg.norm(dense, axis=1, keepdims=True)
    items = rng.permutation(12)[:length]
    pairs = [1 - unit[i] @ unit[j] for place, i in enumerate(items) for j in items[place + 1 :]]
    found = list_diversity(np.array([items]), sparse.csr_matrix(dense))[0]
    assert found == pytest.approx(np.mean(pairs), abs=1e-5)
    assert -1e-5 <= found <= 1 + 1e-5
