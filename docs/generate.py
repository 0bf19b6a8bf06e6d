"""Writes docs/observability.md from what the code declares, or with --check proves that it says what the code says.

    python docs/generate.py [--check]

The text around the tables stands in observability.md.j2. A metric is described where it is registered, events and spans
where they are declared, so that this page cannot name one that does not exist, nor leave one out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from recsvc.telemetry.exposition import worker_ends
from recsvc.telemetry.log_events import EVERY_LINE, LOG_EVENTS, WHILE_ANSWERING, WITH_EXCEPTION
from recsvc.telemetry.metrics import Metrics
from recsvc.telemetry.metrics.registered import LAST, LEAST, SUM, WORST
from recsvc.telemetry.spans import SPANS

HERE = Path(__file__).resolve().parent
_PAGE = HERE / "observability.md"
# What a gauge shows of `serve --workers N`, by its multiprocess mode.
_OVER_WORKERS = {SUM: "sum", WORST: "largest", LEAST: "smallest", LAST: "latest"}


@dataclass(frozen=True, slots=True)
class DeclaredMetric:
    """A metric as /metrics tells it.

    name: with the ending of counters; over_workers: of gauges, else empty; buckets: upper bounds, of histograms.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    over_workers: str
    buckets: tuple[float, ...]


def declared_metrics() -> list[DeclaredMetric]:
    """All that a service registers, by name."""
    return sorted((_declared(metric) for metric in _registered()), key=lambda metric: metric.name)


def _registered() -> Iterator[MetricWrapperBase]:
    of_workers = CollectorRegistry()
    worker_ends(of_workers)
    for registry in (Metrics().registry, of_workers):
        # The library's public way to the labels of a metric leads through its samples, of which there are none yet.
        for collector in registry._collector_to_names:
            assert isinstance(collector, MetricWrapperBase), f"{collector} cannot be described"
            yield collector


def _declared(metric: MetricWrapperBase) -> DeclaredMetric:
    ending = "_total" if metric._type == "counter" else ""
    return DeclaredMetric(
        metric._name + ending,
        metric._type,
        tuple(metric._labelnames),
        metric._documentation,
        _OVER_WORKERS[metric._multiprocess_mode] if isinstance(metric, Gauge) else "",
        tuple(metric._upper_bounds) if isinstance(metric, Histogram) else (),
    )


def page() -> str:
    """The text of observability.md."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template(f"{_PAGE.name}.j2").render(
        metrics=declared_metrics(),
        every_line=EVERY_LINE,
        while_answering=WHILE_ANSWERING,
        with_exception=WITH_EXCEPTION,
        log_events=LOG_EVENTS,
        spans=SPANS,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Write docs/observability.md from the code.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the page is not fresh")
    text = page()
    if not parser.parse_args().check:
        _PAGE.write_text(text, encoding="utf-8")
        return 0
    is_fresh = _PAGE.exists() and _PAGE.read_text(encoding="utf-8") == text
    print(f"{_PAGE.name} is fresh" if is_fresh else f"stale: {_PAGE.name} (make docs)")
    return 0 if is_fresh else 1


if __name__ == "__main__":
    sys.exit(main())
