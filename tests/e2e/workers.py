"""`recsvc serve --workers N` as a process of its own, and what can be seen of it from outside."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from recsvc.settings import Settings
from tests.api import Api
from tests.conftest import temporary_folder
from tests.processes import family

_START_S = 60.0
_ENDED_S = 120.0
_CONNECT_S = 30.0
_LOCAL = (("grpc.use_local_subchannel_pool", 1),)


@dataclass
class Workers:
    """A parent, what it has said, and its workers."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pids(self) -> list[int]:
        """Of the workers that live now."""
        return family(self.process.pid)[1:]

    def said(self, event: str) -> list[dict[str, Any]]:
        """The lines of the log about an event."""
        lines = [line for line in self.log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
        return [said for said in map(json.loads, lines) if said["event"] == event]

    @property
    def port(self) -> int:
        """Of gRPC, as the parent tells it."""
        return int(self.said("workers.supervised")[0]["grpc"].rpartition(":")[2])

    @property
    def metrics_address(self) -> str:
        """Of /metrics, as the parent tells it."""
        return str(self.said("workers.supervised")[0]["metrics"])

    async def serve(self, starts: int) -> None:
        """Wait until so many workers have begun to serve since the start."""
        async with asyncio.timeout(_START_S):
            while len(self.said("service.serving")) < starts:
                assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
                await asyncio.sleep(0.1)

    async def ended(self) -> int:
        """Wait for the end of the parent; its exit code."""
        return await asyncio.to_thread(self.process.wait, _ENDED_S)

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels, as /metrics of the parent gives them."""
        url = f"http://{self.metrics_address}/metrics"
        with await asyncio.to_thread(urllib.request.urlopen, url, timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for each in families for sample in each.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def connections(self, pid: int) -> int:
        """How many callers are connected to a worker."""
        inodes = set()
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
            except FileNotFoundError:
                continue
        rows = [line.split() for file in ("tcp", "tcp6") for line in _lines(Path("/proc/net") / file)]
        local_port, established = f":{self.port:04X}", "01"
        return sum(row[1].endswith(local_port) and row[3] == established and row[9] in inodes for row in rows)


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()[1:] if file.exists() else []


@contextmanager
def running_workers(settings: Settings, count: int, **environment: str) -> Iterator[Workers]:
    """Workers on a free port that will serve in a moment; nothing of them is left afterwards."""
    assert settings.database_url is not None
    assert settings.redis_url is not None
    home = temporary_folder()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RECSVC_")}
    urls = {
        "RECSVC_DATABASE_URL": settings.database_url.get_secret_value(),
        "RECSVC_REDIS_URL": settings.redis_url.get_secret_value(),
    }
    # A parent that is killed leaves the folder of its metrics behind.
    folder = {"TMPDIR": str(home)}
    ports = {"RECSVC_SERVER__PORT": "0", "RECSVC_SERVER__METRICS_PORT": "0", "RECSVC_LOG_FORMAT": "json"}
    command = [sys.executable, "-m", "recsvc.cli.main", "serve", "--workers", str(count)]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=kept | folder | urls | ports | environment, stderr=log, start_new_session=True
        )
    try:
        yield Workers(process, home / "log")
    finally:
        # Its workers end with it.
        process.kill()
        process.wait()
        shutil.rmtree(home, ignore_errors=True)


@asynccontextmanager
async def callers(
    workers: Workers, key: str, count: int, options: Sequence[tuple[str, Any]] = ()
) -> AsyncIterator[Sequence[Api]]:
    """So many callers, each with a connection of its own. options: of their channels."""
    async with AsyncExitStack() as stack:
        apis = [
            await stack.enter_async_context(
                Api.connected(workers.port, key, options=(*_LOCAL, *options, ("caller", number)))
            )
            for number in range(count)
        ]
        async with asyncio.timeout(_CONNECT_S):
            await asyncio.gather(*(api.channel.channel_ready() for api in apis))
        yield apis
