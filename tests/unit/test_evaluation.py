"""Metrics against their definitions, worked by hand and one user at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from recsvc.domain.evaluation import (
    EMPTY,
    catalogue_coverage,
    hit_matrix,
    mean_novelty,
    rank_metrics,
    recall_of,
    top_k,
)

ITEMS = 12


def held_out(*items_of_users: list[int]) -> sparse.csr_matrix:
    dense = np.zeros((len(items_of_users), ITEMS), dtype=np.float32)
    for user, items in enumerate(items_of_users):
        dense[user, items] = 1.0
    return sparse.csr_matrix(dense)


a_list = st.lists(st.integers(0, ITEMS - 1), unique=True, max_size=5).map(lambda x: x + [EMPTY] * (5 - len(x)))
a_test_set = st.lists(st.integers(0, ITEMS - 1), unique=True, max_size=8)


def by_definition(recommended: list[int], test: list[int]) -> tuple[float, ...]:
    k = len(recommended)
    hits = [item in test for item in recommended]
    gain = sum(hit / math.log2(rank + 2) for rank, hit in enumerate(hits))
    ideal = sum(1 / math.log2(rank + 2) for rank in range(min(k, len(test))))
    precisions = [sum(hits[: rank + 1]) / (rank + 1) for rank, hit in enumerate(hits) if hit]
    return (
        sum(hits) / len(test),
        sum(hits) / k,
        gain / ideal,
        float(any(hits)),
        1 / (hits.index(True) + 1) if any(hits) else 0.0,
        sum(precisions) / min(k, len(test)),
    )


@given(st.lists(st.tuples(a_list, a_test_set), min_size=1, max_size=8))
def test_metrics_of_many_users_equal_the_definition_of_each(users: list[tuple[list[int], list[int]]]) -> None:
    metrics = rank_metrics(np.array([lists for lists, _ in users]), held_out(*[test for _, test in users]))
    expected = np.array([by_definition(lists, test) for lists, test in users if test]).reshape(-1, 6)
    actual = np.column_stack(
        [
            metrics.recall,
            metrics.precision,
            metrics.ndcg,
            metrics.hit_rate,
            metrics.reciprocal_rank,
            metrics.average_precision,
        ]
    )
    assert np.allclose(actual, expected)


def test_a_perfect_list_scores_one_even_when_it_cannot_hold_all_held_out_items() -> None:
    metrics = rank_metrics(np.array([[3, 4]]), held_out([3, 4, 5, 6])).means()
    assert metrics["ndcg"] == pytest.approx(1.0)
    assert metrics["map"] == 1.0
    assert metrics["recall"] == 0.5


def test_empty_places_and_users_without_held_out_items_do_not_count() -> None:
    recommended = np.array([[EMPTY, EMPTY], [1, EMPTY]])
    assert not hit_matrix(recommended, held_out([], [])).any()
    metrics = rank_metrics(recommended, held_out([], [1]))
    assert metrics.recall.tolist() == [1.0]
    assert set(rank_metrics(recommended, held_out([], [])).means().values()) == {0.0}


def test_coverage_counts_distinct_items() -> None:
    assert catalogue_coverage(np.array([[0, 1], [1, EMPTY]]), item_count=4) == 0.5


def test_novelty_is_the_information_in_bits() -> None:
    assert mean_novelty(np.array([[0, 1]]), np.array([8.0, 2.0]), user_count=8) == pytest.approx(1.0)
    assert mean_novelty(np.array([[2]]), np.array([8.0, 2.0, 0.0]), user_count=8) == pytest.approx(3.0)


def test_recall_of_counts_items_by_their_weights() -> None:
    weights = np.zeros(ITEMS)
    weights[[1, 2, 3]] = [1.0, 2.0, 4.0]
    found, wanted = recall_of(np.array([[1, 5, 2], [3, EMPTY, EMPTY]]), held_out([1, 2, 3], [5]), weights)
    assert found.tolist() == [3.0, 0.0]
    assert wanted.tolist() == [7.0, 0.0]


@given(st.lists(st.tuples(a_list, a_test_set), min_size=1, max_size=8))
def test_recall_of_all_items_alike_is_recall(users: list[tuple[list[int], list[int]]]) -> None:
    lists, tests = np.array([lists for lists, _ in users]), held_out(*[test for _, test in users])
    found, wanted = recall_of(lists, tests, np.ones(ITEMS))
    tested = wanted > 0
    assert np.allclose(found[tested] / wanted[tested], rank_metrics(lists, tests).recall)
    assert (found[~tested] == 0).all()


def test_top_k_leaves_out_excluded_items_and_breaks_ties_by_item() -> None:
    scores = np.array([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    excluded = sparse.csr_matrix(np.array([[0, 1, 0, 0], [0, 0, 0, 0]], dtype=np.float32))
    assert top_k(scores, 2, excluded).tolist() == [[2, 3], [0, 1]]


def test_top_k_of_too_few_items_ends_with_empty_places() -> None:
    assert top_k(np.array([[1.0, -np.inf]]), 4).tolist() == [[0, EMPTY, EMPTY, EMPTY]]
