"""What the dashboards show: each a list of rows, each row some graphs, each graph its queries.

`$at` stands for the instances that were chosen above. Rules are recorded for all instances together, so that graphs of
service levels do not heed the choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Graph:
    """One panel. queries: PromQL by legend; unit: as Grafana names it; is_stacked: the series add up to a whole."""

    title: str
    description: str
    unit: str
    queries: Mapping[str, str]
    is_stacked: bool = False


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard. rows: graphs by the title of their row."""

    uid: str
    title: str
    rows: Mapping[str, Sequence[Graph]]


_RECOMMEND = 'method="/recsvc.v1.RecommendationService/Recommend"'
_RATE = "$__rate_interval"


def _rate(metric: str, by: str = "", where: str = "") -> str:
    """The sum of the rates of a counter, or of the parts of a histogram."""
    return f"sum by ({by}) (rate({metric}{{$at{', ' + where if where else ''}}}[{_RATE}]))"


def _quantile(share: float, histogram: str, by: str = "", where: str = "") -> str:
    return f"histogram_quantile({share}, {_rate(histogram + '_bucket', f'{by}, le' if by else 'le', where)})"


def _quantiles(histogram: str, where: str = "") -> dict[str, str]:
    return {f"p{share * 100:g}": _quantile(share, histogram, where=where) for share in (0.5, 0.95, 0.99)}


def _share(counter: str, where: str, by: str = "") -> str:
    return f"{_rate(counter, by, where)} / {_rate(counter, by)}"


def _per_list(events: str) -> str:
    # Over an hour: an event comes minutes after its list.
    lists = "sum by (strategy) (rate(recsvc_recommendations_total{$at}[1h]))"
    return f"sum by (strategy) (rate(recsvc_attributed_events_total{{$at, {events}}}[1h])) / {lists}"


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
            Graph("Calls", "By method.", "reqps", {"{{method}}": _rate("recsvc_call_seconds_count", "method")}, True),
            Graph(
                "Calls that did not end with OK",
                "By method and code, what callers did wrong among them.",
                "reqps",
                {"{{method}} {{code}}": _rate("recsvc_call_seconds_count", "method, code", 'code!="OK"')},
            ),
            Graph(
                "Refusals",
                "By reason, and by limit where one was reached.",
                "reqps",
                {"{{reason}} {{limit}}": _rate("recsvc_refusals_total", "reason, limit")},
            ),
            Graph("Recommend", "Duration in the server.", "s", _quantiles("recsvc_call_seconds", _RECOMMEND)),
            Graph(
                "p99 of unary methods",
                "Duration in the server.",
                "s",
                {
                    "{{method}}": _quantile(
                        0.99,
                        "recsvc_call_seconds",
                        "method",
                        'method!~".*/(Stream|Watch|Bulk|Export|Import).*"',
                    )
                },
            ),
            Graph("In flight", "Streams among them.", "none", {"{{instance}}": "recsvc_calls_in_flight{$at}"}),
        ],
        "Processes": [
            Graph("Ready", "1: takes calls.", "none", {"{{instance}}": "recsvc_ready{$at}"}),
            Graph(
                "Lag of the event loop, p99",
                "How late a sleeper wakes; every call waits for some turns of the loop.",
                "s",
                {"{{instance}}": _quantile(0.99, "recsvc_event_loop_lag_seconds", "instance")},
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
            Graph("Changed lists sent", "", "cps", {"lists": _rate("recsvc_watch_updates_total")}),
        ],
    },
)

