"""Blending: scale-free per user, additive per source."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recsvc.domain.ranking.blend import best_first, best_first_of_rows, blend

finite = st.floats(min_value=-1e6, max_value=1e6)
components = st.integers(1, 20).flatmap(
    lambda n: st.dictionaries(
        st.sampled_from(["collaborative", "neighbors", "content", "popularity"]),
        arrays(np.float64, n, elements=finite),
        min_size=1,
    )
)


@given(components)
def test_contributions_add_up_to_the_score(parts: dict[str, np.ndarray]) -> None:
    blended = blend(parts, {"collaborative": 2.0, "neighbors": 1.0, "content": 0.25})
    assert np.allclose(sum(blended.contributions.values()), blended.scores)


@given(arrays(np.float64, 8, elements=st.floats(0.001, 1e6)), st.floats(1e-3, 1e3))
def test_the_scale_of_a_source_does_not_matter(component: np.ndarray, scale: float) -> None:
    other = np.linspace(0, 1, 8)
    weights = {"a": 1.0, "b": 1.0}
    once = blend({"a": component, "b": other}, weights)
    scaled = blend({"a": component * scale, "b": other}, weights)
    assert np.allclose(once.scores, scaled.scores)


def test_each_source_is_divided_by_its_own_maximum_and_weighted() -> None:
    blended = blend({"a": np.array([10.0, 5.0]), "b": np.array([0.0, 0.2])}, {"a": 2.0, "b": 1.0})
    assert blended.scores.tolist() == [2.0, 2.0]
    assert blended.contributions["b"].tolist() == [0.0, 1.0]


def test_missing_values_count_as_nothing() -> None:
    blended = blend({"a": np.array([np.nan, 4.0]), "b": np.array([1.0, np.nan])}, {"a": 1.0, "b": 1.0})
    assert blended.scores.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("values", [[0.0, 0.0], [-1.0, -2.0], [np.nan, np.nan]])
def test_a_source_without_a_positive_score_says_nothing(values: list[float]) -> None:
    assert blend({"a": np.array(values)}, {"a": 1.0}).scores.tolist() == [0.0, 0.0]


def test_a_source_without_a_weight_contributes_nothing() -> None:
    assert blend({"a": np.array([1.0]), "b": np.array([1.0])}, {"a": 1.0}).scores.tolist() == [1.0]


def test_many_users_blend_like_each_alone() -> None:
    rng = np.random.default_rng(5)
    parts = {"a": rng.normal(size=(4, 9)), "b": rng.random((4, 9))}
    weights = {"a": 2.0, "b": 1.0}
    together = blend(parts, weights).scores
    alone = [blend({name: part[user] for name, part in parts.items()}, weights).scores for user in range(4)]
    assert np.array_equal(together, alone)


def test_blending_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        blend({}, {})


@given(arrays(np.float64, st.integers(0, 60), elements=st.integers(0, 5).map(float)), st.integers(0, 70))
def test_best_first_is_the_head_of_a_stable_sort(scores: np.ndarray, k: int) -> None:
    assert best_first(scores, k).tolist() == np.argsort(-scores, kind="stable")[:k].tolist()


_ROWS = st.tuples(st.integers(1, 5), st.integers(0, 40)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.integers(0, 5).map(float) | st.just(-np.inf))
)


@given(_ROWS, st.integers(1, 50))
def test_the_best_of_rows_are_those_of_each_row_that_has_a_score(scores: np.ndarray, k: int) -> None:
    rows, positions = best_first_of_rows(scores, k)
    for row, of_row in enumerate(scores):
        expected = [at for at in best_first(of_row, len(of_row)).tolist() if of_row[at] > -np.inf][:k]
        assert positions[rows == row].tolist() == expected
