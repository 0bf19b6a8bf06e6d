"""From an item's features, and the users who have touched it, to its vector: in closed form, any time after training.

What training leaves behind (`ContentModel`) is one vector per feature and a few numbers. The rest is arithmetic, the
same for a million items at publication and for one new item a second after it was created.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsvc.domain.arrays import Float32
from recsvc.domain.content import Features

_NOTHING = 1e-12


@dataclass(frozen=True, slots=True)
class Calibration:
    """How long a vector without behaviour of its own must be to compete with those that have it.

    Training gives an item a vector as long as it is popular, and a user's vector is a sum over items. An item that
    nobody has touched stands as a typical one; every user who touches it lends it a direction and some length.
    """

    length: float
    """Of a typical item's vector: the median."""

    fold_in_length: float
    """Of what a typical item adds to a user's vector (vector × scale): the median."""

    confidence: float
    """The mean length of a predicted direction: 1 would be certainty."""

    content_weight: float
    """κ: as many users as this must touch an item before they count as much as a certain prediction."""

    typical_degree: float
    """Users of a typical item."""

    growth: float
    """c in length ~ degree^c."""


@dataclass(frozen=True, slots=True)
class FeatureVectors:
    """What some features say: by name, their inverse document frequency and their vector, (dimension,).

    mean: (dimension,), what is said of an item by its being one of this catalogue.
    """

    idf: Mapping[str, float]
    vectors: Mapping[str, Float32]
    mean: Float32


@dataclass(frozen=True, slots=True)
class ContentModel:
    """What training learned: names (m,), idf (m,), vectors (m, d), mean (d,), all float32."""

    names: Sequence[str]
    idf: Float32
    vectors: Float32
    mean: Float32
    calibration: Calibration


@dataclass(frozen=True, slots=True)
class Evidence:
    """The users who touched an item after training: how many, and the sum of their unit vectors, (dimension,)."""

    users: int
    direction: Float32


@dataclass(frozen=True, slots=True)
class DerivedVector:
    """An item's vector, (dimension,), and its scale in folding users in."""

    vector: Float32
    fold_in_scale: float


def predicted_direction(features: Features, known: FeatureVectors) -> Float32 | None:
    """The expected unit vector of an item with these features, (dimension,): mean + Σ x_f b_f, x the unit TF-IDF row.

    Its length says how sure that is. None when no feature is known: then nothing tells the item from any other.
    """
    weights = {name: strength * known.idf[name] for name, strength in features.items() if name in known.idf}
    length = float(np.linalg.norm(list(weights.values())))
    if length <= _NOTHING:
        return None
    vectors = np.array([known.vectors[name] for name in weights], dtype=np.float32)
    shares = np.array(list(weights.values()), dtype=np.float32) / np.float32(length)
    return np.asarray(known.mean + shares @ vectors, dtype=np.float32)


def derived_vector(
    predicted: Float32 | None, evidence: Evidence | None, mean: Float32, calibration: Calibration
) -> DerivedVector | None:
    """The vector of an item that training does not know, or None when there is nothing to go by.

    direction ∝ κ · prediction + Σ_u u/|u| over the users u of the evidence (the posterior mode of a von Mises–Fisher
    direction with the prediction as prior). Length: typical, times the confidence of the prediction relative to the
    usual while there is nothing else, and growing with the users as that of trained items does.
    """
    users = evidence.users if evidence is not None else 0
    if predicted is None and users == 0:
        return None
    prior = mean if predicted is None else predicted
    kappa = calibration.content_weight
    combined = kappa * prior + (evidence.direction if evidence is not None else 0.0)
    norm = float(np.linalg.norm(combined))
    if norm <= _NOTHING:
        return None
    sureness = float(np.linalg.norm(prior)) / max(calibration.confidence, _NOTHING)
    confidence = (kappa * sureness + users) / (kappa + users)
    grown = (1.0 + users / max(calibration.typical_degree, 1.0)) ** calibration.growth
    length = calibration.length * confidence * grown
    vector = (combined * (length / norm)).astype(np.float32)
    return DerivedVector(vector, calibration.fold_in_length / length) if length > _NOTHING else None


def derived_vectors(predicted: Float32, calibration: Calibration) -> tuple[Float32, Float32]:
    """The vectors, (n, d), and scales, (n,), of many items that nobody has touched; predicted: (n, d), no row zero."""
    norms = np.linalg.norm(predicted, axis=1)
    vectors = predicted * np.float32(calibration.length / max(calibration.confidence, _NOTHING))
    scales = calibration.fold_in_length / (calibration.length * norms / max(calibration.confidence, _NOTHING))
    return vectors.astype(np.float32), scales.astype(np.float32)
