"""The recommender: what lists are, what comes of them, what they are made of, and the models behind."""

from __future__ import annotations

from deploy.grafana.boards.graph import Board, Graph, quantile, rate, share_of


def _per_list(events: str) -> str:
    # Over an hour: an event comes minutes after its list.
    lists = "sum by (strategy) (rate(recsvc_recommendations_total{$at}[1h]))"
    return f"sum by (strategy) (rate(recsvc_attributed_events_total{{$at, {events}}}[1h])) / {lists}"


QUALITY = Board(
    "recsvc-quality",
    "recsvc: recommender",
    {
        "Lists": [
            Graph(
                "Lists by strategy",
                "",
                "cps",
                {"{{strategy}}": rate("recsvc_recommendations_total", "strategy")},
                True,
            ),
            Graph(
                "Lists that are less than they could be",
                "The share that is stale, partial, or what trends since there is nothing better.",
                "percentunit",
                {
                    "{{degradation}}": rate("recsvc_recommendations_total", "degradation", 'degradation!="NONE"')
                    + " / on () group_left () "
                    + rate("recsvc_recommendations_total")
                },
            ),
            Graph(
                "Degraded, by where the list came from",
                "",
                "cps",
                {"{{origin}}": rate("recsvc_degraded_answers_total", "origin")},
            ),
            Graph(
                "Lists from the cache",
                "The share of look-ups that found a current list.",
                "percentunit",
                {"hits": share_of("recsvc_cache_lookups_total", 'cache="lists", outcome="hit"')},
            ),
            Graph(
                "Candidates",
                "Who found them: arrays in the process or a search in PostgreSQL.",
                "cps",
                {"{{by}}": rate("recsvc_candidate_questions_total", "by")},
                True,
            ),
            Graph(
                "Empty lists",
                "The share of lists without a single item.",
                "percentunit",
                {"lists": f"{rate('recsvc_empty_lists_total')} / {rate('recsvc_recommendations_total')}"},
            ),
            Graph(
                "Similar items",
                "Answers of SimilarItems, by what made the items similar.",
                "cps",
                {"{{by}} {{degradation}}": rate("recsvc_similar_lists_total", "by, degradation")},
            ),
            Graph(
                "Lists by placement", "", "cps", {"{{placement}}": rate("recsvc_recommendations_total", "placement")}
            ),
        ],
        "What comes of them": [
            Graph(
                "Click-through",
                "Clicks and views that name a list in which their item was shown, for each list of the strategy.",
                "percentunit",
                {"{{strategy}}": _per_list('event_type=~"click|view"')},
            ),
            Graph(
                "Conversions",
                "The same of events that the tenant counts as conversions.",
                "percentunit",
                {"{{strategy}}": _per_list('conversion="true"')},
            ),
            Graph(
                "Not put down to a list",
                "Events that name an unknown list, or one without their item, and shown lists that were not noted.",
                "cps",
                {
                    "{{reason}}": rate("recsvc_unattributed_events_total", "reason"),
                    "lists not noted": rate("recsvc_shown_dropped_total"),
                },
            ),
        ],
        "What they are made of": [
            Graph(
                "Items by source",
                "By what spoke most for each.",
                "cps",
                {"{{source}}": rate("recsvc_recommended_items_total", "source")},
                True,
            ),
            Graph(
                "Cold starts",
                "The share of lists for users of whom nothing was known.",
                "percentunit",
                {"lists": f"{rate('recsvc_cold_starts_total')} / {rate('recsvc_recommendations_total')}"},
            ),
            Graph(
                "Median score",
                "Of the first ten items, by strategy; a jump without a new model means that something else changed.",
                "none",
                {"{{strategy}}": quantile(0.5, "recsvc_recommendation_score", "strategy")},
            ),
        ],
        "Models": [
            Graph(
                "Age of serving models",
                "Of the oldest one, if tenants are not told apart.",
                "s",
                {"{{tenant}}": "max by (tenant) (recsvc_model_age_seconds{$at})"},
            ),
            Graph(
                "Ends of training runs",
                "Within an hour, by outcome.",
                "none",
                {"{{outcome}}": "sum by (outcome) (increase(recsvc_training_seconds_count{$at}[1h]))"},
            ),
            Graph(
                "Training runs under way",
                "",
                "none",
                {
                    "runs": "max(recsvc_training_runs_under_way{$at})",
                    "progress {{tenant}}": "min by (tenant) (recsvc_training_progress_ratio{$at})",
                },
            ),
            Graph(
                "Coverage of the catalogue",
                "The share of all items that were in a list since midnight (UTC).",
                "percentunit",
                {"items": "max(recsvc_catalog_coverage_ratio{$at})"},
            ),
        ],
    },
)
