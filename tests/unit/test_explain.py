"""Explanations: whatever the components, evidence, boosts and novelty are, the parts add up to the score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsvc.domain.ids import ItemId, ItemKey
from recsvc.domain.recommendations import ReasonKind, RecommendQuery, Source, Strategy
from recsvc.engine.explain import reasons
from recsvc.engine.ranking import rank, weights_for
from recsvc.storage.candidates import Candidates, Evidence, Subject

_SIZE = 4
_component = st.lists(st.just(float("nan")) | st.floats(-100, 1000), min_size=_SIZE, max_size=_SIZE)
_evidence = st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 5)), max_size=6)


def _candidates(boosts: list[float], **components: list[float]) -> Candidates:
    blank = {source.value: np.full(_SIZE, np.nan) for source in Source}
    return Candidates(
        subject=Subject(None, 0, 0, None, 1),
        item_keys=[ItemKey(100 + number) for number in range(_SIZE)],
        item_ids=[ItemId(f"{number:03}") for number in range(_SIZE)],
        components=blank | {name: np.array(values) for name, values in components.items()},
        boosts=np.array(boosts),
        event_counts=np.zeros(_SIZE),
        is_new=np.zeros(_SIZE, dtype=np.bool_),
        expire_times=[None] * _SIZE,
        categories=[()] * _SIZE,
        vectors=None,
    )


@given(
    collaborative=_component,
    neighbors=_component,
    content=_component,
    trending=_component,
    popular=_component,
    boosts=st.lists(st.floats(0, 50), min_size=_SIZE, max_size=_SIZE),
    novelty=st.floats(-1, 1),
    evidence=_evidence,
    position=st.integers(0, _SIZE - 1),
)
def test_the_parts_add_up_to_the_score(
    collaborative: list[float],
    neighbors: list[float],
    content: list[float],
    trending: list[float],
    popular: list[float],
    boosts: list[float],
    novelty: float,
    evidence: list[tuple[float, float]],
    position: int,
) -> None:
    candidates = _candidates(
        boosts,
        collaborative=collaborative,
        neighbors=neighbors,
        content=content,
        trending=trending,
        popular=popular,
    )
    weights = weights_for(Strategy.AUTO, {"collaborative": 2.0, "neighbors": 1.0, "content": 0.5})
    ranked = rank(candidates, RecommendQuery(novelty=novelty), weights, seed=0)
    because = [
        Evidence(ItemId(f"because {number}"), {"collaborative": product, "neighbors": weight})
        for number, (product, weight) in enumerate(evidence)
    ]
    found = reasons(candidates, ranked, position, because, {})
    score = float(ranked.scores[position])
    assert sum(reason.contribution for reason in found) == pytest.approx(score, rel=1e-9, abs=1e-9)
    sizes = [abs(reason.contribution) for reason in found]
    assert sizes == sorted(sizes, reverse=True)


def test_the_items_that_say_most_are_named_best_first() -> None:
    candidates = _candidates([1.0] * _SIZE, collaborative=[2.0, 1.0, 1.0, 1.0])
    ranked = rank(candidates, RecommendQuery(), {"collaborative": 1.0}, seed=0)
    because = [
        Evidence(ItemId(name), {"collaborative": part}) for name, part in zip("abcde", (1, 5, 3, 2, -9), strict=True)
    ]
    found = reasons(candidates, ranked, 0, because, {})
    assert [reason.item_id for reason in found] == ["b", "c", "d"]
    assert found[0].strength == 1.0
    assert sum(reason.contribution for reason in found) == pytest.approx(1.0)


def test_content_names_the_labels_that_weigh_most() -> None:
    candidates = _candidates([1.0] * _SIZE, content=[2.0, 1.0, 1.0, 1.0])
    ranked = rank(candidates, RecommendQuery(), {"content": 1.0}, seed=0)
    labels = {ItemKey(100): [f"label {number}" for number in range(9)], ItemKey(101): ["other"]}
    (reason,) = reasons(candidates, ranked, 0, (), labels)
    assert reason.kind is ReasonKind.MATCHES_ATTRIBUTES
    assert reason.names == tuple(f"label {number}" for number in range(5))
