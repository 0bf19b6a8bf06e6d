"""What telemetry costs a cached Recommend: one server a row, each with one part more, called in turn.

The rows are called in turn, some calls of each a round and in another order each time, so that whatever else the
machine does meets all of them alike; each is compared with the one without any telemetry within its round, and medians
are told. Traces go to a collector in a process of its own, which throws them away.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import grpc
import uvloop
from prometheus_client.metrics import MetricWrapperBase
from rich.table import Table

from bench.interceptors import cpu_us
from bench.load import load
from bench.ports import free_port
from recsvc import app
from recsvc.cli.serve import serve_until_stopped
from recsvc.settings import Settings
from recsvc.telemetry.logging import configure
from recsvc.telemetry.metrics import Metrics

_METHOD = "/recsvc.v1.RecommendationService/Recommend"
_COLLECT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_CALLERS = 16
_CALLS = 160
_WARM_UP_ROUNDS = 3
_START_S = 60.0
_NO_METRICS = "RECSVC_BENCH_NO_METRICS"
_OFF = {_NO_METRICS: "1", "RECSVC_LOG_LEVEL": "ERROR"}
_LOGS = {"RECSVC_LOG_LEVEL": "INFO", "RECSVC_LOG_FORMAT": "json"}
_TRACES = {"RECSVC_TRACING__ENABLED": "true"}
_DEFAULT_RATIO = Settings.model_fields["tracing"].default.ratio
_ROWS: Mapping[str, Mapping[str, str]] = {
    "no telemetry": _OFF,
    "metrics": {"RECSVC_LOG_LEVEL": "ERROR"},
    "metrics, log": _LOGS,
    f"metrics, log, traces of {_DEFAULT_RATIO:.0%}": {**_LOGS, **_TRACES},
    "metrics, log, traces of all calls": {
        **_LOGS,
        **_TRACES,
        "RECSVC_TRACING__RATIO": "1",
        "RECSVC_TRACING__CALLS_PER_S": "100000",
    },
}


@dataclass(frozen=True, slots=True)
class TelemetryCosts:
    """By row: calls a second and CPU time of the server a call, and both against no telemetry in the same round."""

    calls_per_s: Sequence[float]
    calls_ratio: Sequence[float]
    cpu_us: Sequence[float]
    cpu_ratio: Sequence[float]

    def table(self) -> Table:
        """The rows."""
        table = Table("", "calls/s", "to none", "CPU µs a call", "to none", title="telemetry of a cached Recommend")
        for index, name in enumerate(_ROWS):
            table.add_row(
                name,
                f"{self.calls_per_s[index]:,.0f}",
                f"{self.calls_ratio[index]:.3f}",
                f"{self.cpu_us[index]:.0f}",
                f"{self.cpu_ratio[index]:.3f}",
            )
        return table

    def figures(self) -> dict[str, float]:
        """The same by name."""
        return {
            f"{name}: {figure}": values[index]
            for index, name in enumerate(_ROWS)
            for figure, values in (
                ("calls/s", self.calls_per_s),
                ("calls/s to none", self.calls_ratio),
                ("CPU µs", self.cpu_us),
                ("CPU to none", self.cpu_ratio),
            )
        }


async def measure(
    environment: Mapping[str, str], bodies: Sequence[bytes], metadata: tuple[tuple[str, str], ...], rounds: int
) -> TelemetryCosts:
    """Start the servers and call them in turn, so many rounds. environment: where PostgreSQL and Redis are."""
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(_process("collect", os.environ))
        assert collector.stdout is not None
        endpoint = {"RECSVC_TRACING__ENDPOINT": f"http://127.0.0.1:{int(collector.stdout.readline())}"}
        servers, targets = [], []
        for row in _ROWS.values():
            port = free_port()
            of_server = {"RECSVC_SERVER__PORT": str(port), "RECSVC_SERVER__METRICS_PORT": "0"}
            servers.append(stack.enter_context(_process("serve", {**environment, **endpoint, **of_server, **row})))
            targets.append(f"127.0.0.1:{port}")
            await _ready(targets[-1])
        return await _measured(targets, [server.pid for server in servers], bodies, metadata, rounds)


async def _measured(
    targets: Sequence[str],
    pids: Sequence[int],
    bodies: Sequence[bytes],
    metadata: tuple[tuple[str, str], ...],
    rounds: int,
) -> TelemetryCosts:
    speeds: list[list[float]] = [[] for _ in targets]
    costs: list[list[float]] = [[] for _ in targets]
    order = list(range(len(targets)))
    for number in range(_WARM_UP_ROUNDS + rounds):
        for index in random.sample(order, len(order)):
            start = cpu_us(pids[index])
            result = await load(targets[index], _METHOD, bodies, callers=_CALLERS, calls=_CALLS, metadata=metadata)
            if number >= _WARM_UP_ROUNDS:
                speeds[index].append(result.calls_per_s)
                # The load's own warm-up costs CPU time, too.
                costs[index].append((cpu_us(pids[index]) - start) / (_CALLS + max(_CALLERS, _CALLS // 10)))

    def medians(rows: Sequence[Sequence[float]]) -> list[float]:
        return [statistics.median(row) for row in rows]

    def ratios(rows: Sequence[Sequence[float]]) -> list[list[float]]:
        return [[value / none for value, none in zip(row, rows[0], strict=True)] for row in rows]

    return TelemetryCosts(medians(speeds), medians(ratios(speeds)), medians(costs), medians(ratios(costs)))


async def _ready(target: str) -> None:
    async with grpc.aio.insecure_channel(target) as channel, asyncio.timeout(_START_S):
        await channel.channel_ready()


@contextlib.contextmanager
def _process(role: str, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.telemetry", role],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


class _Nothing:
    """Takes what a metric takes, and does nothing."""

    def labels(self, *_labels: Any, **_named: Any) -> _Nothing:
        return self

    def time(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def __getattr__(self, _name: str) -> Any:
        return lambda *_arguments, **_named: None


class NoMetrics(Metrics):
    """Metrics that are not kept: the service has no setting for that, since nobody should be without them."""

    def __init__(self, named_tenants: int = 0) -> None:
        super().__init__(named_tenants)
        for name, metric in vars(self).items():
            if isinstance(metric, MetricWrapperBase):
                setattr(self, name, _Nothing())


async def _serve() -> None:
    settings = Settings()
    configure(settings.log_level, settings.log_format)
    metrics = NoMetrics if os.environ.get(_NO_METRICS) else Metrics
    with patch.object(app, "Metrics", metrics):
        await serve_until_stopped(settings)


async def _collect() -> None:
    async def taken(_request: bytes, _context: Any) -> bytes:
        return b""

    service, method = _COLLECT[1:].split("/")
    handler = grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(taken)})
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run({"serve": _serve, "collect": _collect}[sys.argv[1]]())
