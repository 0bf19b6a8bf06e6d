"""`recsvc serve`: the service in the foreground, until SIGTERM or Ctrl-C; SIGHUP has it read its settings anew."""

from __future__ import annotations

import asyncio
import gc

import structlog

from recsvc.app import running_service
from recsvc.cli.reloading import Reloading
from recsvc.cli.running import run_async
from recsvc.cli.signals import Signals
from recsvc.settings import Settings
from recsvc.telemetry.logging import configure

_log = structlog.get_logger("recsvc")
_YOUNG_GARBAGE_S = 1.0


def serve() -> None:
    """Serve gRPC, /metrics and health until SIGTERM or Ctrl-C; calls in flight may end."""
    settings = Settings()
    configure(settings.log_level, settings.log_format)
    run_async(serve_until_stopped(settings))


async def serve_until_stopped(settings: Settings) -> None:
    """Serve until a signal asks for the end, which may also cut the start short."""
    with Signals() as signals:
        try:
            async with running_service(settings) as service:
                signals.has_started()
                _log.info(
                    "serving",
                    grpc=f"{settings.server.host}:{service.port}",
                    metrics=f"{settings.server.host}:{service.metrics_port}",
                )
                _collect_garbage_seldom()
                reloading = Reloading(service, settings).when_asked(signals.reload)
                tasks = [asyncio.create_task(work) for work in (_collect_young_garbage(), reloading)]
                await signals.stop.wait()
                for task in tasks:
                    task.cancel()
                _log.info("draining")
        except asyncio.CancelledError:
            if not signals.took_back_cancellation():
                raise
        _log.info("stopped")


def _collect_garbage_seldom() -> None:
    """Leave what lives as long as the process out of garbage collection, and look at the rest less often.

    Calls that are answered leave no cycles behind; with the defaults a fifth of the time of a stream of events went
    into looking for some among modules and descriptors.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _collect_young_garbage() -> None:
    """Let go of what hostile calls leave behind, however few objects that is.

    gRPC leaves calls that it refused in cycles, each with what was received for it: a thousand connections with 200 KB
    of headers each held 200 MiB, and hold 37 MiB with this.
    """
    while True:
        await asyncio.sleep(_YOUNG_GARBAGE_S)
        gc.collect(1)
