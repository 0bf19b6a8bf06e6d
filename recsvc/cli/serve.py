"""`recsvc serve`: the service in the foreground, until SIGTERM or Ctrl-C; SIGHUP has it read its settings anew."""

from __future__ import annotations

import asyncio
import gc
from typing import Annotated

import structlog
import typer

from recsvc.app import running_service
from recsvc.cli.reloading import Reloading
from recsvc.cli.running import run_async
from recsvc.cli.signals import Signals
from recsvc.cli.supervisor import when_parent_ends
from recsvc.cli.workers import serve_by_workers
from recsvc.rpc import calls
from recsvc.settings import Settings
from recsvc.telemetry.exemplars import WorkerExemplars
from recsvc.telemetry.exposition import count_as_worker
from recsvc.telemetry.logging import configure
from recsvc.telemetry.metrics import Metrics

_log = structlog.get_logger("recsvc")
_YOUNG_GARBAGE_S = 1.0
_GAUGES_S = 1.0


def serve(
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Processes that serve the port; RECSVC_SERVER__WORKERS.")
    ] = None,
    worker: Annotated[int | None, typer.Option(hidden=True, help="Be the worker of this number.")] = None,
) -> None:
    """Serve gRPC, /metrics and health until SIGTERM or Ctrl-C; calls in flight may end."""
    settings = Settings()
    if workers is not None:
        server = settings.server.model_copy(update={"workers": workers})
        settings = settings.model_copy(update={"server": server})
    configure(settings.log_level, settings.log_format, calls.about)
    if worker is not None:
        run_async(serve_until_stopped(settings, count_as_worker(worker)))
    elif settings.server.workers > 1:
        run_async(serve_by_workers(settings))
    else:
        run_async(serve_until_stopped(settings))


async def serve_until_stopped(settings: Settings, exemplars: WorkerExemplars | None = None) -> None:
    """Serve from this process until a signal asks for the end, which may also cut the start short.

    exemplars: of a worker, which also ends with its parent.
    """
    is_worker = exemplars is not None
    with Signals() as signals:
        if is_worker:
            when_parent_ends(signals.end)
        try:
            async with running_service(settings, expose_metrics=not is_worker) as service:
                signals.has_started()
                metrics_port = service.metrics_port
                _log.info(
                    "service.serving",
                    grpc=f"{settings.server.host}:{service.port}",
                    metrics=f"{settings.server.host}:{metrics_port}" if metrics_port is not None else None,
                )
                _collect_garbage_seldom()
                chores = [_collect_young_garbage(), Reloading(service, settings).when_asked(signals.reload)]
                if exemplars is not None:
                    chores.append(_write_metrics(service.storage.metrics, exemplars))
                tasks = [asyncio.create_task(chore) for chore in chores]
                await signals.stop.wait()
                for task in tasks:
                    task.cancel()
                _log.info("service.draining")
        except Exception:
            # What fails at the start is about settings, and its message is what an operator needs. What fails later may
            # be about what callers sent, and is not left to a traceback.
            if signals.is_starting:
                raise
            _log.exception("service.failed")
            raise typer.Exit(1) from None
    _log.info("service.stopped")


def _collect_garbage_seldom() -> None:
    """Leave what lives as long as the process out of garbage collection, and look at the rest less often.

    Calls that are answered leave no cycles behind; with the defaults a fifth of the time of a stream of events went
    into looking for some among modules and descriptors.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


async def _collect_young_garbage() -> None:
    """Let go of what hostile calls leave behind, however few objects that is.

    gRPC leaves calls that it refused in cycles, each with what was received for it: a thousand connections with 200 KB
    of headers each held 200 MiB, and hold 37 MiB with this.
    """
    while True:
        await asyncio.sleep(_YOUNG_GARBAGE_S)
        gc.collect(1)


async def _write_metrics(metrics: Metrics, exemplars: WorkerExemplars) -> None:
    while True:
        metrics.write_gauges()
        await asyncio.to_thread(exemplars.write)
        await asyncio.sleep(_GAUGES_S)
