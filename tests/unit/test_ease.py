"""EASE against the regression that it solves, written out."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import sparse

from recsvc.domain.arrays import Interactions
from recsvc.training.algorithms import ease
from recsvc.training.algorithms import gram as grams
from recsvc.training.algorithms.ease import Ease, EaseConfig

small_matrices = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 12), st.integers(1, 9)),
    elements=st.sampled_from([0.0, 0.0, 0.0, 1.0, 1.0, 2.0]),
).map(sparse.csr_matrix)


@pytest.fixture
def in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Co-occurrences are held sparse, which rounds nothing to halves."""
    monkeypatch.setattr(grams, "DENSE_BYTES", 0)


def some_interactions(users: int = 80, items: int = 30, density: float = 0.2, seed: int = 5) -> Interactions:
    rng = np.random.default_rng(seed)
    dense = (rng.random((users, items)) < density).astype(np.float32)
    dense[:, 4] = 0
    return sparse.csr_matrix(dense)


def regressions(interactions: Interactions, config: EaseConfig, support: dict[int, list[int]]) -> np.ndarray:
    """Each item's column regressed on those of its support, one by one in double precision."""
    r = interactions.toarray().astype(np.float64)
    users, items = (np.maximum(r.sum(1), 1e-30), np.maximum(r.sum(0), 1e-30))
    x = (users**-config.user_degree_exponent)[:, None] * r * items**-config.item_degree_exponent
    weights = np.zeros((r.shape[1], r.shape[1]))
    for target, sources in support.items():
        if sources:
            known = x[:, sources]
            gram = known.T @ known
            dropped = config.dropout / (1 - config.dropout) * np.diag(np.diagonal(gram))
            ridge = gram + dropped + config.regularisation * np.eye(len(sources))
            weights[sources, target] = np.linalg.solve(ridge, known.T @ x[:, target])
    return (items**-config.item_degree_exponent)[:, None] * weights * items**config.output_exponent


def all_others(item_count: int) -> dict[int, list[int]]:
    return {item: [other for other in range(item_count) if other != item] for item in range(item_count)}


@settings(max_examples=60)
@given(small_matrices, st.sampled_from([0.5, 3.0, 50.0]), st.sampled_from([0.0, 0.3]))
def test_every_item_is_the_ridge_regression_on_all_others(
    interactions: Interactions, regularisation: float, dropout: float
) -> None:
    config = EaseConfig(k=100, regularisation=regularisation, dropout=dropout)
    fitted = Ease(config).fit(interactions).matrix().toarray()
    expected = regressions(interactions, config, all_others(interactions.shape[1]))
    assert np.allclose(fitted, expected, atol=1e-4)
    assert not np.diagonal(fitted).any()


@settings(max_examples=60)
@given(small_matrices, st.sampled_from([0.5, 3.0, 50.0]))
def test_local_regressions_on_everything_that_co_occurs_equal_regressions_one_by_one(
    interactions: Interactions, regularisation: float
) -> None:
    config = EaseConfig(k=100, regularisation=regularisation, dense_items=0, support=100)
    co_occurrence = (interactions.T @ interactions).toarray()
    np.fill_diagonal(co_occurrence, 0)
    support = {item: np.flatnonzero(row).tolist() for item, row in enumerate(co_occurrence)}
    with patch.object(grams, "DENSE_BYTES", 0):
        fitted = Ease(config).fit(interactions).matrix().toarray()
    assert np.allclose(fitted, regressions(interactions, config, support), atol=1e-4)


@pytest.mark.usefixtures("in_single_precision")
def test_local_and_dense_agree_when_everything_co_occurs() -> None:
    interactions = some_interactions(users=300, density=0.4)
    dense = Ease(EaseConfig(k=100)).fit(interactions).matrix().toarray()
    local = Ease(EaseConfig(k=100, dense_items=0)).fit(interactions).matrix().toarray()
    assert np.abs(dense).max() > 0.05
    assert np.allclose(dense, local, atol=1e-5)


def test_half_precision_changes_weights_by_less_than_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    config = EaseConfig(k=100, dense_items=0, support=10)
    interactions = some_interactions(users=300)
    interactions.data = np.random.default_rng(2).uniform(0.5, 2.0, interactions.nnz).astype(np.float32)
    halves = Ease(config).fit(interactions).matrix().toarray()
    monkeypatch.setattr(grams, "DENSE_BYTES", 0)
    singles = Ease(config).fit(interactions).matrix().toarray()
    assert np.abs(halves - singles).max() < 0.002 * np.abs(singles).max()


@pytest.mark.usefixtures("in_single_precision")
def test_the_support_is_what_has_the_highest_cosine() -> None:
    interactions = some_interactions()
    config = EaseConfig(k=100, regularisation=2.0, dense_items=0, support=3, user_degree_exponent=0.0)
    r = interactions.toarray().astype(np.float64)
    lengths = np.maximum(np.sqrt((r**2).sum(0)), 1e-30)
    cosines = r.T @ r / lengths / lengths[:, None]
    np.fill_diagonal(cosines, 0)
    support = {
        item: [other for other in np.argsort(-row.astype(np.float32), kind="stable")[:3].tolist() if row[other] > 0]
        for item, row in enumerate(cosines)
    }
    fitted = Ease(config).fit(interactions).matrix().toarray()
    assert np.allclose(fitted, regressions(interactions, config, support), atol=1e-5)


