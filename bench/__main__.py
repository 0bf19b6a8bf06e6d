"""`make bench`: one run, one table. Ratios are against a floor measured in the same run, since machines differ.

Starts PostgreSQL, Redis and the service in a temporary folder, with MovieLens 100K from RECSVC_DATA_DIR (or
../shared/data), or generated data of the same size where that is not there.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
from rich.console import Console
from rich.table import Table

from bench.bulk import measure as measure_bulk
from bench.events import Metadata, one_stream, plain_events, single_calls, some_events
from bench.freshness import measure as measure_freshness
from bench.imports import measure, raw_copy
from bench.interceptors import measure as measure_interceptors
from bench.load import LoadResult, load
from bench.ports import free_port
from bench.telemetry import measure as measure_telemetry
from bench.training import measure as measure_training
from bench.training import table_of
from bench.workers import measure as measure_workers
from recsvc.app import Storage, open_storage
from recsvc.cli.loading import load as load_dataset
from recsvc.cli.tenants import new_key
from recsvc.cli.train import train_with_progress
from recsvc.datasets import Dataset, open_dataset, seed_dataset
from recsvc.domain.ids import TenantId
from recsvc.domain.tenancy import Scope, TenantSettings
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from recsvc.settings import Settings

_METHOD = "/recsvc.v1.RecommendationService/Recommend"
_TENANT = TenantId("bench")
_CALLERS = 16
_WRITERS = 64
_WRITE_ROUNDS = 9
_STREAMED = 200_000
_STREAM_ROUNDS = 3
_STAGE_ROUNDS = 100
_TELEMETRY_ROUNDS = 80


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=4000, help="calls per measurement")
    parser.add_argument("--import-users", type=int, default=5000, help="users of the import; forty events each")
    parser.add_argument(
        "--training-events", type=int, nargs="*", default=[1_000_000, 5_000_000, 20_000_000],
        help="sizes of the trainings; none leaves them out",
    )  # fmt: skip
    parser.add_argument("--only-training", action="store_true", help="leave all the rest out")
    parser.add_argument("--only-telemetry", action="store_true", help="measure what metrics, log and traces cost, only")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="recsvc-bench-"))
    home.chmod(0o755)
    if arguments.only_telemetry:
        arguments.training_events = []
    try:
        figures = (
            {}
            if arguments.only_training
            else asyncio.run(_measure_telemetry(home))
            if arguments.only_telemetry
            else asyncio.run(_measure(home, arguments.calls, arguments.import_users))
        )
        if arguments.training_events:
            figures |= asyncio.run(_measure_training(home, arguments.training_events))
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


async def _measure(home: Path, calls: int, import_users: int) -> dict[str, float]:
    console = Console()
    settings = Settings(embedded_dir=home, database_url=None, redis_url=None)
    figures: dict[str, float] = {}
    async with open_storage(settings) as storage:
        key, user_ids, item_ids, name = await prepare(storage, console)
        stage_costs = await measure_interceptors(storage.urls.redis_url, _STAGE_ROUNDS)
        console.print(stage_costs.table())
        figures |= stage_costs.figures()
        figures |= await _telemetry(storage, key, user_ids, console)
        port = free_port()
        environment = os.environ | {
            "RECSVC_DATABASE_URL": storage.urls.database_url,
            "RECSVC_REDIS_URL": storage.urls.redis_url,
            "RECSVC_SERVER__PORT": str(port),
            "RECSVC_SERVER__METRICS_PORT": "0",
            "RECSVC_LOG_LEVEL": "WARNING",
        }
        target, metadata = f"127.0.0.1:{port}", (("authorization", f"Bearer {key}"),)
        cached = [_body(user, uncached=False) for user in user_ids[:50]]
        uncached = [_body(user, uncached=True) for user in user_ids]
        with _process([sys.executable, "-m", "recsvc.cli.main", "serve"], environment) as server:
            size = await _answer_size(target, cached[0], metadata)
            rows: list[tuple[str, LoadResult]] = []
            with _process([sys.executable, "-m", "bench.echo_server", str(size)], dict(os.environ)) as echo:
                assert echo.stdout is not None
                floor_target = f"127.0.0.1:{int(echo.stdout.readline())}"
                for callers in (1, _CALLERS):
                    for label, where, method, bodies, part in (
                        ("echo floor", floor_target, "/bench.Echo/Call", cached, 1),
                        ("Recommend, cached", target, _METHOD, cached, 1),
                        ("Recommend, uncached", target, _METHOD, uncached, 8),
                    ):
                        result = await load(
                            where, method, bodies, callers=callers, calls=calls // part, metadata=metadata
                        )
                        rows.append((f"{label}, {callers} caller{'s' if callers > 1 else ''}", result))
                # In turn, since the floor itself is another one from second to second.
                written: list[tuple[LoadResult, LoadResult]] = [
                    (
                        await load(
                            floor_target, "/bench.Echo/Call", cached, callers=_WRITERS, calls=calls, metadata=metadata
                        ),
                        await single_calls(
                            target, some_events(user_ids, item_ids, calls), callers=_WRITERS, metadata=metadata
                        ),
                    )
                    for _ in range(_WRITE_ROUNDS)
                ]
            in_bulk = await measure_bulk(target, user_ids, uncached, metadata)
            freshness = await measure_freshness(target, key, server.pid, user_ids, item_ids)
            # In turn as well.
            streams = [await _one_stream(storage, target, metadata, user_ids, item_ids) for _ in range(_STREAM_ROUNDS)]
            peak = _peak_memory_mib(server.pid)
        throughput = await measure_workers(environment, port, cached, metadata)
        console.print(throughput.table())
        figures |= throughput.figures()
        table = Table("", "calls/s", "p50 ms", "p99 ms", "calls/s to floor", title=f"{name}, {size} bytes an answer")
        for callers in (1, _CALLERS):
            of_callers = [(label, result) for label, result in rows if f", {callers} caller" in label]
            for label, result in of_callers:
                ratio = result.calls_per_s / of_callers[0][1].calls_per_s
                table.add_row(
                    label, f"{result.calls_per_s:,.0f}", f"{result.p50_ms:.2f}", f"{result.p99_ms:.2f}", f"{ratio:.3f}"
                )
                figures |= {f"{label}: calls/s": result.calls_per_s, f"{label}: p50 ms": result.p50_ms}
                figures |= {f"{label}: p99 ms": result.p99_ms, f"{label}: ratio": ratio}
        console.print(table)
        console.print(in_bulk.table())
        figures |= in_bulk.figures()
        console.print(freshness.table())
        figures |= freshness.figures()
        console.print(f"peak memory of the server: {peak:.0f} MiB (target 250)\n")
        figures["server peak MiB"] = peak

        tenant_id, imported = await measure(storage, import_users, import_users, 40.0)
        ratio = imported.import_rows_per_s / imported.copy_rows_per_s
        table = Table("", "rows/s", "to raw COPY", title=f"bulk import of {imported.rows:,} events")
        table.add_row("raw binary COPY, same table", f"{imported.copy_rows_per_s:,.0f}", "1.000")
        table.add_row("event import", f"{imported.import_rows_per_s:,.0f}", f"{ratio:.3f}")
        console.print(table)
        figures |= {"import rows/s": imported.import_rows_per_s, "import ratio": ratio}
        with_ids = await raw_copy(storage, plain_events(some_events(user_ids, item_ids, _STREAMED)), with_ids=True)
        title = f"one stream of {_STREAMED:,} events, median of {_STREAM_ROUNDS} rounds"
        table = Table("", "rows/s", "to the raw COPY of the round", title=title)
        for label, rates in zip(
            ("raw binary COPY, same table", "StreamEvents"), zip(*streams, strict=True), strict=True
        ):
            ratios = [rate / floor for rate, (floor, _) in zip(rates, streams, strict=True)]
            table.add_row(label, f"{statistics.median(rates):,.0f}", _by_round(ratios))
        table.add_row("raw binary COPY, and the ids, once", f"{with_ids:,.0f}", "")
        console.print(table)
        streamed = statistics.median(rate for _, rate in streams)
        figures |= {"stream rows/s": streamed, "stream ratio with ids": streamed / with_ids}
        figures |= {"stream ratio": statistics.median(rate / floor for floor, rate in streams)}
        title = f"events, {_WRITERS} callers, median of {_WRITE_ROUNDS} rounds"
        table = Table("", "calls/s", "p50 ms", "p99 ms", "calls/s to the floor of the round", title=title)
        for label, results in zip(("echo floor", "RecordEvent, durable"), zip(*written, strict=True), strict=True):
            ratios = [
                result.calls_per_s / floor.calls_per_s for result, (floor, _) in zip(results, written, strict=True)
            ]
            calls_per_s = statistics.median(result.calls_per_s for result in results)
            p50_ms, p99_ms = (
                statistics.median(getattr(result, name) for result in results) for name in ("p50_ms", "p99_ms")
            )
            table.add_row(label, f"{calls_per_s:,.0f}", f"{p50_ms:.2f}", f"{p99_ms:.2f}", _by_round(ratios))
            figures |= {f"{label}, {_WRITERS} callers: calls/s": calls_per_s}
            figures |= {f"{label}, {_WRITERS} callers: ratio": statistics.median(ratios)}
        console.print(table)

        tenant_key = (await storage.tenants.get(tenant_id)).tenant_key
        outcome = await train_with_progress(storage, tenant_key, Console(file=open(os.devnull, "w")))  # noqa: SIM115, ASYNC230
        table = Table("stage", "seconds", title=f"training on {outcome.model.event_count:,} interactions")
        for stage, seconds in outcome.seconds.items():
            table.add_row(stage, f"{seconds:.2f}")
            figures[f"training {stage} s"] = seconds
        console.print(table)
    console.print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}")
    return figures


def _by_round(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


async def _one_stream(
    storage: Storage, target: str, metadata: Metadata, user_ids: list[str], item_ids: list[str]
) -> tuple[float, float]:
    """Rows a second of the raw COPY and of the stream, of the same events."""
    events = some_events(user_ids, item_ids, _STREAMED)
    return await raw_copy(storage, plain_events(events)), await one_stream(target, events, metadata)


async def _measure_telemetry(home: Path) -> dict[str, float]:
    console = Console()
    async with open_storage(Settings(embedded_dir=home, database_url=None, redis_url=None)) as storage:
        key, user_ids, _, _ = await prepare(storage, console)
        return await _telemetry(storage, key, user_ids, console)


async def _telemetry(storage: Storage, key: str, user_ids: list[str], console: Console) -> dict[str, float]:
    environment = os.environ | {
        "RECSVC_DATABASE_URL": storage.urls.database_url,
        "RECSVC_REDIS_URL": storage.urls.redis_url,
    }
    bodies = [_body(user, uncached=False) for user in user_ids[:50]]
    costs = await measure_telemetry(environment, bodies, (("authorization", f"Bearer {key}"),), _TELEMETRY_ROUNDS)
    console.print(costs.table())
    return costs.figures()


async def _measure_training(home: Path, sizes: list[int]) -> dict[str, float]:
    figures: dict[str, float] = {}
    results = []
    async with open_storage(Settings(embedded_dir=home, database_url=None, redis_url=None)) as storage:
        for events in sizes:
            result = await measure_training(storage, events)
            results.append(result)
            for stage, seconds in result.seconds.items():
                figures[f"training {events} {stage} s"] = seconds
                figures[f"training {events} {stage} peak GiB"] = result.peak_bytes[stage] / 2**30
            Console(stderr=True).print(f"trained on {events:,} events in {sum(result.seconds.values()):.0f} s")
    Console().print(table_of(results))
    return figures


async def prepare(storage: Storage, console: Console) -> tuple[str, list[str], list[str], str]:
    """A tenant with data and a model; a key, the ids of its users and items, and what the data is."""
    dataset, name = _dataset()
    tenant = await storage.tenants.create(_TENANT, "", TenantSettings())
    await load_dataset(storage, tenant.tenant_key, dataset, console)
    await train_with_progress(storage, tenant.tenant_key, console)
    await storage.database.analyze()
    key = await new_key(storage, _TENANT, "bench", frozenset(Scope))
    user_ids = sorted({str(event.user_id) for event in dataset.events() if event.user_id})
    item_ids = sorted({str(event.item_id) for event in dataset.events()})
    return key.secret, user_ids, item_ids, name


def _dataset() -> tuple[Dataset, str]:
    folder = Path(os.environ.get("RECSVC_DATA_DIR", "../shared/data")) / "ml-100k"
    if folder.exists():
        return open_dataset("movielens", folder), "MovieLens 100K"
    now = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return seed_dataset(items=1700, users=950, events_per_user=105, seed=1, now=now), "generated data"


def _body(user_id: str, *, uncached: bool) -> bytes:
    request = pb.RecommendRequest(user_id=user_id, count=10)
    if uncached:
        request.max_staleness.seconds = 0
    return request.SerializeToString()


async def _answer_size(target: str, body: bytes, metadata: tuple[tuple[str, str], ...]) -> int:
    """Bytes of one answer; also waits until the server is there."""
    async with grpc.aio.insecure_channel(target) as channel:
        async with asyncio.timeout(60):
            await channel.channel_ready()
        answer = await channel.unary_unary(_METHOD)(body, metadata=metadata, timeout=30)
    response = pb.RecommendResponse.FromString(answer)
    if len(response.items) != 10 or response.strategy != pb.STRATEGY_AUTO:
        raise RuntimeError(f"not a full answer, so no figure of it would mean anything: {response}")
    return len(answer)


@contextlib.contextmanager
def _process(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _peak_memory_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    print(f"{time.perf_counter() - start:.0f} s")
