"""docs/observability.md says what a scrape of the service holds."""

from __future__ import annotations

from prometheus_client import generate_latest

from docs.generate import declared_metrics, page
from recsvc.telemetry.metrics import Metrics


def test_every_metric_of_a_scrape_is_described_with_its_kind() -> None:
    lines = generate_latest(Metrics().registry).decode().splitlines()
    types = (line.split()[2:] for line in lines if line.startswith("# TYPE"))
    # The service's own /metrics leaves out when each series began.
    scraped = {(name, kind) for name, kind in types if not name.endswith("_created")}
    assert scraped <= {(metric.name, metric.kind) for metric in declared_metrics()}
    assert all(f"| `{name}` | {kind} |" in page() for name, kind in scraped)


def test_every_metric_is_explained_by_a_sentence() -> None:
    assert [metric.name for metric in declared_metrics() if not metric.help.endswith(".")] == []
