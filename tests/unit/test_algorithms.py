"""Item factors and neighbours against the dense formulas that they compute sparsely."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from recsvc.domain.arrays import Interactions
from recsvc.training.algorithms import neighbors, spectral
from recsvc.training.algorithms.interface import ItemFactors
from recsvc.training.algorithms.neighbors import Neighbors, NeighborsConfig
from recsvc.training.algorithms.popularity import item_popularity, popularity_scores
from recsvc.training.algorithms.spectral import Spectral, SpectralConfig, orthonormal


def some_interactions(users: int = 60, items: int = 40, density: float = 0.15, seed: int = 7) -> Interactions:
    rng = np.random.default_rng(seed)
    dense = (rng.random((users, items)) < density) * rng.integers(1, 4, (users, items))
    dense[3, :], dense[:, 5] = 0, 0
    return sparse.csr_matrix(dense.astype(np.float32))


def powers(values: np.ndarray, exponent: float) -> np.ndarray:
    return np.array([value**exponent if value > 0 else 0.0 for value in values])


def spectral_scores(interactions: Interactions, config: SpectralConfig) -> np.ndarray:
    """The formula of the module's docstring with a full dense SVD."""
    r = interactions.toarray().astype(np.float64)
    users, items = powers(r.sum(1), -config.user_degree_exponent), powers(r.sum(0), -config.item_degree_exponent)
    _, values, right = np.linalg.svd(users[:, None] * r * items)
    v = right[: config.dimension].T
    filtered = v * values[: config.dimension] ** config.singular_value_power @ v.T
    return (r * items) @ filtered * powers(r.sum(0), config.output_exponent)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_factors_score_as_the_formula_says(power: float) -> None:
    interactions = some_interactions()
    config = SpectralConfig(8, 0.4, 0.5, 0.3, power, power_iterations=30)
    factors = Spectral(config).fit(interactions)
    assert np.allclose(factors.scores(interactions), spectral_scores(interactions, config), atol=2e-4)


def test_a_user_vector_is_the_weighted_sum_over_the_touched_items() -> None:
    interactions = some_interactions()
    factors = Spectral(SpectralConfig(dimension=6)).fit(interactions)
    row = interactions[0]
    by_hand = sum(
        weight * factors.fold_in_scales[item] * factors.vectors[item]
        for item, weight in zip(row.indices, row.data, strict=True)
    )
    assert np.allclose(factors.fold_in(row)[0], by_hand, rtol=1e-4, atol=1e-6)


def test_half_precision_keeps_the_scores() -> None:
    interactions = some_interactions()
    factors = Spectral(SpectralConfig(dimension=16)).fit(interactions)
    rounded = ItemFactors(factors.vectors.astype(np.float16).astype(np.float32), factors.fold_in_scales)
    exact = factors.scores(interactions)
    assert np.allclose(rounded.scores(interactions), exact, atol=2e-3 * np.abs(exact).max())
    assert 8 <= np.abs(factors.vectors).max() <= 16


def test_untouched_items_have_zero_vectors_and_untouched_users_score_nothing() -> None:
    interactions = some_interactions()
    factors = Spectral(SpectralConfig(dimension=6)).fit(interactions)
    assert not factors.vectors[5].any()
    assert factors.fold_in_scales[5] == 0
    assert not factors.scores(interactions)[3].any()


def test_the_same_seed_gives_the_same_factors() -> None:
    config = SpectralConfig(dimension=6, seed=3)
    one, other = (Spectral(config).fit(some_interactions()) for _ in range(2))
    assert np.array_equal(one.vectors, other.vectors)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 7), (7, 1), (3, 2)])
def test_tiny_matrices_are_fitted_whole(shape: tuple[int, int]) -> None:
    interactions = sparse.csr_matrix(np.ones(shape, dtype=np.float32))
    factors = Spectral().fit(interactions)
    assert factors.vectors.shape[0] == shape[1]
    assert 1 <= factors.dimension <= min(shape)
    assert np.isfinite(factors.scores(interactions)).all()
    assert Neighbors().fit(interactions).item_count == shape[1]


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (4, 3)])
def test_no_interactions_at_all_give_empty_models(shape: tuple[int, int]) -> None:
    interactions = sparse.csr_matrix(shape, dtype=np.float32)
    factors = Spectral().fit(interactions)
    assert factors.scores(interactions).shape == shape
    assert not factors.scores(interactions).any()
    assert Neighbors().fit(interactions).scores(interactions).nnz == 0


