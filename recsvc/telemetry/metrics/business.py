"""What the service is for: which lists were served, how good they were, and what came of them."""

from __future__ import annotations

from recsvc.telemetry.metrics.registered import Registered

# A score is a sum of sources, each scaled to 1 at most and weighted.
_SCORES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.5, 2, 3, 5)


class BusinessMetrics(Registered):
    """Lists, items and the events that followed."""

    def __init__(self) -> None:
        super().__init__()
        self.recommendations = self._counter(
            "recsvc_recommendations_total",
            "Lists served, by the strategy that made them, how good they were, and the placement that was asked for:"
            " the first 50 by name, the rest as other.",
            "strategy",
            "degradation",
            "placement",
        )
        self.recommended_items = self._counter(
            "recsvc_recommended_items_total", "Items of such lists, by the source that spoke for them most.", "source"
        )
        self.empty_lists = self._counter(
            "recsvc_empty_lists_total", "Lists without a single item, by the strategy that made them.", "strategy"
        )
        self.similar_lists = self._counter(
            "recsvc_similar_lists_total",
            "Answers of SimilarItems, by what made the items similar and how good the answers were.",
            "by",
            "degradation",
        )
        self.cold_starts = self._counter(
            "recsvc_cold_starts_total",
            "Personal lists for a user or session of whom nothing was known, made of what trends.",
        )
        self.scores = self._histogram(
            "recsvc_recommendation_score",
            "Scores of the first ten items of one in eight of the lists that were computed, by strategy.",
            "strategy",
            buckets=_SCORES,
        )
        self.attributed_events = self._counter(
            "recsvc_attributed_events_total",
            "Stored events that name a list in which their item was shown, by the strategy of that list, the type of"
            " the event (the default ones by name, the tenants' own as other) and whether it is a conversion.",
            "strategy",
            "event_type",
            "conversion",
        )
        self.unattributed_events = self._counter(
            "recsvc_unattributed_events_total",
            "Stored events that name a list and could not be attributed: unknown_list, other_item (which that list did"
            " not have), or dropped, for there were too many.",
            "reason",
        )
