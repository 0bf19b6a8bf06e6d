"""Labels of metrics: however many values come, there are no more series than were asked for."""

from __future__ import annotations

from recsvc.telemetry.metrics import Metrics
from recsvc.telemetry.metrics.labels import BoundedLabel, TenantLabels


def test_the_first_values_are_told_by_name_and_all_others_are_one() -> None:
    label = BoundedLabel(2)
    assert [label.of(value) for value in ("a", "b", "c", "d", "a")] == ["a", "b", "other", "other", "a"]


def test_tenants_are_not_told_apart_unless_asked() -> None:
    labels = TenantLabels(0)
    assert not labels.are_told_apart
    assert {labels.of_caller(tenant) for tenant in ("a", "b")} == {""}


def test_the_busiest_tenants_are_told_by_name_and_the_rest_is_other() -> None:
    labels = TenantLabels(2, judged_every_s=3600)
    for tenant in ("quiet", *["busy"] * 4, *["busier"] * 5, "quiet"):
        assert labels.of_caller(tenant) == "other"
    labels._judged_every_s = 0
    labels.of_caller("quiet")
    assert [labels.of(tenant) for tenant in ("busy", "busier", "quiet")] == ["busy", "busier", "other"]


def test_names_once_given_stay_and_no_more_are_given() -> None:
    labels = TenantLabels(2, judged_every_s=0)
    told = {labels.of_caller(f"t{number}") for number in range(1000)}
    assert told == {"t0", "t1", "other"}
    assert labels.of("t0") == "t0"


_BOUNDED_BY = {
    "by": "the code",
    "cache": "the code",
    "code": "gRPC",
    "command": "the code",
    "conversion": "true and false",
    "degradation": "the contract",
    "dependency": "the settings",
    "event_type": "the default types, and other",
    "limit": "the contract",
    "method": "the contract",
    "operation": "the code",
    "origin": "the code",
    "outcome": "the code",
    "placement": "BoundedLabel",
    "pool": "the settings",
    "queue": "the code",
    "reason": "the contract, and the code",
    "replica": "the settings",
    "source": "the code",
    "state": "the code",
    "statement": "the .sql files",
    "strategy": "the contract",
    "table": "the schema",
    "target": "the settings",
    "tenant": "TenantLabels",
}


def test_whatever_a_metric_tells_apart_is_bounded() -> None:
    labels = {
        label for metric in Metrics().registry._collector_to_names for label in getattr(metric, "_labelnames", ())
    }
    assert labels == set(_BOUNDED_BY)
