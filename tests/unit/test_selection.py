"""Selection: held-out cases decide, chance does not, and nothing held out means the default."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from recsvc.domain.evaluation import rank_metrics
from recsvc.training.algorithms.ease import EaseConfig
from recsvc.training.algorithms.neighbors import NeighborsConfig
from recsvc.training.algorithms.spectral import Decomposition, Spectral, SpectralConfig
from recsvc.training.dataset import Dataset, Pairs
from recsvc.training.selection import (
    DEFAULT_WEIGHTS,
    BlendTable,
    Choice,
    Fold,
    better,
    blended_lists,
    choose,
    choose_disliked_strength,
    choose_signal_power,
    embedded,
)
from recsvc.training.sources import (
    COLLABORATIVE,
    EASE,
    NEIGHBORS,
    RP3BETA,
    SEQUENCE,
    TRENDING,
    Counters,
    Recipe,
    fit_sources,
)
from recsvc.training.validation import Cases, HoldOut, ValidationKind, hold_out, hold_out_folds

_SMALL = Recipe(
    spectral=SpectralConfig(dimension=80, rows_per_dimension=1),
    ease=EaseConfig(regularisation=5.0),
    with_sequence=False,
)


def by_taste(users: int = 300, items: int = 60, groups: int = 6, seed: int = 2) -> Dataset:
    """Users who mostly like the items of their group, without times."""
    rng = np.random.default_rng(seed)
    same = (np.arange(users)[:, None] % groups) == (np.arange(items)[None, :] % groups)
    rows, columns = np.nonzero(rng.random((users, items)) < np.where(same, 0.7, 0.05))
    return Dataset(np.arange(users), np.arange(items), rows, columns, np.zeros(len(rows)), np.ones(len(rows)))


def in_order(users: int = 300, items: int = 40, length: int = 12, seed: int = 3) -> Dataset:
    """Users who go from item i to i + 1 nearly always: only the last item tells what comes."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(items, size=users)
    columns = (starts[:, None] + np.arange(length)[None, :]) % items
    strays = rng.random(columns.shape) < 0.1
    columns = np.where(strays, rng.integers(items, size=columns.shape), columns)
    rows = np.repeat(np.arange(users), length)
    times = (rng.integers(100_000, size=users)[:, None] + 60 * np.arange(length)[None, :]).ravel().astype(np.float64)
    pairs, first = np.unique(np.stack([rows, columns.ravel()]), axis=1, return_index=True)
    return Dataset(np.arange(users), np.arange(items), pairs[0], pairs[1], times[first], np.ones(len(first)))


def test_structure_is_found_where_there_is_some() -> None:
    dataset = by_taste()
    held = hold_out(dataset, ValidationKind.RANDOM)
    choice = choose([Fold(fit_sources(dataset, _SMALL, held), held.cases)])
    tried = dict(choice.tried)
    assert choice.ndcg == max(ndcg for what, ndcg in tried.items() if what.endswith(("alone", "blend")))
    assert choice.ndcg > 2 * tried["popular alone"]
    assert np.isclose(sum(choice.weights.values()), 1.0)


def test_where_the_last_item_tells_what_comes_sequence_counts_most() -> None:
    dataset = in_order()
    held = hold_out(dataset, ValidationKind.NEXT_ITEM)
    choice = choose([Fold(fit_sources(dataset, replace(_SMALL, with_sequence=True), held), held.cases)])
    assert max(choice.weights, key=lambda name: choice.weights[name]) == SEQUENCE
    assert choice.recency[COLLABORATIVE] < 1.0


def test_without_an_order_the_whole_history_counts_alike() -> None:
    dataset = by_taste()
    held = hold_out(dataset, ValidationKind.RANDOM)
    choice = choose([Fold(fit_sources(dataset, _SMALL, held), held.cases)])
    assert (choice.recency[COLLABORATIVE], choice.recency[NEIGHBORS]) == (1.0, 1.0)


def test_what_is_chosen_by_chance_leaves_the_default() -> None:
    dataset = by_taste()
    sources = fit_sources(dataset, replace(_SMALL, spectral=SpectralConfig(dimension=1)))
    rng = np.random.default_rng(0)
    ages = dataset.interactions().toarray()
    chance = (rng.random(ages.shape) > 0.9) & (ages == 0)
    asked = chance.any(axis=1)
    history = sparse.csr_matrix(ages[asked])
    cases = Cases(history, sparse.csr_matrix(chance[asked].astype(np.float32)), np.zeros(int(asked.sum())), history)
    choice = choose([Fold(sources, cases)])
    assert choice.dimension == 1
    assert choice.recency[COLLABORATIVE] == 1.0


