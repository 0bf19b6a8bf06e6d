"""Runs training outside the server: a process of its own per run, so that neither its time nor its memory is ours."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Self

import structlog

from recsvc.domain.audit import AuditEntry
from recsvc.domain.errors import DomainError
from recsvc.domain.ids import TenantId, TenantKey
from recsvc.domain.models import TrainingRun, TrainingState
from recsvc.storage.models import ModelRepository
from recsvc.storage.training_runs import TrainingRunRepository
from recsvc.telemetry.exposition import FOLDER_VARIABLE
from recsvc.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)
_POLL_S = 0.5
_STOP_S = 5.0
_SAID_LINES = 20
# A message may quote anything; only that of an error of our own, which a command says in one line, is fit to be told.
_ERROR_LINE = re.compile(r'error: .*|  File "[^"]+", line \d+, in \S+|(\w+\.)+\w+(?=:|$)|\w+(Error|Exception)(?=:|$)')
_ENDED = (TrainingState.SUCCEEDED, TrainingState.FAILED)


class TrainingRunner:
    """An async context manager; leaving it ends the runs that it has started."""

    def __init__(
        self,
        runs: TrainingRunRepository,
        models: ModelRepository,
        environment: Mapping[str, str],
        metrics: Metrics,
        carried: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """environment: variables that tell the training process where the servers are; carried: those of the call that
        starts it.
        """
        self.models = models
        self._runs = runs
        self._environment = environment
        self._carried = carried
        self._seconds = metrics.training_seconds
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Nothing to do yet."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """End the runs that are under way; they are noted as failed."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2 * _STOP_S)

    async def start(
        self,
        tenant_key: TenantKey,
        tenant_id: TenantId,
        parameters: Mapping[str, object],
        *,
        audit: AuditEntry | None = None,
    ) -> TrainingRun:
        """Begin a run. Raises TrainingInProgress."""
        run = await self._runs.start(tenant_key, parameters, audit=audit)
        task = asyncio.create_task(self._supervise(tenant_key, tenant_id, run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return run

    async def get(self, tenant_key: TenantKey, run_id: str) -> TrainingRun:
        """Raises TrainingRunNotFound."""
        return await self._runs.get(tenant_key, run_id)

    async def watch(self, tenant_key: TenantKey, run_id: str) -> AsyncIterator[TrainingRun]:
        """The run as it stands now, then every change until it ends. Raises TrainingRunNotFound."""
        last: TrainingRun | None = None
        while last is None or last.state not in _ENDED:
            run = await self._runs.get(tenant_key, run_id)
            if run != last:
                yield run
                last = run
            if run.state not in _ENDED:
                await asyncio.sleep(_POLL_S)

    async def _supervise(self, tenant_key: TenantKey, tenant_id: TenantId, run: TrainingRun) -> None:
        command = [
            sys.executable,
            "-m",
            "recsvc.cli.main",
            "train",
            "--tenant",
            tenant_id,
            "--run-id",
            run.training_run_id,
        ]
        for name, value in run.parameters.items():
            flag = "--" + name.replace("_", "-")
            if value is True:
                command.append(flag)
            elif value is not None and value is not False:
                command += [flag, str(value)]
        inherited = {name: value for name, value in os.environ.items() if name != FOLDER_VARIABLE}
        process: asyncio.subprocess.Process | None = None
        start, outcome = time.monotonic(), "failed"
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**inherited, **self._environment, **self._carried(), "TYPER_STANDARD_TRACEBACK": "1"},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            _, errors = await process.communicate()
            outcome = "failed" if process.returncode else "succeeded"
            if process.returncode:
                said = error_lines(errors.decode(errors="replace"))
                _log.error("training.failed", run_id=run.training_run_id, exit_code=process.returncode, output=said)
                await self._fail(tenant_key, run, "the training process ended with an error; the log has it")
        except OSError as error:  # out of memory or of processes
            _log.exception("training.not_started", run_id=run.training_run_id)
            await self._fail(tenant_key, run, f"the training process could not be started: {error.strerror}")
        except asyncio.CancelledError:
            outcome = "stopped"
            if process is not None:
                await _stop(process)
            await self._fail(tenant_key, run, "the server was stopped")
            raise
        finally:
            self._seconds.labels(outcome).observe(time.monotonic() - start)

    async def _fail(self, tenant_key: TenantKey, run: TrainingRun, error: str) -> None:
        try:
            await self._runs.finish(tenant_key, run.training_run_id, TrainingState.FAILED, error=error)
        except DomainError as unreachable:
            _log.warning("training.end_not_noted", run_id=run.training_run_id, error=unreachable.reason)


def error_lines(output: str) -> list[str]:
    """What a command said of its error: its one clear line, or types and places of a traceback without any values."""
    return [found[0] for line in output.splitlines() if (found := _ERROR_LINE.match(line))][-_SAID_LINES:]


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