def test_null_directions_of_the_data_are_dropped() -> None:
    two_groups = np.kron(np.eye(2), np.ones((5, 4))).astype(np.float32)
    factors = Spectral(SpectralConfig(dimension=6)).fit(sparse.csr_matrix(two_groups))
    assert factors.dimension == 2
    scores = factors.scores(sparse.csr_matrix(two_groups))
    assert np.allclose(scores[:5, 4:], 0, atol=1e-5)
    assert (scores[:5, :4] > 0.1).all()


def test_progress_rises_to_one() -> None:
    for algorithm in (Spectral(SpectralConfig(dimension=4)), Neighbors()):
        shares: list[float] = []
        algorithm.fit(some_interactions(), shares.append)
        assert shares == sorted(shares)
        assert shares[-1] == 1.0


def neighbor_weights(interactions: Interactions, config: NeighborsConfig) -> np.ndarray:
    """The formula of the module's docstring, dense, without the diagonal."""
    r = interactions.toarray().astype(np.float64)
    sources, targets = (
        powers(r.sum(0), -config.source_degree_exponent),
        powers(r.sum(0), -config.target_degree_exponent),
    )
    weights = sources[:, None] * (r.T * powers(r.sum(1), -config.user_degree_exponent) @ r) * targets
    np.fill_diagonal(weights, 0)
    return weights


def test_neighbours_weigh_as_the_formula_says() -> None:
    interactions = some_interactions()
    config = NeighborsConfig(k=100)
    fitted = Neighbors(config).fit(interactions)
    expected = neighbor_weights(interactions, config)
    assert np.allclose(fitted.matrix().toarray(), expected, atol=1e-6)
    assert np.allclose(fitted.scores(interactions).toarray(), interactions @ expected, atol=1e-4)


@pytest.mark.parametrize("block_entries", [1, 100, 10_000_000])
def test_the_best_k_are_kept_best_first_whatever_the_blocks(
    block_entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbors, "_BLOCK_ENTRIES", block_entries)
    interactions = some_interactions()
    fitted = Neighbors(NeighborsConfig(k=7)).fit(interactions)
    expected = neighbor_weights(interactions, NeighborsConfig())
    for item in range(fitted.item_count):
        inside = slice(fitted.indptr[item], fitted.indptr[item + 1])
        assert item not in fitted.indices[inside]
        assert np.allclose(fitted.weights[inside], np.sort(expected[item])[::-1][:7][: len(fitted.weights[inside])])
        assert len(fitted.weights[inside]) == min(7, int((expected[item] > 0).sum()))


def test_dislikes_are_ignored_in_training_and_count_against_in_scoring() -> None:
    liked = some_interactions()
    mixed = liked.tolil()
    mixed[0, 5] = -2.0
    for algorithm in (Spectral(SpectralConfig(dimension=6)), Neighbors()):
        assert np.allclose(
            _dense(algorithm.fit(mixed.tocsr()).scores(liked)), _dense(algorithm.fit(liked).scores(liked))
        )
    assert (Neighbors().fit(liked).scores(-liked).data < 0).all()


def test_popularity_counts_users_with_a_positive_signal() -> None:
    interactions = sparse.csr_matrix(np.array([[2.0, -1.0, 0.0], [1.0, 1.0, 0.0]], dtype=np.float32))
    assert item_popularity(interactions).tolist() == [2.0, 1.0, 0.0]
    assert popularity_scores(interactions, 3).shape == (3, 3)


def _dense(scores: np.ndarray | Interactions) -> np.ndarray:
    return scores.toarray() if sparse.issparse(scores) else np.asarray(scores)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-8])
def test_a_basis_is_orthonormal_and_spans_the_columns_however_dependent_they_are(scale: float) -> None:
    rng = np.random.default_rng(1)
    columns = rng.standard_normal((500, 20)).astype(np.float32)
    columns[:, 10:] = columns[:, :10] + np.float32(scale) * columns[:, 10:]
    basis = orthonormal(columns)
    assert np.abs(basis.T @ basis - np.eye(20)).max() < 1e-4
    assert np.allclose(basis @ (basis.T @ columns), columns, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_fit_in_blocks_of_users_is_the_fit_of_the_whole(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    interactions = some_interactions(users=300)
    whole = Spectral(SpectralConfig(dimension=8, threads=1)).fit(interactions)
    monkeypatch.setattr(spectral, "_LEAST_BLOCK_ROWS", 25)
    in_blocks = Spectral(SpectralConfig(dimension=8, threads=threads)).fit(interactions)
    assert np.allclose(in_blocks.scores(interactions), whole.scores(interactions), atol=1e-4)
