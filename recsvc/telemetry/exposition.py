"""How metrics leave: /metrics over HTTP, of one process or summed over the workers of one service.

Workers write their metrics to files of one folder (prometheus_client's multiprocess mode, which the library switches on
by PROMETHEUS_MULTIPROC_DIR when it is imported), and their parent reads these files when it is asked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, disable_created_metrics, start_http_server, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from recsvc.telemetry.exemplars import WithExemplars, WorkerExemplars

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Names the workers' folder. A process that is not a worker must not inherit it: it would write files of its own."""

_CLOSE_S = 5.0


@contextmanager
def exposed(registry: CollectorRegistry, host: str, port: int) -> Iterator[int]:
    """Serve /metrics while the block runs; yields the port. Raises OSError when it is taken."""
    # When each counter began costs as many series again, and nobody asks.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    server, thread = start_http_server(port, host, registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join(_CLOSE_S)


def count_as_worker(number: int) -> WorkerExemplars:
    """Have this process count on where the last worker of this number stopped; to be called before a metric is made.

    By the process id, which is the library's way, each restart would leave files behind that are read for ever. Returns
    the exemplars, which must be written now and then.
    """
    exemplars = WorkerExemplars(Path(os.environ[FOLDER_VARIABLE]), number)
    base = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]
    values.ValueClass = exemplars.value_class(base)
    return exemplars


def registry_of_workers(folder: Path) -> CollectorRegistry:
    """What all workers that write to the folder have counted, the dead among them; gauges of the living only."""
    registry = CollectorRegistry()
    collector = MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]
    registry.register(WithExemplars(collector, folder))
    return registry


def worker_ends(registry: CollectorRegistry) -> Counter:
    """What the parent itself counts: the ends of its workers."""
    return Counter("recsvc_worker_ends_total", "Workers that ended, for whatever reason.", registry=registry)


def forget_gauges(folder: Path, number: int) -> None:
    """Drop the gauges of a worker that has ended, and keep what it counted."""
    mark_process_dead(number, str(folder))  # type: ignore[no-untyped-call]
