"""A load of unary calls with recorded bodies, the same for the service and for the echo floor."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np


@dataclass(frozen=True, slots=True)
class LoadResult:
    """calls a second, and milliseconds at the median and the 99th percentile."""

    calls_per_s: float
    p50_ms: float
    p99_ms: float


async def load(
    target: str,
    method: str,
    bodies: Sequence[bytes],
    *,
    callers: int,
    calls: int,
    metadata: tuple[tuple[str, str], ...] = (),
    options: Sequence[tuple[str, Any]] = (),
) -> LoadResult:
    """`calls` calls by `callers` concurrent callers, after a tenth of them as warm-up. A failed call ends the bench.

    options: of the channel.
    """
    async with grpc.aio.insecure_channel(target, options) as channel:
        stub = channel.unary_unary(method)
        endless = itertools.cycle(bodies)

        async def run(count: int) -> list[float]:
            remaining = iter(range(count))
            times: list[float] = []

            async def caller() -> None:
                for _ in remaining:
                    start = time.perf_counter()
                    await stub(next(endless), metadata=metadata, timeout=30)
                    times.append(time.perf_counter() - start)

            async with asyncio.TaskGroup() as group:
                for _ in range(callers):
                    group.create_task(caller())
            return times

        await run(max(callers, calls // 10))
        start = time.perf_counter()
        times = await run(calls)
        elapsed = time.perf_counter() - start
    return LoadResult(len(times) / elapsed, *(float(np.percentile(times, q)) * 1000 for q in (50, 99)))
