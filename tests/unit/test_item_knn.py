"""Cosine neighbours against the formula, and the selection of the strongest weights that all neighbours share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from recsvc.domain.arrays import Interactions
from recsvc.training.algorithms import item_knn
from recsvc.training.algorithms.cooccurrence import largest_per_row, row_blocks
from recsvc.training.algorithms.item_knn import ItemKnn, ItemKnnConfig


def some_interactions(users: int = 60, items: int = 40, density: float = 0.15, seed: int = 7) -> Interactions:
    rng = np.random.default_rng(seed)
    dense = (rng.random((users, items)) < density) * rng.integers(1, 4, (users, items))
    dense[3, :], dense[:, 5] = 0, 0
    return sparse.csr_matrix(dense.astype(np.float32))


def cosines(interactions: Interactions, config: ItemKnnConfig) -> np.ndarray:
    """The formula of the module's docstring, dense, without the diagonal."""
    r = interactions.toarray().astype(np.float64)
    sums = r.sum(1, keepdims=True)
    r = r / np.where(sums > 0, sums, 1.0) ** config.user_degree_exponent
    lengths = np.linalg.norm(r, axis=0)
    products = r.T @ r
    weights = np.divide(
        products,
        np.outer(lengths, lengths) + config.shrinkage,
        out=np.zeros_like(products),
        where=products > 0,
    )
    np.fill_diagonal(weights, 0)
    return weights


@pytest.mark.parametrize(
    "config", [ItemKnnConfig(100, 0.0, 0.0), ItemKnnConfig(100, 10.0, 0.0), ItemKnnConfig(100, 2.0)]
)
def test_neighbours_weigh_as_the_formula_says(config: ItemKnnConfig) -> None:
    interactions = some_interactions()
    assert np.allclose(ItemKnn(config).fit(interactions).matrix().toarray(), cosines(interactions, config), atol=1e-6)


def test_without_shrinkage_items_of_the_same_users_are_as_similar_as_can_be() -> None:
    pairs = np.array([[2, 2, 0], [3, 3, 1], [0, 0, 4]], dtype=np.float32)
    weights = ItemKnn(ItemKnnConfig(shrinkage=0.0)).fit(sparse.csr_matrix(pairs)).matrix().toarray()
    assert weights[0, 1] == pytest.approx(1.0)
    assert 0 < weights[0, 2] < 1


@pytest.mark.parametrize("block_entries", [1, 100])
def test_blocks_change_nothing(block_entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ItemKnn().fit(some_interactions()).matrix().toarray()
    monkeypatch.setattr(item_knn, "_BLOCK_ENTRIES", block_entries)
    assert np.array_equal(ItemKnn().fit(some_interactions()).matrix().toarray(), whole)


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (4, 3)])
def test_no_interactions_at_all_give_no_neighbours(shape: tuple[int, int]) -> None:
    assert len(ItemKnn().fit(sparse.csr_matrix(shape, dtype=np.float32)).weights) == 0


def test_progress_rises_to_one() -> None:
    shares: list[float] = []
    ItemKnn().fit(some_interactions(), shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.0, -3.0]), min_size=5, max_size=5), min_size=5, max_size=5))
def test_the_largest_per_row_are_those_of_a_sort_by_magnitude_then_item(rows: list[list[float]]) -> None:
    kept = largest_per_row(sparse.csr_matrix(np.array(rows, dtype=np.float32)), 3)
    for item, row in enumerate(rows):
        expected = sorted((i for i, weight in enumerate(row) if weight and i != item), key=lambda i: (-abs(row[i]), i))
        inside = slice(kept.indptr[item], kept.indptr[item + 1])
        assert kept.indices[inside].tolist() == expected[:3]
        assert kept.weights[inside].tolist() == [row[i] for i in expected[:3]]


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 20))
def test_row_blocks_cover_every_row_once_and_stay_within_the_limit(sizes: list[int], limit: int) -> None:
    blocks = list(row_blocks(np.array(sizes, dtype=np.float64), limit))
    assert [row for start, stop in blocks for row in range(start, stop)] == list(range(len(sizes)))
    assert all(stop - start == 1 or sum(sizes[start:stop]) <= limit for start, stop in blocks)
