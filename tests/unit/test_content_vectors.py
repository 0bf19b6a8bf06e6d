"""From features and users to a vector: who counts how much, and how long the vector is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recsvc.domain.arrays import Float32
from recsvc.domain.content_vectors import (
    Calibration,
    Evidence,
    FeatureVectors,
    derived_vector,
    derived_vectors,
    predicted_direction,
)

_CALIBRATION = Calibration(
    length=3.0, fold_in_length=0.5, confidence=0.5, content_weight=4.0, typical_degree=10.0, growth=0.5
)
_MEAN = np.zeros(3, dtype=np.float32)
_EAST, _NORTH, _UP = np.eye(3, dtype=np.float32)
_KNOWN = FeatureVectors({"a": 1.0, "b": 2.0}, {"a": _EAST, "b": _NORTH}, 0.1 * _UP)


def _derived(predicted: Float32 | None, evidence: Evidence | None = None) -> Float32:
    found = derived_vector(predicted, evidence, _MEAN, _CALIBRATION)
    assert found is not None
    return found.vector


def _users(count: int, direction: Float32) -> Evidence:
    return Evidence(count, count * direction)


def test_a_prediction_is_the_mean_and_the_unit_row_times_the_features() -> None:
    found = predicted_direction({"a": 1.5, "b": 1.0, "unknown": 9.0}, _KNOWN)
    assert found == pytest.approx(0.1 * _UP + 0.6 * _EAST + 0.8 * _NORTH)


def test_without_a_known_feature_there_is_no_prediction() -> None:
    assert predicted_direction({}, _KNOWN) is None
    assert predicted_direction({"unknown": 1.0}, _KNOWN) is None


def test_a_usual_prediction_has_the_typical_length_and_a_surer_one_more() -> None:
    assert np.linalg.norm(_derived(0.5 * _EAST)) == pytest.approx(3.0)
    assert np.linalg.norm(_derived(0.75 * _EAST)) == pytest.approx(4.5)


def test_an_item_adds_as_much_to_a_user_whatever_its_length() -> None:
    for predicted in (0.1 * _EAST, _EAST):
        found = derived_vector(predicted, None, _MEAN, _CALIBRATION)
        assert found is not None
        assert np.linalg.norm(found.vector) * found.fold_in_scale == pytest.approx(0.5)


def test_many_items_get_the_vectors_that_each_would_get() -> None:
    predicted = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    vectors, scales = derived_vectors(predicted, _CALIBRATION)
    for row in range(20):
        one = derived_vector(predicted[row], None, _MEAN, _CALIBRATION)
        assert one is not None
        np.testing.assert_allclose(vectors[row], one.vector, rtol=1e-5)
        assert scales[row] == pytest.approx(one.fold_in_scale, rel=1e-5)


def test_users_turn_a_vector_towards_them_one_after_another() -> None:
    northward = [_derived(0.5 * _EAST, _users(count, _NORTH)) for count in range(30)]
    cosines = [vector[1] / np.linalg.norm(vector) for vector in northward]
    assert cosines == sorted(cosines)
    assert cosines[0] == 0
    assert cosines[-1] > 0.99
    # κ users weigh as much as a prediction of length 1, so two as much as one of a half.
    assert cosines[2] == pytest.approx(np.sqrt(0.5))


def test_a_vector_grows_with_its_users_as_those_of_trained_items_do() -> None:
    lengths = [np.linalg.norm(_derived(0.5 * _EAST, _users(count, _EAST))) for count in (0, 10, 30)]
    assert lengths == pytest.approx([3.0, 3.0 * np.sqrt(2), 6.0])


def test_users_alone_place_an_item_that_says_nothing() -> None:
    vector = _derived(None, _users(3, _NORTH))
    assert vector[1] == pytest.approx(np.linalg.norm(vector))


def test_without_content_and_users_there_is_no_vector() -> None:
    assert derived_vector(None, None, _MEAN, _CALIBRATION) is None
    assert derived_vector(None, None, _UP, _CALIBRATION) is None


def test_users_who_contradict_each_other_completely_place_nothing() -> None:
    assert derived_vector(None, Evidence(2, _MEAN), _MEAN, _CALIBRATION) is None


def test_a_certainty_of_zero_is_no_division_by_it() -> None:
    found = derived_vector(0.5 * _EAST, None, _MEAN, replace(_CALIBRATION, length=0.0))
    assert found is None
