"""Diversity, caps, novelty and exploration: what must hold for any list."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recsvc.domain.ranking.diversity import (
    CategoryCap,
    cap_per_category,
    explore,
    mmr,
    novelty_factors,
    popularity_percentiles,
)

counts = st.integers(1, 25)
scores_of = counts.flatmap(lambda n: arrays(np.float64, n, elements=st.integers(0, 8).map(lambda x: x / 8)))
category_lists = st.lists(st.lists(st.sampled_from("abcd"), max_size=3), min_size=1, max_size=25)


def some_vectors(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 4))


@given(scores_of, st.integers(0, 30))
def test_mmr_with_trade_off_one_is_a_stable_sort(scores: np.ndarray, k: int) -> None:
    chosen = mmr(scores, some_vectors(len(scores)), k, trade_off=1.0)
    assert chosen.tolist() == np.argsort(-scores, kind="stable")[:k].tolist()


@given(scores_of, st.integers(0, 30), st.floats(0, 1))
def test_mmr_gives_distinct_candidates_and_as_many_as_asked(scores: np.ndarray, k: int, trade_off: float) -> None:
    chosen = mmr(scores, some_vectors(len(scores)), k, trade_off)
    assert len(set(chosen.tolist())) == len(chosen) == min(k, len(scores))
    assert set(chosen.tolist()) <= set(range(len(scores)))


@given(scores_of, st.floats(0, 1), st.integers(1, 10))
def test_mmr_follows_its_definition_step_by_step(scores: np.ndarray, trade_off: float, k: int) -> None:
    vectors = some_vectors(len(scores))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit.T
    chosen = mmr(scores, vectors, k, trade_off).tolist()
    for step, position in enumerate(chosen[1:], start=1):
        left = [i for i in range(len(scores)) if i not in chosen[:step]]
        marginal = {i: trade_off * scores[i] - (1 - trade_off) * similarity[i, chosen[:step]].max() for i in left}
        assert marginal[position] == pytest.approx(max(marginal.values()), abs=1e-5)


def test_mmr_takes_something_different_before_a_near_copy() -> None:
    scores = np.array([1.0, 0.95, 0.5])
    vectors = np.array([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]])
    assert mmr(scores, vectors, 3, trade_off=0.5).tolist() == [0, 2, 1]


def test_mmr_treats_zero_vectors_as_similar_to_nothing() -> None:
    assert mmr(np.array([1.0, 0.9, 0.8]), np.zeros((3, 2)), 3, trade_off=0.3).tolist() == [0, 1, 2]


@given(category_lists, st.integers(1, 3), st.integers(0, 30))
def test_no_category_exceeds_its_cap(categories: list[list[str]], max_per_category: int, k: int) -> None:
    n = len(categories)
    order = np.random.default_rng(n).permutation(n)
    vectors, scores = some_vectors(n), np.linspace(1, 0, n)
    capped = cap_per_category(order, categories, max_per_category, k)
    diverse = mmr(scores, vectors, k, 0.5, CategoryCap(categories, max_per_category))
    for ranking in (capped, diverse):
        taken = Counter(name for position in ranking.tolist() for name in set(categories[position]))
        assert max(taken.values(), default=0) <= max_per_category
        assert len(set(ranking.tolist())) == len(ranking) <= k


@given(category_lists, st.integers(1, 3))
def test_the_cap_passes_over_only_what_would_exceed_it(categories: list[list[str]], max_per_category: int) -> None:
    order = np.arange(len(categories))
    kept = cap_per_category(order, categories, max_per_category, len(categories)).tolist()
    assert kept == sorted(kept)
    for position in set(order.tolist()) - set(kept):
        earlier = Counter(name for other in kept if other < position for name in set(categories[other]))
        assert any(earlier[name] == max_per_category for name in categories[position])


def test_items_without_a_category_are_never_capped() -> None:
    assert cap_per_category(np.arange(4), [[], ["a"], [], ["a"]], 1, 4).tolist() == [0, 1, 2]


@given(arrays(np.float64, st.integers(2, 30), elements=st.integers(-5, 5).map(float)))
def test_percentiles_follow_popularity_from_zero_to_one(popularity: np.ndarray) -> None:
    percentiles = popularity_percentiles(popularity)
    assert percentiles.min() >= 0
    assert percentiles.max() <= 1
    assert percentiles.mean() == pytest.approx(0.5)
    order = np.argsort(popularity)
    assert np.all(np.sign(np.diff(percentiles[order])) == np.sign(np.diff(popularity[order])))


@given(arrays(np.float64, 10, elements=st.floats(0, 1)), st.floats(-1, 1))
def test_novelty_moves_scores_one_way_with_popularity(percentiles: np.ndarray, novelty: float) -> None:
    factors = novelty_factors(np.sort(percentiles), novelty)
    assert np.all(factors > 0)
    assert np.all(np.diff(factors) * np.sign(novelty) <= 0)
    assert np.allclose(factors * novelty_factors(np.sort(percentiles), -novelty), 1.0)


def test_novelty_zero_changes_nothing() -> None:
    assert novelty_factors(np.array([0.0, 0.3, 1.0]), 0.0).tolist() == [1.0, 1.0, 1.0]


@given(st.integers(0, 40), st.integers(0, 50), st.floats(0, 1), st.integers(0, 2**63 - 1))
def test_exploration_keeps_the_order_of_the_rest_and_repeats_with_its_seed(
    n: int, k: int, share: float, seed: int
) -> None:
    order = np.random.default_rng(1).permutation(n)
    ranking, explored = explore(order, k, share, seed)
    again, _ = explore(order, k, share, seed)
    assert np.array_equal(ranking, again)
    assert len(ranking) == min(k, n) == len(set(ranking.tolist()))
    assert ranking[~explored].tolist() == order[: int((~explored).sum())].tolist()
    assert set(ranking[explored].tolist()) <= set(order[min(k, n) :].tolist())
    assert abs(explored.sum() - min(share * min(k, n), max(n - k, 0))) <= 1


def test_exploration_has_the_stated_share_on_average() -> None:
    explored = [explore(np.arange(100), 10, 0.05, seed)[1].mean() for seed in range(2000)]
    assert np.mean(explored) == pytest.approx(0.05, abs=0.01)


def test_no_exploration_by_default_share_zero() -> None:
    ranking, explored = explore(np.arange(5), 3, 0.0, seed=1)
    assert ranking.tolist() == [0, 1, 2]
    assert not explored.any()
