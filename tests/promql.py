"""What PromQL expressions ask of the metrics that the service has, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import promql_parser as promql

from docs.generate import DeclaredMetric, declared_metrics
from recsvc.domain.errors import Code, Reason
from recsvc.domain.events import DEFAULT_EVENT_TYPES
from recsvc.domain.recommendations import DegradationLevel, Strategy
from recsvc.rpc.health import POSTGRESQL, REDIS
from recsvc.rpc.methods import policies
from recsvc.rpc.server import FILES
from recsvc.settings import ServerSettings

_OF_COUNTERS = {"rate", "irate", "increase", "resets"}
_FROM_PROMETHEUS = {"job", "instance"}
# Grafana's own, which the parser does not know.
_INTERVALS = re.compile(r"\$__(rate_interval|interval|range)")
# The values that a label may have, where they are written down somewhere.
_VALUES: Mapping[str, Collection[str]] = {
    "method": policies(FILES, ServerSettings()),
    "code": {code.name for code in Code} | {"CANCELLED"},
    "reason": {reason.value for reason in Reason},
    "dependency": {POSTGRESQL, REDIS},
    "degradation": {level.name for level in DegradationLevel},
    "event_type": {kind.event_type for kind in DEFAULT_EVENT_TYPES},
    "strategy": {strategy.value for strategy in Strategy},
}


@dataclass(frozen=True, slots=True)
class Selected:
    """One selector. function: what its samples go into first, "" for none; grouped_by: by all that is around it."""

    selector: promql.VectorSelector
    function: str
    grouped_by: frozenset[str]


def mistakes(query: str, recorded: Collection[str] = ()) -> list[str]:
    """What a query asks for that no metric of the service has. recorded: names that recording rules make.

    Raises ValueError for what is not PromQL.
    """
    found = []
    for selected in _selected(_parsed(query), "", frozenset()):
        name = selected.selector.name
        if name == "up" or name in recorded:
            continue
        metric = _metrics_by_series().get(name)
        found += [f"{name} is no metric"] if metric is None else _misuses(name, metric, selected)
    return found


def labels_of(query: str) -> frozenset[str]:
    """Labels that the series which a query gives may have."""
    found: frozenset[str] = frozenset()
    for selected in _selected(_parsed(query), "", frozenset()):
        metric = _metrics_by_series().get(selected.selector.name)
        found |= selected.grouped_by or frozenset(metric.labels if metric else ()) | _FROM_PROMETHEUS
    return found


def selectors(query: str) -> list[promql.VectorSelector]:
    """All selectors of a query."""
    return [selected.selector for selected in _selected(_parsed(query), "", frozenset())]


def is_series(name: str) -> bool:
    """Whether a scrape may have a series of this name."""
    return name in _metrics_by_series()


@cache
def _metrics_by_series() -> Mapping[str, DeclaredMetric]:
    return {name: metric for metric in declared_metrics() for name in _series(metric)}


def _parsed(query: str) -> promql.Expr:
    return promql.parse(_INTERVALS.sub("5m", query))


def _series(metric: DeclaredMetric) -> list[str]:
    if metric.kind == "histogram":
        return [f"{metric.name}{ending}" for ending in ("_bucket", "_count", "_sum")]
    return [metric.name]


def _misuses(name: str, metric: DeclaredMetric, selected: Selected) -> Iterator[str]:
    labels = {*metric.labels, *_FROM_PROMETHEUS} | ({"le"} if name.endswith("_bucket") else set())
    matchers = selected.selector.matchers.matchers
    for label in sorted({matcher.name for matcher in matchers} | selected.grouped_by):
        if label not in labels:
            yield f"{name} has no label {label}"
    for matcher in matchers:
        if matcher.name == "le" and float(matcher.value) not in metric.buckets:
            yield f"{name} has no bucket le={matcher.value}"
        yield from _unknown_values(matcher)
    if metric.kind == "gauge" and selected.function in _OF_COUNTERS:
        yield f"{selected.function}({name}), which is a gauge"
    if metric.kind != "gauge" and selected.function not in _OF_COUNTERS:
        yield f"{name} is a {metric.kind}: without a rate it says when the process started"


def _unknown_values(matcher: promql.Matcher) -> Iterator[str]:
    known = _VALUES.get(matcher.name)
    if known is None or matcher.value.startswith("$"):
        return
    is_expression = matcher.op in (promql.MatchOp.Re, promql.MatchOp.NotRe)
    for value in matcher.value.split("|") if is_expression and "(" not in matcher.value else [matcher.value]:
        if not any(re.fullmatch(value, name) if is_expression else value == name for name in known):
            yield f"{matcher.name} is never {value!r}"


def _selected(node: promql.Expr, function: str, grouped_by: frozenset[str]) -> Iterator[Selected]:
    match node:
        case promql.VectorSelector():
            yield Selected(node, function, grouped_by)
        case promql.MatrixSelector():
            yield Selected(node.vector_selector, function, grouped_by)
        case promql.Call():
            for argument in node.args:
                yield from _selected(argument, node.func.name if _takes_range(argument) else function, grouped_by)
        case promql.AggregateExpr():
            by = node.modifier.labels if node.modifier and node.modifier.type == promql.AggModifierType.By else ()
            yield from _selected(node.expr, function, grouped_by | set(by))
        case promql.BinaryExpr():
            yield from _selected(node.lhs, function, grouped_by)
            yield from _selected(node.rhs, function, grouped_by)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from _selected(node.expr, function, grouped_by)


def _takes_range(argument: promql.Expr) -> bool:
    return isinstance(argument, promql.MatrixSelector)