def test_without_cases_the_default_stays() -> None:
    dataset = by_taste()
    sources = fit_sources(dataset, _SMALL)
    nothing = sparse.csr_matrix((0, 60), dtype=np.float32)
    choice = choose([Fold(sources, Cases(nothing, nothing, np.zeros(0), nothing))])
    assert choice == Choice(sources.factors.dimension, _SMALL.spectral.singular_value_power, EASE)
    assert choice.weights == DEFAULT_WEIGHTS


def test_the_better_neighbours_are_taken() -> None:
    dataset = by_taste(seed=5)
    held = hold_out(dataset, ValidationKind.RANDOM)
    sources = fit_sources(dataset, _SMALL, held)
    tried = dict(choose([Fold(sources, held.cases)]).tried)
    by = {name: tried[f"{NEIGHBORS} by {name}"] for name in (RP3BETA, EASE)}
    chosen = choose([Fold(sources, held.cases)]).neighbor_algorithm
    assert by[chosen] == max(by.values())


def test_the_table_that_weights_are_tried_on_scores_as_the_whole_lists_do() -> None:
    dataset = in_order()
    held = hold_out(dataset, ValidationKind.NEXT_ITEM)
    sources = fit_sources(dataset, replace(_SMALL, with_sequence=True), held)
    choice = Choice(
        sources.factors.dimension, 0.5, weights={COLLABORATIVE: 0.5, NEIGHBORS: 0.2, SEQUENCE: 0.2, TRENDING: 0.1}
    )
    table = BlendTable.of(sources, held.cases, choice, 10)
    exact = rank_metrics(blended_lists(sources, held.cases, choice, 10), held.cases.wanted).ndcg
    assert np.allclose(table.ndcg(choice.weights), exact)


def test_a_dimension_too_many_is_left_out_or_damped() -> None:
    dataset = by_taste(users=600)
    held = hold_out(dataset, ValidationKind.RANDOM)
    noisy = replace(
        _SMALL,
        spectral=replace(_SMALL.spectral, singular_value_power=0.0),
        neighbors=NeighborsConfig(k=1),
        neighbor_algorithms=(RP3BETA,),
    )
    sources = fit_sources(dataset, noisy, held)
    choice = choose([Fold(sources, held.cases)])
    assert choice.dimension < sources.factors.dimension or choice.singular_value_power > 0
    alone = {COLLABORATIVE: 1.0}
    as_chosen, as_fitted = (
        rank_metrics(blended_lists(used, held.cases, replace(choice, weights=alone), 20), held.cases.wanted).ndcg.mean()
        for used in (embedded(sources, choice), sources)
    )
    assert as_chosen > as_fitted


def test_better_asks_for_more_than_chance() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(1000)
    assert better(base + 0.01, base, 1.0)
    assert not better(base, base, 1.0)
    assert not better(rng.random(1000) * 1e-3 + base[::-1], base, 2.0)


def test_one_decomposition_gives_what_smaller_and_other_fits_give() -> None:
    train = by_taste().interactions()
    large = Decomposition.of(train, SpectralConfig(dimension=12, power_iterations=30))
    other = SpectralConfig(dimension=5, power_iterations=30, output_exponent=0.2, singular_value_power=1.0)
    assert np.allclose(large.factors(other).scores(train), Spectral(other).fit(train).scores(train), atol=1e-3)


def test_small_data_gets_few_dimensions() -> None:
    train = by_taste(users=400, items=350).interactions()
    assert Spectral().fit(train).dimension == 350 // 16
    assert Spectral(SpectralConfig(rows_per_dimension=5)).fit(train).dimension == 70


