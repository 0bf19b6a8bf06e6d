"""ALS: the linear fold-in against a direct solve of the equations of Hu, Koren and Volinsky."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsvc.domain.arrays import Interactions
from recsvc.training.algorithms.als import Als, AlsConfig, item_factors, linear_fold_in, user_factors


def some_interactions(users: int = 60, items: int = 40, density: float = 0.15, seed: int = 7) -> Interactions:
    rng = np.random.default_rng(seed)
    dense = (rng.random((users, items)) < density).astype(np.float32)
    dense[3, :], dense[:, 5] = 0, 0
    return sparse.csr_matrix(dense)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 8), st.sampled_from([0.01, 1.0, 20.0]))
def test_inner_products_of_folded_vectors_are_those_of_a_direct_solve(
    seed: int, item_count: int, dimension: int, regularisation: float
) -> None:
    rng = np.random.default_rng(seed)
    items = rng.standard_normal((item_count, dimension)).astype(np.float32)
    signals = (rng.random((5, item_count)) < 0.4).astype(np.float64)
    exact = items.astype(np.float64)
    users = np.linalg.solve(exact.T @ exact + regularisation * np.eye(dimension), exact.T @ signals.T).T
    folded = linear_fold_in(items, regularisation)
    assert np.allclose((signals @ folded) @ folded.T, users @ exact.T, atol=1e-3)


@pytest.mark.parametrize("confidence", [1.0, 8.0])
def test_the_fitted_model_scores_as_a_direct_solve_for_its_item_factors(confidence: float) -> None:
    interactions = some_interactions()
    config = AlsConfig(dimension=8, regularisation=2.0, confidence=confidence)
    items = item_factors(interactions, config).astype(np.float64)
    solve = np.linalg.inv(items.T @ items + config.regularisation * np.eye(8))
    expected = interactions.toarray() @ items @ solve @ items.T
    assert np.abs(expected).max() > 0.1
    assert np.allclose(Als(config).fit(interactions).scores(interactions), expected, atol=1e-4)


def test_user_factors_solve_the_weighted_equations() -> None:
    interactions = some_interactions()
    config = AlsConfig(dimension=6, regularisation=2.0, confidence=8.0)
    items = item_factors(interactions, config)
    users = user_factors(interactions, items, config)
    y = items.astype(np.float64)
    for user in range(10):
        r = interactions[user].toarray()[0].astype(np.float64)
        weights = np.diag(np.where(r > 0, config.confidence * r, 1.0))
        expected = np.linalg.solve(
            y.T @ weights @ y + config.regularisation * np.eye(6), y.T @ weights @ (r > 0).astype(np.float64)
        )
        assert np.allclose(users[user], expected, atol=1e-3)


def test_without_extra_confidence_the_linear_fold_in_is_exact() -> None:
    interactions = some_interactions()
    config = AlsConfig(dimension=6, regularisation=2.0, confidence=1.0)
    items = item_factors(interactions, config)
    exact = user_factors(interactions, items, config) @ items.T
    assert np.allclose(Als(config).fit(interactions).scores(interactions), exact, atol=1e-4)


def test_leading_coordinates_are_the_best_approximation_of_their_number() -> None:
    interactions = some_interactions()
    factors = Als(AlsConfig(dimension=10, regularisation=2.0)).fit(interactions)
    whole = factors.vectors @ factors.vectors.T
    values = np.linalg.eigvalsh(whole.astype(np.float64))[::-1]
    leading = factors.vectors[:, :4]
    error = np.linalg.norm(whole - leading @ leading.T)
    assert error == pytest.approx(np.sqrt((values[4:] ** 2).sum()), rel=1e-3)


def test_untouched_items_have_zero_vectors_and_scale() -> None:
    factors = Als(AlsConfig(dimension=6)).fit(some_interactions())
    assert not factors.vectors[5].any()
    assert factors.fold_in_scales[5] == 0
    assert 8 <= np.abs(factors.vectors).max() <= 16


def test_the_same_seed_gives_the_same_factors() -> None:
    one, other = (Als(AlsConfig(dimension=6, seed=3)).fit(some_interactions()) for _ in range(2))
    assert np.array_equal(one.vectors, other.vectors)


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (4, 3)])
def test_no_interactions_at_all_score_nothing(shape: tuple[int, int]) -> None:
    interactions = sparse.csr_matrix(shape, dtype=np.float32)
    scores = Als().fit(interactions).scores(interactions)
    assert scores.shape == shape
    assert not scores.any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (3, 2)])
def test_tiny_matrices_are_fitted_whole(shape: tuple[int, int]) -> None:
    interactions = sparse.csr_matrix(np.ones(shape, dtype=np.float32))
    factors = Als().fit(interactions)
    assert 1 <= factors.dimension <= min(shape)
    assert (factors.scores(interactions) > 0).all()


def test_progress_rises_to_one() -> None:
    shares: list[float] = []
    Als(AlsConfig(dimension=4)).fit(some_interactions(), shares.append)
    assert shares == sorted(shares)
    assert len(shares) > 10
    assert shares[-1] == 1.0
