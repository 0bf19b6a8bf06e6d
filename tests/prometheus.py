"""A real Prometheus with the configuration of deploy/prometheus, and questions to it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import temporary_folder
from tests.ports import free_port

PROMTOOL = shutil.which("promtool")
_BINARY = shutil.which("prometheus")
_FOLDER = Path(__file__).parents[1] / "deploy" / "prometheus"
_START_S = 30.0

needs_prometheus = pytest.mark.skipif(
    PROMTOOL is None or _BINARY is None, reason="prometheus is not installed (Debian's package prometheus)"
)


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    port: int

    async def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of the HTTP API."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with await asyncio.to_thread(urllib.request.urlopen, url, timeout=10) as answer:
            return json.load(answer)["data"]

    async def value(self, query: str) -> float | None:
        """The one sample that a query gives now, None while there is none."""
        samples = (await self.ask("query", query=query))["result"]
        assert len(samples) <= 1, samples
        return float(samples[0]["value"][1]) if samples else None


@asynccontextmanager
async def running_prometheus(target_port: int, *, every_s: int) -> AsyncIterator[Prometheus]:
    """Prometheus as deployed, but for the target, how often it looks, and that nobody is alerted."""
    assert _BINARY is not None
    folder = temporary_folder()
    for rules in _FOLDER.glob("*.rules.yml"):
        shutil.copy(rules, folder)
    configuration = yaml.safe_load((_FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    configuration["global"] = {"scrape_interval": f"{every_s}s", "evaluation_interval": f"{every_s}s"}
    configuration["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{target_port}"]
    configuration["scrape_configs"][0]["scrape_timeout"] = f"{every_s}s"
    del configuration["alerting"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    prometheus = Prometheus(free_port())
    command = [
        _BINARY,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{prometheus.port}",
        "--enable-feature=exemplar-storage",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"GOMAXPROCS": "1"})  # noqa: ASYNC220
    try:
        await _ready(prometheus, process)
        yield prometheus
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 10)
        shutil.rmtree(folder, ignore_errors=True)


async def _ready(prometheus: Prometheus, process: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(_START_S):
        while True:
            assert process.poll() is None, "prometheus did not start"
            try:
                await prometheus.ask("status/buildinfo")
            except (urllib.error.URLError, ConnectionError):
                await asyncio.sleep(0.1)
            else:
                return
