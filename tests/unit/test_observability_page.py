"""docs/observability.md says what a scrape of the service holds."""

from __future__ import annotations

from prometheus_client import generate_latest

from docs.generate import declared_metrics, page
from recsvc.telemetry.log_events import LOG_EVENTS
from recsvc.telemetry.metrics import Metrics
from recsvc.telemetry.spans import SPANS


def test_every_metric_of_a_scrape_is_described_with_its_kind() -> None:
    lines = generate_latest(Metrics().registry).decode().splitlines()
    types = (line.split()[2:] for line in lines if line.startswith("# TYPE"))
    # The service's own /metrics leaves out when each series began.
    scraped = {(name, kind) for name, kind in types if not name.endswith("_created")}
    assert scraped <= {(metric.name, metric.kind) for metric in declared_metrics()}
    assert all(f"| `{name}` | {kind} |" in page() for name, kind in scraped)


def test_every_metric_is_explained_by_a_sentence() -> None:
    assert [metric.name for metric in declared_metrics() if not metric.help.endswith(".")] == []


def test_every_log_event_and_span_is_described() -> None:
    rows = [line.split("|")[1:3] for line in page().splitlines() if line.startswith("| `")]
    described = {(name.strip(" `"), what.strip()) for name, what in rows}
    assert {(name, event.level) for name, event in LOG_EVENTS.items()} <= described
    assert {(name, span.kind) for name, span in SPANS.items()} <= described
