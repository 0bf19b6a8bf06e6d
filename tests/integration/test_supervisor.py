"""Workers that are shell scripts: when the supervisor goes on, when it gives up, and what it passes on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from recsvc.cli.supervisor import Supervisor, WorkersFailed

_SOON_S = 30.0
# In short naps, since a shell acts upon a signal only between two commands; not for ever, whatever becomes of the test.
_WAITS = "for nap in {1..1200}; do sleep 0.05; done"


def _supervisor(folder: Path, scripts: list[str], stop_s: float = 5.0) -> Supervisor:
    """Workers that run these scripts in bash; each finds its number in $0, and says what it does in a file."""

    def command(number: int) -> list[str]:
        return ["bash", "-c", scripts[number], str(number)]

    environment = os.environ | {"SAID": str(folder / "said")}
    return Supervisor(command, environment, workers=len(scripts), stop_s=stop_s, on_end=lambda _number: None)


@asynccontextmanager
async def _running(supervisor: Supervisor) -> AsyncIterator[tuple[asyncio.Task[None], asyncio.Event]]:
    stop = asyncio.Event()
    running = asyncio.create_task(supervisor.run(stop))
    try:
        yield running, stop
    finally:
        stop.set()
        await asyncio.wait([running], timeout=_SOON_S)


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(_SOON_S):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def _said(folder: Path) -> list[str]:
    file = folder / "said"
    return sorted(file.read_text(encoding="utf-8").split()) if file.exists() else []


async def test_a_signal_is_passed_on_to_every_worker(tmp_path: Path) -> None:
    listens = f'trap "echo heard-$0 >> $SAID" HUP; echo ready-$0 >> $SAID; {_WAITS}'
    supervisor = _supervisor(tmp_path, [listens, listens])
    async with _running(supervisor):
        await _until(lambda: _said(tmp_path) == ["ready-0", "ready-1"])
        async with asyncio.timeout(_SOON_S):
            # A script may be ready before the supervisor knows that it runs.
            while not {"heard-0", "heard-1"} <= set(_said(tmp_path)):
                supervisor.pass_on(signal.SIGHUP)
                await asyncio.sleep(0.2)


async def test_a_worker_that_never_stays_alive_does_not_end_those_that_do(tmp_path: Path) -> None:
    supervisor = _supervisor(tmp_path, [_WAITS, "echo died >> $SAID; exit 3"])
    async with _running(supervisor) as (running, _):
        await _until(lambda: len(_said(tmp_path)) > 5)
        assert not running.done()


async def test_when_no_worker_stays_alive_the_error_says_how_they_end(tmp_path: Path) -> None:
    supervisor = _supervisor(tmp_path, ["exit 3", "exit 3"])
    with pytest.raises(WorkersFailed, match="5 times each by now; the last one exited with 3"):
        await supervisor.run(asyncio.Event())


async def test_a_worker_that_does_not_end_in_time_is_killed_and_reported(tmp_path: Path) -> None:
    deaf = "trap '' TERM; echo ready >> $SAID; while :; do sleep 0.1; done"
    supervisor = _supervisor(tmp_path, [deaf, _WAITS], stop_s=0.5)
    async with _running(supervisor) as (running, stop):
        await _until(lambda: _said(tmp_path) == ["ready"])
        stop.set()
        with pytest.raises(WorkersFailed, match=r"1 of 2 workers did not end in 0\.5 s: killed"):
            await running
