"""Items too new for item–item sources: silence is not a no, and nobody else's score changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from recsvc.domain.ranking.blend import Blended, blend
from recsvc.domain.ranking.newcomers import with_estimates

_WEIGHTS = {"collaborative": 1.0, "neighbors": 2.0, "sequence": 1.0}


def _blended(collaborative: list[float], neighbors: list[float]) -> Blended:
    return blend({"collaborative": np.array(collaborative), "neighbors": np.array(neighbors)}, _WEIGHTS)


def test_a_new_item_scores_as_a_known_one_of_its_collaborative_score_does() -> None:
    told = [*np.linspace(1.0, 0.1, 20), 0.55]
    neighbors = [*np.linspace(1.0, 0.1, 20), np.nan]
    found = with_estimates(_blended(told, neighbors), np.array(told), np.arange(21) == 20)
    assert found.scores[20] == pytest.approx(3 * 0.55)
    assert found.contributions["content"][20] == pytest.approx(2 * 0.55)


def test_what_does_not_go_with_the_collaborative_score_is_expected_at_its_mean() -> None:
    rng = np.random.default_rng(0)
    told, neighbors = rng.random(200), rng.random(200)
    blended = _blended([*told, 0.9], [*neighbors, np.nan])
    found = with_estimates(blended, np.array([*told, 0.9]), np.arange(201) == 200)
    assert found.contributions["content"][200] == pytest.approx(
        blended.contributions["neighbors"][:200].mean(), rel=0.2
    )


_SCORES = arrays.arrays(np.float64, 30, elements=st.floats(0, 10))


@given(_SCORES, _SCORES, _SCORES, arrays.arrays(np.bool_, 30))
def test_contributions_add_up_and_known_items_keep_their_scores(
    collaborative: np.ndarray, neighbors: np.ndarray, sequence: np.ndarray, is_new: np.ndarray
) -> None:
    neighbors[is_new] = np.nan
    components = {"collaborative": collaborative, "neighbors": neighbors, "sequence": sequence}
    before = blend(components, _WEIGHTS)
    after = with_estimates(before, collaborative, is_new)
    assert np.array_equal(after.scores[~is_new], before.scores[~is_new])
    assert (after.scores >= before.scores).all()
    np.testing.assert_allclose(sum(after.contributions.values()), after.scores, atol=1e-9)


@given(_SCORES, _SCORES, arrays.arrays(np.bool_, 30))
def test_the_silent_sources_never_give_a_new_item_more_than_their_favourite(
    collaborative: np.ndarray, neighbors: np.ndarray, is_new: np.ndarray
) -> None:
    neighbors[is_new] = np.nan
    before = blend({"collaborative": collaborative, "neighbors": neighbors}, _WEIGHTS)
    content = with_estimates(before, collaborative, is_new).contributions.get("content", np.zeros(30))
    assert content.max() <= before.contributions["neighbors"].max(initial=0.0) + 1e-9


def test_noise_in_what_is_told_of_known_items_is_not_extrapolated() -> None:
    told = np.array([*np.linspace(1e-9, 2e-9, 20), 1.0])
    found = with_estimates(_blended(told.tolist(), [*np.linspace(0.0, 1.0, 20), np.nan]), told, np.arange(21) == 20)
    assert found.contributions["content"][20] <= _WEIGHTS["neighbors"]


def test_without_new_items_or_silent_sources_nothing_changes() -> None:
    blended = _blended([1.0] * 20, [1.0] * 20)
    assert with_estimates(blended, np.ones(20), np.zeros(20, dtype=bool)) is blended
    alone = blend({"collaborative": np.ones(20)}, _WEIGHTS)
    assert with_estimates(alone, np.ones(20), np.arange(20) == 3) is alone


def test_a_few_known_items_are_too_few_to_estimate_from() -> None:
    blended = _blended([1.0] * 5, [1.0] * 4 + [np.nan])
    assert with_estimates(blended, np.ones(5), np.arange(5) == 4) is blended


def test_a_new_item_that_nothing_speaks_for_gets_nothing() -> None:
    told = np.array([*([1.0] * 20), np.nan])
    found = with_estimates(_blended(told.tolist(), [*([1.0] * 20), np.nan]), told, np.arange(21) == 20)
    assert found.scores[20] == 0


def test_a_blend_without_the_collaborative_source_lets_new_items_in_all_the_same() -> None:
    told = np.array([*np.linspace(1.0, 0.1, 20), 0.55])
    blended = blend({"neighbors": np.array([*np.linspace(1.0, 0.1, 20), np.nan])}, {"neighbors": 1.0})
    assert with_estimates(blended, told, np.arange(21) == 20).scores[20] == pytest.approx(0.55)


def test_lists_of_different_lengths_are_estimated_together_as_each_alone() -> None:
    rng = np.random.default_rng(3)
    told, neighbors = rng.random((4, 40)), rng.random((4, 40))
    is_there = np.arange(40) < np.array([[40], [25], [12], [5]])
    is_new = (np.arange(40) % 7 == 3) & is_there
    told[~is_there] = neighbors[~is_there | is_new] = np.nan
    parts = {"collaborative": told, "neighbors": neighbors}
    together = with_estimates(blend(parts, _WEIGHTS), told, is_new, is_old=is_there & ~is_new)
    for row in range(4):
        cut = {name: part[row, is_there[row]] for name, part in parts.items()}
        alone = with_estimates(blend(cut, _WEIGHTS), cut["collaborative"], is_new[row, is_there[row]])
        assert together.scores[row, is_there[row]] == pytest.approx(alone.scores)
    assert (together.scores > blend(parts, _WEIGHTS).scores).any(axis=1).tolist() == [True, True, True, False]
