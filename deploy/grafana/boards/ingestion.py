"""Events on their way in, the states that follow from them, and what has come together."""

from __future__ import annotations

from deploy.grafana.boards.graph import Board, Graph, rate

INGESTION = Board(
    "recsvc-ingestion",
    "recsvc: events and states",
    {
        "Events": [
            Graph("Events", "By outcome.", "cps", {"{{outcome}}": rate("recsvc_events_total", "outcome")}, True),
            Graph(
                "Committed together",
                "Mean number of events of a transaction.",
                "none",
                {"events": f"{rate('recsvc_event_batch_size_sum')} / {rate('recsvc_event_batch_size_count')}"},
            ),
            Graph("Waiting", "To be written.", "none", {"{{instance}}": "recsvc_events_waiting{$at}"}),
        ],
        "States of users": [
            Graph(
                "Lag",
                "Of the state that lags longest.",
                "s",
                {"lag": "max(recsvc_oldest_dirty_user_seconds{$at})"},
            ),
            Graph("States that lag", "10,000 stands for more.", "none", {"users": "max(recsvc_dirty_users{$at})"}),
            Graph("Folded in", "By who found them.", "cps", {"{{by}}": rate("recsvc_user_folds_total", "by")}, True),
        ],
        "Growth": [
            Graph(
                "Items, users and events",
                "Of all tenants, as PostgreSQL estimates them.",
                "short",
                {"{{table}}": "max by (table) (recsvc_stored_rows{$at})"},
            ),
            Graph(
                "Growth in a day",
                "The same, against a day before.",
                "short",
                {"{{table}}": "max by (table) (delta(recsvc_stored_rows{$at}[1d]))"},
            ),
        ],
    },
)
