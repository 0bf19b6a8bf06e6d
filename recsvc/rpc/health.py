"""The standard health service (grpc.health.v1), and what its answers follow from.

`""` says that the process is alive: its event loop runs and answers. `readiness` says whether calls should come here,
and each service by its full name whether its calls can be answered. What an outage means for each is decided in
docs/adr/0010-health.md.

grpc_health's own servicer holds a lock while it writes to a watcher, so that one who does not read stops all changes,
and never ends a watch, which a drain would wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import TypeAlias

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from recsvc.domain.errors import ServerDraining
from recsvc.resilience.dependencies import Condition
from recsvc.rpc.calls import Context
from recsvc.rpc.errors import abort
from recsvc.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)
LIVENESS = ""
READINESS = "readiness"
POSTGRESQL, REDIS = "postgresql", "redis"
# Those that answer without PostgreSQL, out of what is kept.
_DEGRADING = frozenset({"recsvc.v1.RecommendationService"})

_Response: TypeAlias = health_pb2.HealthCheckResponse
_Status: TypeAlias = health_pb2.HealthCheckResponse.ServingStatus


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the package has no types
    """The statuses, and who is told of them."""

    def __init__(self, services: tuple[str, ...], metrics: Metrics) -> None:
        """services: full names of those that have a status of their own."""
        self._services = services
        self._metrics = metrics
        self._conditions: dict[str, Condition] = {}
        self._is_open = self._is_ending = False
        self._changed = asyncio.Event()
        self._statuses: Mapping[str, _Status] = self._derived()

    def dependency_changed(self, name: str, condition: Condition) -> None:
        """Take notice of the condition of `postgresql` or `redis`."""
        self._conditions[name] = condition
        self._metrics.dependency_up.labels(name).set(condition is Condition.WELL)
        self._update()

    def open(self) -> None:
        """Say from now on that calls should come here."""
        self._is_open = True
        self._update()

    def close(self) -> None:
        """Say that no more calls should come here; the process is still alive."""
        self._is_open = False
        self._update()

    def end_watches(self) -> None:
        """Send watchers of a status elsewhere, so that nobody waits for them to leave."""
        self._is_ending = True
        self._wake()

    def is_serving(self, name: str) -> bool:
        """What is answered for this name."""
        return bool(self._statuses.get(name) == _Response.SERVING)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> _Response:  # noqa: N802
        """The status; NOT_FOUND for a name that there is not."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no service of that name")
        return _Response(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> AsyncIterator[_Response]:  # noqa: N802
        """The status now and whenever it changes; one that lasted too short for the reader may be left out."""
        told = None
        while not self._is_ending:
            changed = self._changed
            status = self._statuses.get(request.service, _Response.SERVICE_UNKNOWN)
            if status != told:
                told = status
                yield _Response(status=status)
            else:
                await changed.wait()
        await abort(context, ServerDraining())

    def _update(self) -> None:
        before, self._statuses = self._statuses, self._derived()
        changed = {name for name, status in self._statuses.items() if status != before[name]}
        if not changed:
            return
        self._metrics.ready.set(self.is_serving(READINESS))
        _log.info(
            "health.changed",
            serving=sorted(name for name in changed if self.is_serving(name)),
            not_serving=sorted(name for name in changed if not self.is_serving(name)),
        )
        self._wake()

    def _derived(self) -> Mapping[str, _Status]:
        postgresql = self._conditions.get(POSTGRESQL, Condition.AWAY)
        # A database that is away takes all processes' answers down to degraded ones, and taking the processes out would
        # leave none. One that lacks what we need gets no right answer out of anybody.
        is_ready = self._is_open and postgresql is not Condition.UNFIT
        serving = {LIVENESS: True, READINESS: is_ready}
        for name in self._services:
            serving[name] = is_ready and (postgresql is Condition.WELL or name in _DEGRADING)
        return {name: _Response.SERVING if is_so else _Response.NOT_SERVING for name, is_so in serving.items()}

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
