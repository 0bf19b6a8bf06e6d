"""The mapping from content to behaviour: it finds what is there, and depends on nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsvc.domain.arrays import Interactions
from recsvc.domain.content import Features
from recsvc.training.algorithms.content import Content, ContentConfig, ContentFit, FeatureTable, FeatureTableBuilder
from recsvc.training.algorithms.interface import ItemFactors
from recsvc.training.algorithms.spectral import Spectral, SpectralConfig

_GENRES = ("space", "love", "crime", "war")
_SMALL = ContentConfig(penalties=(3.0, 0.3))


def _tastes(items: int = 80, users: int = 200, seed: int = 0) -> tuple[list[Features], Interactions]:
    """Users who like a third of the items of one genre; items that name their genre and something of no meaning."""
    rng = np.random.default_rng(seed)
    genres = np.arange(items) % len(_GENRES)
    features = [{f"category:{_GENRES[genre]}": 1.0, f"tag:{rng.integers(10)}": 1.0} for genre in genres]
    likes = (genres == rng.integers(len(_GENRES), size=users)[:, np.newaxis]) & (rng.random((users, items)) < 0.3)
    return features, sparse.csr_matrix(likes.astype(np.float32))


def _fit(features: list[Features], likes: Interactions, config: ContentConfig = _SMALL) -> ContentFit:
    factors = Spectral(SpectralConfig(dimension=16)).fit(likes)
    fit = Content(config).fit(FeatureTable.of(features), factors, likes)
    assert fit is not None
    return fit


def test_a_new_item_is_near_the_items_of_its_genre() -> None:
    features, likes = _tastes()
    factors = Spectral(SpectralConfig(dimension=16)).fit(likes)
    fit = _fit(features, likes)
    new: list[Features] = [{f"category:{genre}": 1.0} for genre in _GENRES]
    positions, vectors, _ = fit.vectors(FeatureTable.of(new))
    assert positions.tolist() == [0, 1, 2, 3]
    similarity = (factors.vectors @ vectors.T).reshape(-1, len(_GENRES), len(_GENRES)).mean(axis=0)
    assert np.array_equal(similarity.argmax(axis=1), np.arange(len(_GENRES)))


def test_held_out_items_are_found_better_than_by_chance() -> None:
    metrics = _fit(*_tastes(items=200)).metrics
    assert metrics["content_cosine"] > 0.5
    assert metrics["content_recall_at_10"] > 1.5 * metrics["content_random_recall_at_10"]
    assert metrics["content_cosine_with_users"] >= metrics["content_cosine"] - 0.05


def test_the_least_squares_are_solved() -> None:
    features, likes = _tastes()
    config = replace(_SMALL, penalties=(1.0,), tolerance=1e-6, iterations=500)
    fit = _fit(features, likes, config)
    factors = Spectral(SpectralConfig(dimension=16)).fit(likes)
    # The same by the normal equations, dense and in double precision.
    degrees = np.asarray(likes.sum(axis=0)).ravel()
    codes = {name: code for code, name in enumerate(fit.model.names)}
    rows = np.zeros((len(features), len(codes)))
    for item, of_item in enumerate(features):
        for name, strength in of_item.items():
            rows[item, codes[name]] = strength * fit.model.idf[codes[name]]
    rows /= np.linalg.norm(rows, axis=1)[:, np.newaxis]
    targets = factors.vectors / np.linalg.norm(factors.vectors, axis=1)[:, np.newaxis]
    weights = np.minimum(degrees, config.degree_cap)
    weights /= weights.mean()
    mean = np.average(targets, axis=0, weights=weights)
    gram = rows.T @ (weights[:, np.newaxis] * rows) + np.eye(len(codes))
    exact = np.linalg.solve(gram, rows.T @ (weights[:, np.newaxis] * (targets - mean)))
    np.testing.assert_allclose(fit.model.vectors, exact, atol=1e-3)


@settings(max_examples=10)
@given(st.randoms(use_true_random=False))
def test_the_order_of_an_items_features_changes_nothing(random: object) -> None:
    features, likes = _tastes(items=60, users=60)
    shuffled = []
    for of_item in features:
        pairs = list(of_item.items())
        random.shuffle(pairs)  # type: ignore[attr-defined]
        shuffled.append(dict(pairs))
    one, other = _fit(features, likes), _fit(shuffled, likes)
    assert one.model.names == other.model.names
    np.testing.assert_allclose(one.model.vectors, other.model.vectors, atol=2e-3)
    assert one.penalty == other.penalty


def test_the_same_data_give_the_same_model() -> None:
    one, other = _fit(*_tastes()), _fit(*_tastes())
    assert np.array_equal(one.model.vectors, other.model.vectors)
    assert one.model.calibration == other.model.calibration
    assert one.metrics == other.metrics


def test_new_items_get_their_share_of_the_lists() -> None:
    features, likes = _tastes(items=400, users=400)
    factors = Spectral(SpectralConfig(dimension=16)).fit(likes)
    shares = []
    for multiple in (0.5, 1.0, 2.0):
        fit = _fit(features, likes, replace(_SMALL, new_item_length=multiple))
        _, new, _ = fit.vectors(FeatureTable.of(features[:40]))
        scores = factors.fold_in(likes) @ np.concatenate([factors.vectors[40:], new]).T
        scores[:, :360][likes[:, 40:].toarray() > 0] = -np.inf
        lists = np.argsort(-scores, axis=1)[:, :50]
        shares.append(float((lists >= 360).mean()))
    assert shares == sorted(shares)
    assert 0.03 < shares[1] < 0.3, "they are a tenth of the catalogue"


def test_an_item_without_content_is_neither_learned_from_nor_predicted() -> None:
    features, likes = _tastes()
    features[7] = {}
    fit = _fit(features, likes)
    positions, _ = fit.predicted(FeatureTable.of([{}, {"category:space": 1.0}, {"category:opera": 1.0}]))
    assert positions.tolist() == [1]


def test_a_feature_of_one_item_is_not_learned() -> None:
    features, likes = _tastes()
    features[7] = {**features[7], "tag:singular": 1.0}
    assert "tag:singular" not in _fit(features, likes).model.names


def test_the_most_frequent_features_are_kept() -> None:
    features, likes = _tastes()
    assert set(_fit(features, likes, replace(_SMALL, most_features=4)).model.names) == {
        f"category:{genre}" for genre in _GENRES
    }


@pytest.mark.parametrize("features", [[{}] * 80, [{f"tag:{n}": 1.0} for n in range(80)]])
def test_a_catalogue_in_which_nothing_is_shared_gives_no_mapping(features: list[Features]) -> None:
    _, likes = _tastes()
    factors = Spectral(SpectralConfig(dimension=16)).fit(likes)
    assert Content().fit(FeatureTable.of(features), factors, likes) is None


def test_items_that_nobody_touched_are_not_learned_from() -> None:
    features, likes = _tastes()
    untouched = sparse.hstack([likes, sparse.csr_matrix((likes.shape[0], 20), dtype=np.float32)]).tocsr()
    fit = _fit([*features, *([{"category:opera": 1.0}] * 20)], untouched)
    assert "category:opera" not in fit.model.names


def test_a_handful_of_items_is_enough_for_a_mapping_that_nothing_chose() -> None:
    features, likes = _tastes(items=12, users=40)
    fit = _fit(features, likes)
    assert fit.metrics == {}
    assert np.isfinite(fit.model.vectors).all()
    assert fit.model.calibration.length > 0


def test_no_behaviour_gives_no_mapping() -> None:
    features, likes = _tastes()
    nothing = ItemFactors(np.zeros((80, 4), np.float32), np.zeros(80, np.float32))
    assert Content().fit(FeatureTable.of(features), nothing, likes) is None


def test_a_table_is_the_same_in_parts_and_as_a_whole() -> None:
    features, _ = _tastes()
    builder = FeatureTableBuilder()
    for start in range(0, 80, 30):
        builder.add(features[start : start + 30])
    whole, parts = FeatureTable.of(features), builder.table()
    assert parts.names == whole.names
    assert np.array_equal(parts.strengths.toarray(), whole.strengths.toarray())


def test_rows_of_a_table_may_lack_items() -> None:
    table = FeatureTable.of([{"a": 1.0}, {"b": 2.0}])
    assert table.rows(np.array([1, -1, 0])).strengths.toarray().tolist() == [[0, 2], [0, 0], [1, 0]]
    assert FeatureTable.of([]).rows(np.zeros(0, np.int64)).strengths.shape == (0, 0)
