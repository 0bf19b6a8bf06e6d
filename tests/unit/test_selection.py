"""Selection: the held-out part decides, and nothing held out means the default."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from recsvc.domain.arrays import Interactions
from recsvc.training.algorithms.interface import ItemNeighbors
from recsvc.training.algorithms.neighbors import Neighbors
from recsvc.training.algorithms.spectral import Spectral, SpectralConfig
from recsvc.training.selection import DEFAULT_WEIGHTS, WEIGHTS_TRIED, select


def tastes(users: int = 120, items: int = 60, groups: int = 6, seed: int = 2) -> tuple[Interactions, Interactions]:
    """Users who mostly like the items of their group, a part of them held out."""
    rng = np.random.default_rng(seed)
    same = (np.arange(users)[:, None] % groups) == (np.arange(items)[None, :] % groups)
    liked = rng.random((users, items)) < np.where(same, 0.7, 0.05)
    held_out = liked & (rng.random((users, items)) < 0.2)
    return (
        sparse.csr_matrix((liked & ~held_out).astype(np.float32)),
        sparse.csr_matrix(held_out.astype(np.float32)),
    )


def test_a_clearly_better_choice_replaces_the_default() -> None:
    train, held_out = tastes()
    factors = Spectral(SpectralConfig(dimension=80, rows_per_dimension=1)).fit(train)
    neighbors = Neighbors().fit(train)
    selection = select(factors, neighbors, train, held_out)
    assert selection.ndcg == max(selection.tried.values())
    assert selection.ndcg > selection.tried[factors.dimension, 0]
    assert selection.weights in WEIGHTS_TRIED
    assert len(selection.tried) == 3 * len(WEIGHTS_TRIED)


def test_a_difference_within_chance_leaves_the_default() -> None:
    train, _ = tastes()
    chance = sparse.csr_matrix((np.random.default_rng(0).random(train.shape) > 0.95).astype(np.float32))
    factors = Spectral(SpectralConfig(dimension=1)).fit(train)
    nothing = ItemNeighbors(np.zeros(61, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    selection = select(factors, nothing, train, chance)
    assert (selection.dimension, selection.weights) == (1, DEFAULT_WEIGHTS)


def test_structure_is_found_where_there_is_some() -> None:
    train, held_out = tastes()
    factors, neighbors = Spectral().fit(train), Neighbors().fit(train)
    chance = np.random.default_rng(0).random(train.shape).astype(np.float32)
    assert select(factors, neighbors, train, held_out).ndcg > 0.5
    scrambled = sparse.csr_matrix((chance > 0.9).astype(np.float32))
    assert select(factors, neighbors, train, scrambled).ndcg < 0.3


def test_without_held_out_interactions_the_default_stays() -> None:
    train, _ = tastes()
    factors, neighbors = Spectral(SpectralConfig(dimension=16)).fit(train), Neighbors().fit(train)
    selection = select(factors, neighbors, train, sparse.csr_matrix(train.shape, dtype=np.float32))
    assert (selection.dimension, selection.weights) == (16, DEFAULT_WEIGHTS)


def test_truncated_factors_equal_a_smaller_fit() -> None:
    train, _ = tastes()
    large = Spectral(SpectralConfig(dimension=12, power_iterations=30)).fit(train)
    small = Spectral(SpectralConfig(dimension=5, power_iterations=30)).fit(train)
    assert np.allclose(large.truncated(5).scores(train), small.scores(train), atol=1e-3)


def test_small_data_gets_few_dimensions() -> None:
    train, _ = tastes(users=400, items=350)
    assert Spectral().fit(train).dimension == 350 // 16
    assert Spectral(SpectralConfig(rows_per_dimension=5)).fit(train).dimension == 70