def test_live_counters_know_nothing_of_the_moment_itself_or_later() -> None:
    dataset = in_order()
    held = hold_out(dataset, ValidationKind.NEXT_ITEM)
    sources = fit_sources(dataset, replace(_SMALL, with_sequence=True), held)
    counts = sources.trending(held.cases)
    half_life_s = 86_400.0
    for row in (0, len(held.cases) // 2, len(held.cases) - 1):
        moment = held.cases.moments[row]
        before = dataset.times < moment
        expected = np.bincount(
            dataset.items[before], weights=0.5 ** ((moment - dataset.times[before]) / half_life_s), minlength=40
        )
        assert np.allclose(counts[row], expected, rtol=1e-4)


def test_halves_of_the_cases_stay_in_the_order_of_their_moments() -> None:
    held: HoldOut = hold_out(in_order(), ValidationKind.NEXT_ITEM)
    assert (np.diff(held.cases.take(slice(0, None, 2)).moments) >= 0).all()


def of_strength(*, tells: bool, seed: int = 4) -> Dataset:
    """Users with strong signals for the items of their group and weak ones for any; or strengths drawn by chance."""
    rng = np.random.default_rng(seed)
    same = (np.arange(300)[:, None] % 6) == (np.arange(60)[None, :] % 6)
    rows, columns = np.nonzero(rng.random(same.shape) < np.where(same, 0.6, 0.3))
    signals = np.where(same[rows, columns], 5.0, 1.0)
    if not tells:
        signals = rng.permutation(signals)
    return Dataset(np.arange(300), np.arange(60), rows, columns, np.zeros(len(rows)), signals)


def _power_of(dataset: Dataset) -> float:
    held = hold_out(dataset, ValidationKind.RANDOM, share=0.2)
    # What is wanted is what users like a lot: that is what a strong signal can tell of.
    wanted = held.cases.wanted.copy()
    wanted.data = (wanted.indices % 6 == np.repeat(np.arange(wanted.shape[0]), np.diff(wanted.indptr)) % 6).astype("f")
    wanted.eliminate_zeros()
    asked = replace(held.cases, wanted=wanted).take(np.flatnonzero(np.diff(wanted.indptr)))
    return choose_signal_power(dataset, [replace(held, cases=asked)], _SMALL)


def test_strong_signals_count_more_where_they_tell_more() -> None:
    assert _power_of(of_strength(tells=True)) > 0


def of_raters(*, tells: bool, seed: int = 6) -> Dataset:
    """Users who come to items of their group and like half of them; what they dislike is of it, too, or of any."""
    rng = np.random.default_rng(seed)
    same = (np.arange(300)[:, None] % 6) == (np.arange(60)[None, :] % 6)
    came = rng.random(same.shape) < np.where(same, 0.8, 0.15)
    likes = rng.random(same.shape) < 0.3
    rows, columns = np.nonzero(came & likes)
    missed = np.argwhere(came & ~likes if tells else ~came & (rng.random(same.shape) < 0.3))
    pairs = Pairs(missed[:, 0], missed[:, 1], np.zeros(len(missed)))
    times = np.zeros(len(rows))
    return Dataset(np.arange(300), np.arange(60), rows, columns, times, np.ones(len(rows)), disliked=pairs)


@pytest.mark.parametrize("tells", [True, False])
def test_what_users_came_to_and_disliked_counts_where_it_tells_what_they_come_to(tells: bool) -> None:
    dataset = of_raters(tells=tells)
    held = hold_out_folds(replace(dataset, disliked_strength=0.5), ValidationKind.RANDOM)
    assert (choose_disliked_strength(dataset, held, _SMALL) > 0) == tells


def test_the_strength_of_signals_does_not_count_where_it_says_nothing() -> None:
    assert _power_of(of_strength(tells=False)) == 0
    alike = of_strength(tells=True)
    assert _power_of(replace(alike, signals=np.full(len(alike.users), 3.0))) == 0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20), st.floats(0.1, 5)), min_size=1, max_size=30))
def test_counters_are_sums_of_signals_that_halve_with_time(events: list[tuple[int, int, float]]) -> None:
    items, days, signals = (
        np.array(column) for column in zip(*sorted(events, key=lambda event: event[1]), strict=True)
    )
    moments = np.array([0.0, 7.0, 21.0])
    found = Counters(items, days * 86_400.0, signals, 5).at(moments * 86_400, timedelta(days=3))
    for row, moment in enumerate(moments):
        before = days < moment
        expected = np.bincount(items[before], signals[before] * 0.5 ** ((moment - days[before]) / 3), minlength=5)
        assert np.allclose(found[row], expected, rtol=1e-4)
