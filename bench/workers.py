"""What several processes on one port give: cached Recommend by callers with a connection each, by number of workers.

Each number of workers is started anew and called alone, since all of them share the machine with their callers.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from bench.load import load

_METHOD = "/recsvc.v1.RecommendationService/Recommend"
_WORKERS = (1, 2, 4)
_CONNECTIONS = 16
_CALLS_OF_A_CONNECTION = 500
_START_S = 120.0


@dataclass(frozen=True, slots=True)
class Throughput:
    """Calls a second by number of workers."""

    calls_per_s: Mapping[int, float]

    def table(self) -> Table:
        """The rows, and each against one worker."""
        table = Table("workers", "calls/s", "to one", title=f"cached Recommend, {_CONNECTIONS} connections")
        for workers, calls_per_s in self.calls_per_s.items():
            table.add_row(str(workers), f"{calls_per_s:,.0f}", f"{calls_per_s / self.calls_per_s[1]:.2f}")
        return table

    def figures(self) -> dict[str, float]:
        """The same by name."""
        return {f"{workers} workers: calls/s": calls_per_s for workers, calls_per_s in self.calls_per_s.items()}


async def measure(
    environment: Mapping[str, str], port: int, bodies: Sequence[bytes], metadata: tuple[tuple[str, str], ...]
) -> Throughput:
    """Start the service with each number of workers and call it. environment: where PostgreSQL and Redis are."""
    found = {}
    for workers in _WORKERS:
        async with _serving(workers, {**environment, "RECSVC_SERVER__PORT": str(port)}):
            results = await asyncio.gather(
                *(
                    load(
                        f"127.0.0.1:{port}",
                        _METHOD,
                        bodies,
                        callers=1,
                        calls=_CALLS_OF_A_CONNECTION,
                        metadata=metadata,
                        # Or channels to one place would share a connection.
                        options=(("grpc.use_local_subchannel_pool", 1),),
                    )
                    for _ in range(_CONNECTIONS)
                )
            )
            found[workers] = sum(result.calls_per_s for result in results)
    return Throughput(found)


@contextlib.asynccontextmanager
async def _serving(workers: int, environment: Mapping[str, str]) -> AsyncIterator[None]:
    with tempfile.TemporaryDirectory(prefix="recsvc-bench-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as errors:
            process = subprocess.Popen(  # noqa: ASYNC220  (nothing else goes on meanwhile)
                [sys.executable, "-m", "recsvc.cli.main", "serve", "--workers", str(workers)],
                env={**environment, "RECSVC_LOG_LEVEL": "INFO", "RECSVC_LOG_FORMAT": "json"},
                stderr=errors,
            )
        try:
            async with asyncio.timeout(_START_S):
                while log.read_bytes().count(b'"service.serving"') < workers:  # noqa: ASYNC110
                    await asyncio.sleep(0.2)
            yield
        finally:
            process.terminate()
            process.wait(60)
