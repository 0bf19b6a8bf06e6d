"""Exemplars of calls: which calls leave one, who sees it, and what several workers make of it."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry import trace
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from recsvc.rpc.calls import Call
from recsvc.rpc.interceptors.observation import Observation
from recsvc.telemetry.exposition import FOLDER_VARIABLE, exposed, registry_of_workers
from recsvc.telemetry.metrics import Metrics

_TRACE = 0x5B8AA5A2D2C872E8321CF37308D69DF2
_OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def _scrape(registry: CollectorRegistry, accept: str) -> tuple[str, str]:
    """The content type and text of /metrics."""
    with exposed(registry, "127.0.0.1", 0) as port:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"accept": accept})
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own
            return answer.headers["content-type"], answer.read().decode()


def _exemplars(registry: CollectorRegistry) -> list[Mapping[str, str]]:
    _, text = _scrape(registry, _OPENMETRICS)
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return [sample.exemplar.labels for sample in samples if sample.exemplar is not None]


@contextmanager
def _span(flags: int) -> Iterator[None]:
    context = trace.SpanContext(_TRACE, 1, is_remote=True, trace_flags=trace.TraceFlags(flags))
    with trace.use_span(trace.NonRecordingSpan(context)):
        yield


def _call(metrics: Metrics) -> None:
    call = Call("/recsvc.v1.Any/Method", None, "", {}, 0.0)  # type: ignore[arg-type]
    observation = Observation(metrics, are_traced=True)
    observation.enter(call, None)  # type: ignore[arg-type]
    observation.leave(call, None)


def test_a_call_of_a_sampled_trace_leaves_the_id_of_its_trace() -> None:
    metrics = Metrics()
    with _span(trace.TraceFlags.SAMPLED):
        _call(metrics)
    assert _exemplars(metrics.registry) == [{"trace_id": "5b8aa5a2d2c872e8321cf37308d69df2"}]


@pytest.mark.parametrize("is_traced", [True, False])
def test_a_call_that_nobody_traces_leaves_none(is_traced: bool) -> None:
    metrics = Metrics()
    if is_traced:
        with _span(trace.TraceFlags.DEFAULT):
            _call(metrics)
    else:
        _call(metrics)
    assert _exemplars(metrics.registry) == []


def test_exemplars_are_told_to_those_who_ask_for_openmetrics_only() -> None:
    metrics = Metrics()
    with _span(trace.TraceFlags.SAMPLED):
        _call(metrics)
    kind, text = _scrape(metrics.registry, _OPENMETRICS)
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")
    kind, text = _scrape(metrics.registry, "text/plain")
    assert kind.startswith("text/plain")
    assert "trace_id" not in text


_WORKER = """
import sys
from recsvc.telemetry.exposition import count_as_worker
number, value, trace_id = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
exemplars = count_as_worker(number)
from recsvc.telemetry.metrics import Metrics
timer = Metrics().call_seconds.labels("/recsvc.v1.Any/Method", "OK")
timer.observe(value, {"trace_id": trace_id})
exemplars.write()
"""


def _run_worker(folder: Path, number: int, duration_s: float, trace_id: str) -> None:
    environment = os.environ | {FOLDER_VARIABLE: str(folder)}
    subprocess.run([sys.executable, "-c", _WORKER, str(number), str(duration_s), trace_id], env=environment, check=True)


def test_the_exemplars_of_all_workers_are_in_the_scrape_of_their_parent(tmp_path: Path) -> None:
    _run_worker(tmp_path, 1, 0.003, "fast")
    _run_worker(tmp_path, 2, 0.3, "slow")
    assert _exemplars(registry_of_workers(tmp_path)) == [{"trace_id": "fast"}, {"trace_id": "slow"}]


def test_of_two_workers_the_later_exemplar_of_a_bucket_is_told(tmp_path: Path) -> None:
    _run_worker(tmp_path, 2, 0.003, "first")
    _run_worker(tmp_path, 1, 0.003, "second")
    assert _exemplars(registry_of_workers(tmp_path)) == [{"trace_id": "second"}]