QUALITY = Board(
    "recsvc-quality",
    "recsvc: recommender",
    {
        "Lists": [
            Graph(
                "Lists by strategy",
                "",
                "cps",
                {"{{strategy}}": _rate("recsvc_recommendations_total", "strategy")},
                True,
            ),
            Graph(
                "Lists that are less than they could be",
                "The share that is stale, partial, or what trends since there is nothing better.",
                "percentunit",
                {
                    "{{degradation}}": _rate("recsvc_recommendations_total", "degradation", 'degradation!="NONE"')
                    + " / on () group_left () "
                    + _rate("recsvc_recommendations_total")
                },
            ),
            Graph(
                "Degraded, by where the list came from",
                "",
                "cps",
                {"{{origin}}": _rate("recsvc_degraded_answers_total", "origin")},
            ),
            Graph(
                "Lists from the cache",
                "The share of look-ups that found a current list.",
                "percentunit",
                {"hits": _share("recsvc_cache_lookups_total", 'cache="lists", outcome="hit"')},
            ),
            Graph(
                "Candidates",
                "Who found them: arrays in the process or a search in PostgreSQL.",
                "cps",
                {"{{by}}": _rate("recsvc_candidate_questions_total", "by")},
                True,
            ),
            Graph(
                "Lists by placement", "", "cps", {"{{placement}}": _rate("recsvc_recommendations_total", "placement")}
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
                    "{{reason}}": _rate("recsvc_unattributed_events_total", "reason"),
                    "lists not noted": _rate("recsvc_shown_dropped_total"),
                },
            ),
        ],
        "What they are made of": [
            Graph(
                "Items by source",
                "By what spoke most for each.",
                "cps",
                {"{{source}}": _rate("recsvc_recommended_items_total", "source")},
                True,
            ),
            Graph(
                "Cold starts",
                "The share of lists for users of whom nothing was known.",
                "percentunit",
                {"lists": f"{_rate('recsvc_cold_starts_total')} / {_rate('recsvc_recommendations_total')}"},
            ),
            Graph(
                "Median score",
                "Of the first ten items, by strategy; a jump without a new model means that something else changed.",
                "none",
                {"{{strategy}}": _quantile(0.5, "recsvc_recommendation_score", "strategy")},
            ),
        ],
    },
)

INGESTION = Board(
    "recsvc-ingestion",
    "recsvc: events and states",
    {
        "Events": [
            Graph("Events", "By outcome.", "cps", {"{{outcome}}": _rate("recsvc_events_total", "outcome")}, True),
            Graph(
                "Committed together",
                "Mean number of events of a transaction.",
                "none",
                {"events": f"{_rate('recsvc_event_batch_size_sum')} / {_rate('recsvc_event_batch_size_count')}"},
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
            Graph("Folded in", "By who found them.", "cps", {"{{by}}": _rate("recsvc_user_folds_total", "by")}, True),
        ],
    },
)

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
                "Wait for a connection, p99", "", "s", {"{{pool}}": _quantile(0.99, "recsvc_pool_wait_seconds", "pool")}
            ),
            Graph("Waiting for a connection", "", "none", {"{{pool}}": "sum by (pool) (recsvc_pool_waiting{$at})"}),
            Graph(
                "Time in statements",
                "Seconds a second, of the ten that take most: where time goes.",
                "none",
                {"{{statement}}": f"topk(10, {_rate('recsvc_statement_seconds_sum', 'statement')})"},
            ),
            Graph(
                "Slowest statements, p99",
                "",
                "s",
                {"{{statement}}": f"topk(10, {_quantile(0.99, 'recsvc_statement_seconds', 'statement')})"},
            ),
            Graph(
                "Reads that may be a little old",
                "By the server that was asked.",
                "cps",
                {"{{target}}": _rate("recsvc_reads_total", "target")},
                True,
            ),
        ],
        "Redis and caches": [
            Graph(
                "Redis, p99", "By command.", "s", {"{{command}}": _quantile(0.99, "recsvc_redis_seconds", "command")}
            ),
            Graph("Commands that Redis did not answer", "", "cps", {"failures": _rate("recsvc_redis_failures_total")}),
            Graph(
                "Hits",
                "The share of look-ups.",
                "percentunit",
                {"{{cache}}": _share("recsvc_cache_lookups_total", 'outcome="hit"', "cache")},
            ),
            Graph("Entries", "In the process.", "none", {"{{cache}}": "sum by (cache) (recsvc_cache_entries{$at})"}),
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
                {"p99": _quantile(0.99, "recsvc_snapshot_read_seconds")},
            ),
        ],
    },
)

BOARDS = (SERVICE, QUALITY, INGESTION, STORAGE)
