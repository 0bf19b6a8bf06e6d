"""Keeps a number of worker processes alive: starts them, starts them again when they die, ends them together.

It knows nothing of what they do. A worker's standard input is a pipe that this process holds open and never writes to:
it ends with this process, however that dies, and `when_parent_ends` tells the worker so.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from recsvc.resilience.backoff import Backoff

_log = structlog.get_logger(__name__)
_RESTART = Backoff(first_s=0.25, longest_s=30.0)
_STEADY_S = 10.0
"""A worker that lived for so long was fit for work; its death is no sign that the next one will not be."""
_EARLY_DEATHS = 5
_KILLED_S = 5.0


class WorkersFailed(RuntimeError):
    """Occurs when no worker stays alive, or when one does not end in time; the message says which and why."""


@dataclass(slots=True)
class _Worker:
    number: int
    process: Process | None = None
    started_s: float = 0.0
    early_deaths: int = 0

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def lived_s(self) -> float:
        return time.monotonic() - self.started_s

    @property
    def is_hopeless(self) -> bool:
        return self.early_deaths >= _EARLY_DEATHS and not (self.is_alive and self.lived_s >= _STEADY_S)


class Supervisor:
    """Workers, numbered from 0."""

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        environment: Mapping[str, str],
        *,
        workers: int,
        stop_s: float,
        on_end: Callable[[int], None],
    ) -> None:
        """command: of the worker with a number; stop_s: time that one has to end; on_end: told its number then."""
        self._command = command
        self._environment = environment
        self._workers = [_Worker(number) for number in range(workers)]
        self._stop_s = stop_s
        self._on_end = on_end

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the workers alive until `stop` is set, then let them end, all at the same time.

        Raises WorkersFailed when each of them has died again and again soon after its start, and when one had to be
        killed in the end.
        """
        keeping = [asyncio.create_task(self._keep(worker)) for worker in self._workers]
        stopping = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait([stopping, *keeping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stopping, *keeping):
                task.cancel()
            await asyncio.wait([stopping, *keeping])
            killed = await self._end()
        for task in done:
            await task
        if killed:
            raise WorkersFailed(f"{killed} of {len(self._workers)} workers did not end in {self._stop_s:g} s: killed")

    def pass_on(self, number: signal.Signals) -> None:
        """Send a signal to all workers that are alive."""
        for worker in self._workers:
            if worker.process is not None and worker.is_alive:
                with suppress(ProcessLookupError):
                    worker.process.send_signal(number)

    async def _keep(self, worker: _Worker) -> None:
        while True:
            reason = await self._one_life(worker)
            worker.early_deaths = worker.early_deaths + 1 if worker.lived_s < _STEADY_S else 0
            # While some of them serve, another one that cannot is no reason to end those.
            if all(each.is_hopeless for each in self._workers):
                raise WorkersFailed(
                    f"workers die as soon as they are started, {_EARLY_DEATHS} times each by now; the last one"
                    f" {reason} after {worker.lived_s:.1f} s; what it said is above"
                )
            pause_s = _RESTART.pause_s(max(worker.early_deaths, 1))
            _log.error(
                "worker.died",
                worker=worker.number,
                reason=reason,
                lived_s=round(worker.lived_s, 1),
                restart_in_s=round(pause_s, 2),
            )
            await asyncio.sleep(pause_s)

    async def _one_life(self, worker: _Worker) -> str:
        """Start a process and wait for its end; returns how it ended."""
        worker.process, worker.started_s = None, time.monotonic()
        try:
            worker.process = await asyncio.create_subprocess_exec(
                *self._command(worker.number),
                env=self._environment,
                stdin=PIPE,
                stdout=DEVNULL,
                # A terminal's Ctrl-C is for this process, which passes it on.
                start_new_session=True,
            )
        except OSError as error:  # out of memory or of processes
            return f"could not be started ({error.strerror})"
        _log.info("worker.started", worker=worker.number, pid=worker.process.pid)
        code = await worker.process.wait()
        self._on_end(worker.number)
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"

    async def _end(self) -> int:
        """Ask all to end, wait, kill the rest; returns how many had to be killed."""
        self.pass_on(signal.SIGTERM)
        await self._wait(self._stop_s)
        late = [worker for worker in self._workers if worker.is_alive]
        for worker in late:
            _log.error("worker.killed", worker=worker.number, after_s=self._stop_s)
        self.pass_on(signal.SIGKILL)
        await self._wait(_KILLED_S)
        return len(late)

    async def _wait(self, longest_s: float) -> None:
        ending = [asyncio.create_task(each.process.wait()) for each in self._workers if each.process is not None]
        if ending:
            _, late = await asyncio.wait(ending, timeout=longest_s)
            for task in late:
                task.cancel()


def when_parent_ends(tell: Callable[[], None]) -> None:
    """In a worker: call `tell` once, from the running loop, when the process that supervises it is gone."""
    loop = asyncio.get_running_loop()
    lifeline = sys.stdin.fileno()

    def ended() -> None:
        loop.remove_reader(lifeline)
        tell()

    loop.add_reader(lifeline, ended)
