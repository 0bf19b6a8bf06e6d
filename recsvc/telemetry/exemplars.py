"""Exemplars of several workers: one call in each bucket of a histogram, by the id of the trace that it is part of.

prometheus_client's multiprocess mode has no place for them. So each worker keeps those it met last and writes them to a
file of its own beside its metrics, and the parent puts them back where they belong.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from prometheus_client import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

_Place: TypeAlias = tuple[str, frozenset[tuple[str, str]]]
"""A sample: its name and labels."""


class WorkerExemplars:
    """Those of this worker, and their file."""

    def __init__(self, folder: Path, number: int) -> None:
        self._file = folder / f"exemplars_{number}.json"
        self._kept: dict[_Place, Exemplar] = {}
        self._has_new = False

    def value_class(self, base: type) -> type:
        """prometheus_client's class of a value, that keeps its exemplar here instead of losing it."""
        keep = self._keep

        class Value(base):  # type: ignore[misc]
            def set_exemplar(self, exemplar: Exemplar) -> None:
                _, _, name, label_names, label_values, *_ = self._params
                keep((name, frozenset(zip(label_names, label_values, strict=True))), exemplar)

        return Value

    def write(self) -> None:
        """Bring the file up to date."""
        if not self._has_new:
            return
        self._has_new = False
        rows = [[name, dict(labels), *exemplar] for (name, labels), exemplar in list(self._kept.items())]
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(rows), encoding="utf-8")
        # Whoever reads meanwhile sees the old file or the new one.
        os.replace(fresh, self._file)

    def _keep(self, place: _Place, exemplar: Exemplar) -> None:
        self._kept[place] = exemplar
        self._has_new = True


class WithExemplars(Collector):
    """What another collector finds, with the exemplars of all workers of a folder, the latest of each place."""

    def __init__(self, collector: Collector, folder: Path) -> None:
        self._collector = collector
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client."""
        exemplars = self._latest()
        for metric in self._collector.collect():
            if metric.type == "histogram":
                metric.samples = [
                    sample._replace(exemplar=exemplars.get((sample.name, frozenset(sample.labels.items()))))
                    for sample in metric.samples
                ]
            yield metric

    def _latest(self) -> Mapping[_Place, Exemplar]:
        latest: dict[_Place, Exemplar] = {}
        for place, exemplar in self._all():
            if place not in latest or _moment(exemplar) > _moment(latest[place]):
                latest[place] = exemplar
        return latest

    def _all(self) -> Iterable[tuple[_Place, Exemplar]]:
        for file in self._folder.glob("exemplars_*.json"):
            rows: list[list[Any]] = json.loads(file.read_text(encoding="utf-8"))
            for name, labels, *exemplar in rows:
                yield (name, frozenset(labels.items())), Exemplar(*exemplar)


def _moment(exemplar: Exemplar) -> float:
    return float(exemplar.timestamp or 0.0)