@pytest.mark.usefixtures("in_single_precision")
@pytest.mark.parametrize("dense_items", [0, 1000])
def test_the_weights_of_a_normalised_fit_apply_to_the_raw_signals(dense_items: int) -> None:
    interactions = some_interactions(users=300, density=0.4)
    config = EaseConfig(
        100,
        regularisation=0.2,
        dense_items=dense_items,
        user_degree_exponent=0.3,
        item_degree_exponent=0.4,
        output_exponent=0.2,
    )
    touched = [item for item in range(30) if item != 4]
    support = {item: [other for other in touched if other != item] for item in touched}
    expected = regressions(interactions, config, support)
    assert np.allclose(Ease(config).fit(interactions).matrix().toarray(), expected, atol=1e-4)


def test_the_largest_in_magnitude_of_each_source_are_kept_strongest_first() -> None:
    interactions = some_interactions()
    whole = Ease(EaseConfig(k=100, regularisation=2.0)).fit(interactions).matrix().toarray()
    fitted = Ease(EaseConfig(k=4, regularisation=2.0)).fit(interactions)
    assert (fitted.weights < 0).any()
    for source, row in enumerate(whole):
        inside = slice(fitted.indptr[source], fitted.indptr[source + 1])
        strongest = np.sort(np.abs(row[row != 0]))[::-1][:4]
        assert np.allclose(np.abs(fitted.weights[inside]), strongest, atol=1e-6)


def test_co_occurrences_beyond_the_strongest_of_either_item_count_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    interactions = some_interactions(users=200)
    # No two cosines are equal, so that which ones are strongest is not a matter of rounding.
    interactions.data = np.random.default_rng(2).uniform(0.5, 2.0, interactions.nnz).astype(np.float32)
    item_count, support, held = 30, 5, 12
    x = interactions.toarray().astype(np.float64)
    gram = x.T @ x
    lengths = np.maximum(np.sqrt(np.diagonal(gram)), 1e-30)
    cosines = gram / lengths / lengths[:, None]
    np.fill_diagonal(cosines, 0)
    order = np.argsort(-cosines, axis=1)
    kept = np.zeros_like(gram, dtype=bool)
    kept[np.arange(item_count)[:, None], order[:, :held]] = True
    pruned = np.where(kept | kept.T, gram, 0.0)
    expected = np.zeros_like(gram)
    for target in range(item_count):
        sources = order[target, :support]
        equations = pruned[np.ix_(sources, sources)] * (1 - np.eye(support)) + np.diag(gram[sources, sources] + 50.0)
        expected[sources, target] = np.linalg.solve(equations, gram[sources, target])
    monkeypatch.setattr(grams, "DENSE_BYTES", 0)
    monkeypatch.setattr(grams, "SPARSE_ENTRIES", item_count * held)
    config = EaseConfig(
        k=100,
        regularisation=50.0,
        dense_items=0,
        support=support,
        user_degree_exponent=0.0,
        output_exponent=0.0,
        dropout=0.0,
    )
    fitted = Ease(config).fit(interactions)
    assert np.allclose(fitted.matrix().toarray(), expected, atol=1e-5)


@pytest.mark.parametrize("block_entries", [1, 100])
@pytest.mark.parametrize("dense_items", [0, 1000])
def test_blocks_change_nothing(block_entries: int, dense_items: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = EaseConfig(k=100, dense_items=dense_items, support=7)
    whole = Ease(config).fit(some_interactions())
    for module, name in (
        (ease, "_BLOCK_ENTRIES"),
        (grams, "_BLOCK_ENTRIES"),
        (grams, "_DENSE_ROWS"),
        (ease, "_BATCH_ITEMS"),
    ):
        monkeypatch.setattr(module, name, block_entries)
    in_blocks = Ease(config).fit(some_interactions())
    assert np.allclose(whole.matrix().toarray(), in_blocks.matrix().toarray(), atol=1e-6)


@pytest.mark.parametrize("dense_items", [0, 1000])
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (4, 3)])
def test_no_interactions_at_all_give_no_weights(shape: tuple[int, int], dense_items: int) -> None:
    fitted = Ease(EaseConfig(dense_items=dense_items)).fit(sparse.csr_matrix(shape, dtype=np.float32))
    assert fitted.item_count == shape[1]
    assert len(fitted.weights) == 0


@pytest.mark.parametrize("dense_items", [0, 1000])
def test_progress_rises_to_one(dense_items: int) -> None:
    shares: list[float] = []
    Ease(EaseConfig(dense_items=dense_items)).fit(some_interactions(), shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_without_regularisation_there_is_no_solution_to_ask_for() -> None:
    with pytest.raises(ValueError, match="positive"):
        EaseConfig(regularisation=0.0)
