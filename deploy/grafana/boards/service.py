"""The service as its callers see it: service levels, calls, and the processes that answer them."""

from __future__ import annotations

from deploy.grafana.boards.graph import Board, Graph, quantile, quantiles, rate

_RECOMMEND = 'method="/recsvc.v1.RecommendationService/Recommend"'

SERVICE = Board(
    "recsvc-service",
    "recsvc: service",
    {
        "Service levels (docs/runbook.md)": [
            Graph(
                "Calls that failed",
                "UNAVAILABLE, INTERNAL and DEADLINE_EXCEEDED; 0.1 % may over a month.",
                "percentunit",
                {
                    "5 minutes": "job:recsvc_calls_failed:ratio_rate5m",
                    "1 hour": "job:recsvc_calls_failed:ratio_rate1h",
                    "3 days": "job:recsvc_calls_failed:ratio_rate3d",
                },
            ),
            Graph(
                "Lists that took more than 100 ms",
                "1 % may over a month.",
                "percentunit",
                {
                    "5 minutes": "job:recsvc_recommend_slow:ratio_rate5m",
                    "1 hour": "job:recsvc_recommend_slow:ratio_rate1h",
                    "3 days": "job:recsvc_recommend_slow:ratio_rate3d",
                },
            ),
            Graph(
                "Burn rate over an hour",
                "How many times faster than a month would allow the misses are used up; 14.4 calls somebody.",
                "none",
                {
                    "failures": "job:recsvc_calls_failed:ratio_rate1h / 0.001",
                    "slow lists": "job:recsvc_recommend_slow:ratio_rate1h / 0.01",
                },
            ),
        ],
        "Calls": [
            Graph("Calls", "By method.", "reqps", {"{{method}}": rate("recsvc_call_seconds_count", "method")}, True),
            Graph(
                "Calls that did not end with OK",
                "By method and code, what callers did wrong among them.",
                "reqps",
                {"{{method}} {{code}}": rate("recsvc_call_seconds_count", "method, code", 'code!="OK"')},
            ),
            Graph(
                "Refusals",
                "By reason, and by limit where one was reached.",
                "reqps",
                {"{{reason}} {{limit}}": rate("recsvc_refusals_total", "reason, limit")},
            ),
            Graph("Recommend", "Duration in the server.", "s", quantiles("recsvc_call_seconds", _RECOMMEND)),
            Graph(
                "p99 of unary methods",
                "Duration in the server.",
                "s",
                {
                    "{{method}}": quantile(
                        0.99,
                        "recsvc_call_seconds",
                        "method",
                        'method!~".*/(Stream|Watch|Bulk|Export|Import).*"',
                    )
                },
            ),
            Graph(
                "Calls by tenant",
                "Of the busiest ones, if RECSVC_METRICS__TENANTS lets them be told apart.",
                "reqps",
                {"{{tenant}}": rate("recsvc_tenant_calls_total", "tenant")},
            ),
            Graph("In flight", "Streams among them.", "none", {"{{instance}}": "recsvc_calls_in_flight{$at}"}),
        ],
        "Processes": [
            Graph("Ready", "1: takes calls.", "none", {"{{instance}}": "recsvc_ready{$at}"}),
            Graph(
                "Lag of the event loop, p99",
                "How late a sleeper wakes; every call waits for some turns of the loop.",
                "s",
                {"{{instance}}": quantile(0.99, "recsvc_event_loop_lag_seconds", "instance")},
            ),
            Graph(
                "Queues",
                "How full they are; beyond 100 % work is refused or dropped.",
                "percentunit",
                {
                    "{{queue}}": "max by (queue) (recsvc_queue_length{$at} / recsvc_queue_capacity{$at})",
                },
            ),
            Graph("Ends of workers", "", "none", {"{{instance}}": "increase(recsvc_worker_ends_total{$at}[5m])"}),
            Graph("Watched lists", "", "none", {"{{instance}}": "recsvc_watchers{$at}"}),
            Graph("Changed lists sent", "", "cps", {"lists": rate("recsvc_watch_updates_total")}),
            Graph(
                "Spans of traces",
                "Sent or lost, by why.",
                "cps",
                {"{{outcome}}": rate("recsvc_trace_spans_total", "outcome")},
            ),
        ],
    },
)
