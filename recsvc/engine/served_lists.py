"""Counts what lists are served, on the path of every one of them: whatever can be looked up before is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from recsvc.domain.recommendations import (
    DegradationLevel,
    Recommendations,
    RecommendedItem,
    RecommendQuery,
    Source,
    Strategy,
)
from recsvc.telemetry.metrics import Metrics
from recsvc.telemetry.metrics.labels import BoundedLabel

_PLACEMENTS = 50
_SCORED = 10
# To note the scores of every list cost 15 µs of each, a twentieth of what one made together with others costs.
_SCORED_EVERY = 8


class ServedLists:
    """Lists, their items' sources and scores, cold starts."""

    def __init__(self, metrics: Metrics, personal: frozenset[Strategy]) -> None:
        """personal: the strategies that trending takes the place of when nothing is known of whom they are for."""
        self._metrics = metrics
        self._personal = personal
        self._placements = BoundedLabel(_PLACEMENTS)
        self._lists: dict[tuple[Strategy, DegradationLevel, str], Any] = {}
        self._sources = {source: metrics.recommended_items.labels(source.value) for source in Source}
        self._computed = 0
        self._scores = {strategy: metrics.scores.labels(strategy.value) for strategy in Strategy}

    def served(self, answers: Sequence[tuple[RecommendQuery, Recommendations]]) -> None:
        """Lists go out, one or those of many at once."""
        by_kind: dict[tuple[Strategy, DegradationLevel, str], int] = {}
        sources: list[Source] = []
        for query, found in answers:
            kind = (found.strategy, found.degradation.level, self._placements.of(query.placement))
            by_kind[kind] = by_kind.get(kind, 0) + 1
            sources += [item.source for item in found.items]
            if not found.items:
                self._metrics.empty_lists.labels(found.strategy.value).inc()
            if found.strategy is Strategy.TRENDING and self._is_cold_start(query, found):
                self._metrics.cold_starts.inc()
        for kind, count in by_kind.items():
            lists = self._lists.get(kind)
            if lists is None:
                lists = self._metrics.recommendations.labels(kind[0].value, kind[1].name, kind[2])
                self._lists[kind] = lists
            lists.inc(count)
        for source, items in Counter(sources).items():
            self._sources[source].inc(items)

    def computed(self, strategy: Strategy, items: Iterable[RecommendedItem]) -> None:
        """A list was made rather than found in a cache; items: best first."""
        self._computed += 1
        if self._computed % _SCORED_EVERY != 1:
            return
        scores = self._scores[strategy]
        for item, _ in zip(items, range(_SCORED), strict=False):
            scores.observe(item.score)

    def _is_cold_start(self, query: RecommendQuery, found: Recommendations) -> bool:
        return (
            query.strategy in self._personal
            and (query.user_id is not None or query.session_id is not None)
            and found.degradation.level is DegradationLevel.NONE
        )
