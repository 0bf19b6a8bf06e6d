"""`serve --workers N`: a parent that holds the port and the embedded servers, and N interpreters that serve.

The parent prepares what is needed once (the schema, the keys of the configuration), starts workers, which are this very
command with a hidden option, and answers /metrics for them all. It takes no calls itself. Workers are started afresh,
never forked: gRPC and the event loop do not survive a fork.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from recsvc.app import open_storage, open_urls, store_bootstrap_keys
from recsvc.cli.signals import Signals
from recsvc.cli.supervisor import Supervisor, WorkersFailed
from recsvc.settings import ServerSettings, Settings
from recsvc.telemetry.exposition import FOLDER_VARIABLE, exposed, forget_gauges, registry_of_workers, worker_ends

_log = structlog.get_logger("recsvc")
_AFTER_DRAIN_S = 20.0
"""What a worker may take for closing everything once its calls have ended; by then each part has given up waiting."""


async def serve_by_workers(settings: Settings) -> None:
    """Serve until a signal asks for the end. Raises WorkersFailed."""
    with (
        Signals() as signals,
        tempfile.TemporaryDirectory(prefix="recsvc-metrics-") as folder,
        reserved_port(settings.server) as port,
    ):
        async with open_urls(settings):
            async with open_storage(settings, wait_s=settings.server.start_wait_s) as storage:
                await store_bootstrap_keys(storage)
            registry = registry_of_workers(Path(folder))
            deaths = worker_ends(registry)

            def ended(number: int) -> None:
                deaths.inc()
                forget_gauges(Path(folder), number)

            supervisor = Supervisor(
                _command,
                os.environ | {FOLDER_VARIABLE: folder, "RECSVC_SERVER__PORT": str(port)},
                workers=settings.server.workers,
                stop_s=settings.server.lame_duck_s + settings.server.drain_s + _AFTER_DRAIN_S,
                on_end=ended,
            )
            signals.pass_on_to(supervisor.pass_on)
            signals.has_started()
            with exposed(registry, settings.server.host, settings.server.metrics_port) as metrics_port:
                _log.info(
                    "workers.supervised",
                    workers=settings.server.workers,
                    grpc=f"{settings.server.host}:{port}",
                    metrics=f"{settings.server.host}:{metrics_port}",
                )
                await supervisor.run(signals.stop)
    _log.info("service.stopped")


@contextmanager
def reserved_port(server: ServerSettings) -> Iterator[int]:
    """Hold the port without listening at it, so that only workers of this account may; a free one for port 0.

    Raises WorkersFailed when it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise WorkersFailed(f"server.host {server.host}: {error.strerror}") from error
    with socket.socket(family, kind, protocol) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            holder.bind(address)
        except OSError as error:
            raise WorkersFailed(f"server.port {server.port} at {server.host}: {error.strerror}") from error
        yield int(holder.getsockname()[1])


def _command(number: int) -> list[str]:
    return [sys.executable, "-m", "recsvc.cli.main", "serve", "--worker", str(number)]
