"""PostgreSQL, Redis and the caches in the processes."""

from __future__ import annotations

from deploy.grafana.boards.graph import Board, Graph, quantile, rate, share_of

STORAGE = Board(
    "recsvc-storage",
    "recsvc: storage",
    {
        "Dependencies": [
            Graph("Up", "", "none", {"{{dependency}}": "min by (dependency) (recsvc_dependency_up{$at})"}),
            Graph(
                "Breakers",
                "0: asked, 1: probed, 2: left alone.",
                "none",
                {"{{dependency}}": "max by (dependency) (recsvc_breaker_state{$at})"},
            ),
            Graph(
                "Lag of replicas",
                "For how long they have lacked what the primary had.",
                "s",
                {"{{replica}}": "max by (replica) (recsvc_replica_lag_seconds{$at})"},
            ),
        ],
        "PostgreSQL": [
            Graph(
                "Connections",
                "",
                "none",
                {
                    "{{pool}} {{state}}": "sum by (pool, state) (recsvc_pool_connections{$at})",
                    "{{pool}} at most": "sum by (pool) (recsvc_pool_connections_max{$at})",
                },
            ),
            Graph(
                "Wait for a connection, p99", "", "s", {"{{pool}}": quantile(0.99, "recsvc_pool_wait_seconds", "pool")}
            ),
            Graph(
                "Got no connection",
                "None was free in time, or too many waited already.",
                "cps",
                {"{{pool}}": rate("recsvc_pool_refusals_total", "pool")},
            ),
            Graph("Waiting for a connection", "", "none", {"{{pool}}": "sum by (pool) (recsvc_pool_waiting{$at})"}),
            Graph(
                "Time in statements",
                "Seconds a second, of the ten that take most: where time goes.",
                "none",
                {"{{statement}}": f"topk(10, {rate('recsvc_statement_seconds_sum', 'statement')})"},
            ),
            Graph(
                "Slowest statements, p99",
                "",
                "s",
                {"{{statement}}": f"topk(10, {quantile(0.99, 'recsvc_statement_seconds', 'statement')})"},
            ),
            Graph(
                "Reads that may be a little old",
                "By the server that was asked.",
                "cps",
                {"{{target}}": rate("recsvc_reads_total", "target")},
                True,
            ),
        ],
        "Further attempts": [
            Graph(
                "Further attempts",
                "By what came of them; no_budget and no_time were not made.",
                "cps",
                {"{{outcome}}": rate("recsvc_retries_total", "outcome")},
            ),
            Graph(
                "Further attempts by operation",
                "",
                "cps",
                {"{{operation}}": rate("recsvc_retries_total", "operation")},
            ),
            Graph(
                "Changes of breakers",
                "Within five minutes.",
                "none",
                {
                    "{{dependency}} {{state}}": (
                        "sum by (dependency, state) (increase(recsvc_breaker_changes_total{$at}[5m]))"
                    )
                },
            ),
        ],
        "Redis and caches": [
            Graph("Redis, p99", "By command.", "s", {"{{command}}": quantile(0.99, "recsvc_redis_seconds", "command")}),
            Graph("Commands that Redis did not answer", "", "cps", {"failures": rate("recsvc_redis_failures_total")}),
            Graph(
                "Hits",
                "The share of look-ups.",
                "percentunit",
                {"{{cache}}": share_of("recsvc_cache_lookups_total", 'outcome="hit"', "cache")},
            ),
            Graph("Entries", "In the process.", "none", {"{{cache}}": "sum by (cache) (recsvc_cache_entries{$at})"}),
            Graph("Items of snapshots", "", "short", {"{{instance}}": "recsvc_snapshot_items{$at}"}),
            Graph(
                "Memory of snapshots",
                "Of catalogues and models.",
                "bytes",
                {"{{instance}}": "recsvc_snapshot_bytes{$at}"},
            ),
            Graph(
                "Reading of snapshots, p99",
                "",
                "s",
                {"p99": quantile(0.99, "recsvc_snapshot_read_seconds")},
            ),
        ],
    },
)
