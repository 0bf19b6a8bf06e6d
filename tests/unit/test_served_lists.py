"""What is counted of a list that goes out."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from recsvc.domain.ids import ItemId, SessionId, UserId
from recsvc.domain.recommendations import (
    Degradation,
    DegradationLevel,
    Recommendations,
    RecommendedItem,
    RecommendQuery,
    Source,
    Strategy,
)
from recsvc.engine.served_lists import ServedLists
from recsvc.telemetry.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def served(metrics: Metrics) -> ServedLists:
    return ServedLists(metrics, frozenset({Strategy.AUTO}))


def _value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def _found(
    *sources: Source, strategy: Strategy = Strategy.AUTO, level: DegradationLevel = DegradationLevel.NONE
) -> Recommendations:
    items = tuple(RecommendedItem(ItemId(str(at)), 0.5, source) for at, source in enumerate(sources))
    return Recommendations(items, strategy, "", datetime.now(UTC), Degradation(level))


def test_a_list_counts_by_strategy_quality_and_placement(served: ServedLists, metrics: Metrics) -> None:
    found = _found(level=DegradationLevel.STALE)
    served.served([(RecommendQuery(placement="home"), found)])
    served.served([(RecommendQuery(placement="home"), found)])
    labels = {"strategy": "AUTO", "degradation": "STALE", "placement": "home"}
    assert _value(metrics, "recsvc_recommendations_total", **labels) == 2


def test_lists_of_many_count_as_if_each_were_told_of_alone(served: ServedLists, metrics: Metrics) -> None:
    query, at_home = RecommendQuery(user_id=UserId("u")), RecommendQuery(user_id=UserId("u"), placement="home")
    full, cold = _found(Source.POPULAR, Source.CONTENT), _found(Source.TRENDING, strategy=Strategy.TRENDING)
    served.served([(query, full), (at_home, full), (query, full), (query, cold), (query, _found())])
    labels = {"strategy": "AUTO", "degradation": "NONE"}
    assert _value(metrics, "recsvc_recommendations_total", **labels, placement="") == 3
    assert _value(metrics, "recsvc_recommendations_total", **labels, placement="home") == 1
    assert _value(metrics, "recsvc_recommended_items_total", source="popular") == 3
    assert _value(metrics, "recsvc_cold_starts_total") == 1
    assert _value(metrics, "recsvc_empty_lists_total", strategy="AUTO") == 1


def test_placements_beyond_the_first_fifty_are_one(served: ServedLists, metrics: Metrics) -> None:
    for number in range(60):
        served.served([(RecommendQuery(placement=f"p{number}"), _found())])
    labels = {"strategy": "AUTO", "degradation": "NONE"}
    assert _value(metrics, "recsvc_recommendations_total", **labels, placement="p49") == 1
    assert _value(metrics, "recsvc_recommendations_total", **labels, placement="other") == 10


def test_each_item_counts_for_the_source_that_spoke_for_it(served: ServedLists, metrics: Metrics) -> None:
    served.served([(RecommendQuery(), _found(Source.COLLABORATIVE, Source.CONTENT, Source.COLLABORATIVE))])
    assert _value(metrics, "recsvc_recommended_items_total", source="collaborative") == 2
    assert _value(metrics, "recsvc_recommended_items_total", source="content") == 1


def test_a_list_without_items_is_empty(served: ServedLists, metrics: Metrics) -> None:
    served.served([(RecommendQuery(), _found())])
    served.served([(RecommendQuery(), _found(Source.POPULAR))])
    assert _value(metrics, "recsvc_empty_lists_total", strategy="AUTO") == 1


@pytest.mark.parametrize(
    ("query", "level", "is_cold"),
    [
        (RecommendQuery(user_id=UserId("u")), DegradationLevel.NONE, True),
        (RecommendQuery(session_id=SessionId("s")), DegradationLevel.NONE, True),
        (RecommendQuery(), DegradationLevel.NONE, False),
        (RecommendQuery(user_id=UserId("u"), strategy=Strategy.TRENDING), DegradationLevel.NONE, False),
        (RecommendQuery(user_id=UserId("u")), DegradationLevel.FALLBACK, False),
    ],
    ids=["user", "session", "anybody", "asked for trending", "no model or no database"],
)
def test_trending_in_place_of_a_personal_list_is_a_cold_start(
    served: ServedLists, metrics: Metrics, query: RecommendQuery, level: DegradationLevel, is_cold: bool
) -> None:
    served.served([(query, _found(Source.TRENDING, strategy=Strategy.TRENDING, level=level))])
    assert _value(metrics, "recsvc_cold_starts_total") == is_cold


def test_scores_are_told_of_the_first_ten_items_of_one_list_in_eight(served: ServedLists, metrics: Metrics) -> None:
    for _ in range(8):
        served.computed(Strategy.AUTO, _found(*[Source.POPULAR] * 25).items)
    assert _value(metrics, "recsvc_recommendation_score_count", strategy="AUTO") == 10
    assert _value(metrics, "recsvc_recommendation_score_sum", strategy="AUTO") == 5.0
