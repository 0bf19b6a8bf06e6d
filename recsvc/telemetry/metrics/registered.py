"""The registry, and how a metric gets into it: each once, and each gauge with what those of several workers come to.

A gauge says by its mode what the gauges of several workers come to (`telemetry/exposition.py`): the sum of what each of
them holds, the worst of what each of them sees, or the last measurement of what they share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Mode: TypeAlias = Literal["livesum", "livemax", "livemin", "livemostrecent"]
SUM: Final = "livesum"
WORST: Final = "livemax"
LEAST: Final = "livemin"
LAST: Final = "livemostrecent"


class Registered:
    """What every area of metrics is made of."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._read_when_asked: list[tuple[Gauge, Callable[[], float]]] = []

    def read_when_asked(self, gauge: Gauge, read: Callable[[], float]) -> None:
        """Have a gauge say what `read` returns, where setting it at each change would cost too much."""
        gauge.set_function(read)
        self._read_when_asked.append((gauge, read))

    def write_gauges(self) -> None:
        """Set such gauges to what they say now: nobody asks a worker, its parent sees only what was set."""
        for gauge, read in self._read_when_asked:
            gauge.set(read())

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str, workers: Mode) -> Gauge:
        return Gauge(name, text, labels, multiprocess_mode=workers, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)
