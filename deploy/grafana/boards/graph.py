"""What dashboards are made of: rows of graphs, each with its queries, and the queries that they have in common.

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


_RATE = "$__rate_interval"


def rate(metric: str, by: str = "", where: str = "") -> str:
    """The sum of the rates of a counter, or of the parts of a histogram."""
    return f"sum by ({by}) (rate({metric}{{$at{', ' + where if where else ''}}}[{_RATE}]))"


def quantile(share: float, histogram: str, by: str = "", where: str = "") -> str:
    """A quantile of a histogram over a moment. share: 0.99 for the 99th percentile."""
    return f"histogram_quantile({share}, {rate(histogram + '_bucket', f'{by}, le' if by else 'le', where)})"


def quantiles(histogram: str, where: str = "") -> dict[str, str]:
    """The usual ones, by legend."""
    return {f"p{share * 100:g}": quantile(share, histogram, where=where) for share in (0.5, 0.95, 0.99)}


def share_of(counter: str, where: str, by: str = "") -> str:
    """What part of a counter's rate is of these labels."""
    return f"{rate(counter, by, where)} / {rate(counter, by)}"
