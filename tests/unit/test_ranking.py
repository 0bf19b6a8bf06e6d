"""Ranking of candidates: every step is a factor or a reordering, and contributions add up to the score."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsvc.domain.filters import Comparison, Field, FieldType, Operator
from recsvc.domain.ids import ItemId, ItemKey
from recsvc.domain.recommendations import Boost, Diversity, RecommendQuery, Source, Strategy
from recsvc.engine.explain import reasons
from recsvc.engine.ranking import rank, weights_for
from recsvc.storage.candidates import Candidates, Evidence, Subject

_AUTO = {"collaborative": 2.0, "neighbors": 1.0}
_scores = st.lists(st.floats(0, 1e6) | st.just(float("nan")), min_size=1, max_size=30)


def _candidates(**components: list[float]) -> Candidates:
    size = len(next(iter(components.values())))
    blank = {name: np.full(size, np.nan) for name in (source.value for source in Source)}
    return Candidates(
        subject=Subject(None, 0, 0, None, 1),
        item_keys=[ItemKey(number) for number in range(size)],
        item_ids=[ItemId(f"{number:03}") for number in range(size)],
        components=blank | {name: np.array(values) for name, values in components.items()},
        boosts=np.ones(size),
        event_counts=np.zeros(size),
        is_new=np.zeros(size, dtype=np.bool_),
        expire_times=[None] * size,
        categories=[["even" if number % 2 == 0 else "odd"] for number in range(size)],
        vectors=None,
    )


@given(_scores)
def test_a_list_is_ordered_by_score_and_holds_nothing_twice(scores: list[float]) -> None:
    candidates = _candidates(collaborative=scores)
    ranked = rank(candidates, RecommendQuery(count=10), _AUTO, seed=0)
    positions = ranked.positions.tolist()
    assert len(set(positions)) == len(positions) == min(10, len(scores))
    assert list(ranked.scores[positions]) == sorted(ranked.scores, reverse=True)[:10]


@given(_scores, _scores)
def test_contributions_add_up_to_the_score(one: list[float], other: list[float]) -> None:
    size = min(len(one), len(other))
    candidates = _candidates(collaborative=one[:size], neighbors=other[:size])
    ranked = rank(candidates, RecommendQuery(novelty=0.5), _AUTO, seed=0)
    assert np.allclose(sum(ranked.contributions.values()), ranked.scores)


def test_a_fill_never_passes_what_a_real_source_speaks_for() -> None:
    weights = weights_for(Strategy.AUTO, _AUTO)
    candidates = _candidates(collaborative=[0.02, 1.0, float("nan")], trending=[0.0, 0.0, 50.0])
    assert rank(candidates, RecommendQuery(), weights, seed=0).positions.tolist() == [1, 0, 2]


def test_categories_are_capped() -> None:
    candidates = _candidates(collaborative=[9.0, 1.0, 8.0, 2.0, 7.0, 3.0])
    query = RecommendQuery(count=4, diversity=Diversity(max_per_category=2))
    assert rank(candidates, query, _AUTO, seed=0).positions.tolist() == [0, 2, 5, 3]


def test_exploration_is_repeatable_and_keeps_the_length() -> None:
    candidates = _candidates(collaborative=[float(number) for number in range(100)])
    query = RecommendQuery(count=10, exploration=0.5)
    first, again = (rank(candidates, query, _AUTO, seed=3).positions.tolist() for _ in range(2))
    assert first == again
    assert len(set(first)) == 10
    assert set(first) - set(range(90, 100))


@given(st.floats(0, 100), st.floats(0, 1e3), st.floats(0, 1e3))
def test_reasons_add_up_even_with_a_boost(factor: float, product: float, weight: float) -> None:
    candidates = _candidates(collaborative=[3.0, 1.0], neighbors=[1.0, 2.0], trending=[1.0, 5.0])
    candidates.boosts[0] = factor
    ranked = rank(candidates, RecommendQuery(), weights_for(Strategy.AUTO, _AUTO), seed=0)
    because = [Evidence(ItemId("x"), {"collaborative": product, "neighbors": weight})]
    found = reasons(candidates, ranked, 0, because, {})
    assert sum(reason.contribution for reason in found) == pytest.approx(float(ranked.scores[0]), abs=1e-9)


@given(st.floats(-100, 100), st.floats(0, 1000))
def test_a_boost_above_one_raises_and_one_below_lowers_whatever_the_sign(score: float, factor: float) -> None:
    plain = _candidates(collaborative=[100.0, score])
    before = rank(plain, RecommendQuery(), _AUTO, seed=0).scores[1]
    plain.boosts[1] = factor
    after = rank(plain, RecommendQuery(), _AUTO, seed=0).scores[1]
    assert after >= before if factor >= 1 else after <= before


def test_queries_share_a_fingerprint_only_if_they_ask_for_the_same() -> None:
    def boosted(value: object) -> RecommendQuery:
        condition = Comparison(Field("attributes", FieldType.DYNAMIC, ("a",)), Operator.EQ, value)  # type: ignore[arg-type]
        return RecommendQuery(boosts=(Boost(condition, 2.0),))

    queries = [
        RecommendQuery(),
        RecommendQuery(count=11),
        RecommendQuery(session_item_ids=(ItemId("a"), ItemId("b"))),
        RecommendQuery(session_item_ids=(ItemId("b"), ItemId("a"))),
        RecommendQuery(exclude_item_ids=(ItemId("a"), ItemId("b"))),
        boosted(True),
        boosted(1.0),
    ]
    assert len({query.fingerprint() for query in queries}) == len(queries)
    assert RecommendQuery(placement="x").fingerprint() == RecommendQuery().fingerprint()


def test_an_item_too_new_for_neighbors_is_not_held_back_by_their_silence() -> None:
    told = [*np.linspace(1.0, 0.1, 20), 0.95]
    candidates = _candidates(collaborative=told, neighbors=[*np.linspace(1.0, 0.1, 20), float("nan")])
    is_new = np.arange(21) == 20
    query = RecommendQuery(count=3)
    assert 20 not in rank(candidates, query, _AUTO, seed=0).positions
    assert 20 in rank(replace(candidates, is_new=is_new), query, _AUTO, seed=0).positions
    by_neighbors = replace(query, strategy=Strategy.NEIGHBORS)
    assert 20 not in rank(replace(candidates, is_new=is_new), by_neighbors, {"neighbors": 1.0}, seed=0).positions


def test_exploration_prefers_items_of_which_little_is_known() -> None:
    candidates = _candidates(collaborative=[*np.linspace(1.0, 0.2, 10)], neighbors=[0.0] * 10)
    candidates = replace(candidates, event_counts=np.array([500.0] * 9 + [0.0]))
    query = RecommendQuery(count=2, exploration=0.5)
    explored = [int(position) for seed in range(50) for position in rank(candidates, query, _AUTO, seed).positions]
    assert explored.count(9) > 40
