"""Training on more and more generated events: seconds and peak memory by stage, and whether they grow in proportion.

Events go into the table by a raw COPY, since import is measured elsewhere. Training runs as it does in production: in a
process of its own, from the events in PostgreSQL to an indexed, activated model. The memory of PostgreSQL is not in
the figures.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from recsvc.app import Storage
from recsvc.domain.ids import TenantId, TenantKey
from recsvc.domain.tenancy import TenantSettings

_EVENTS_PER_USER, _USERS_PER_ITEM = 20, 10
_TASTES, _TASTES_PER_USER, _OFF_TASTE = 200, 3, 0.15
_DAYS = 60
_BLOCK_ROWS = 100_000
_ID_DIGITS = 10
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_ROW = np.dtype(
    [
        ("fields", ">i2"),
        ("tenant_length", ">i4"), ("tenant", ">i8"),
        ("time_length", ">i4"), ("time", ">i8"),
        ("id_length", ">i4"), ("id", "u1", (_ID_DIGITS,)),
        ("type_length", ">i4"), ("type", ">i4"),
        ("user_length", ">i4"), ("user", ">i8"),
        ("item_length", ">i4"), ("item", ">i8"),
    ]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """events: that were in the table; seconds and peak bytes by stage."""

    events: int
    users: int
    items: int
    seconds: Mapping[str, float]
    peak_bytes: Mapping[str, int]


async def measure(storage: Storage, events: int) -> TrainingResult:
    """Generate, train, and delete the tenant again."""
    tenant_id = TenantId(f"bench-training-{events}")
    tenant = await storage.tenants.create(tenant_id, "", TenantSettings())
    try:
        await _fill(storage, tenant.tenant_key, events)
        document = await _train(storage, tenant_id)
    finally:
        await storage.tenants.delete(tenant_id)
    return TrainingResult(events, document["users"], document["items"], document["seconds"], document["peak_bytes"])


def table_of(results: Sequence[TrainingResult]) -> Table:
    """A column for each size, a row for each stage, and what growth there was between the first and the last."""
    first, last = results[0], results[-1]
    growth = last.events / first.events
    heads = [f"{result.events / 1e6:g}M events" for result in results]
    table = Table(
        "stage", *heads, f"growth for {growth:.0f}× the events", title="training, seconds and peak GiB of the process"
    )
    table.add_row("users, items", *(f"{result.users:,}, {result.items:,}" for result in results), "")
    for stage in last.seconds:
        cells = [
            f"{result.seconds.get(stage, 0.0):.1f} s, {result.peak_bytes.get(stage, 0) / 2**30:.2f}"
            for result in results
        ]
        table.add_row(stage, *cells, f"{last.seconds[stage] / max(first.seconds.get(stage, 0.0), 0.01):.1f}×")
    totals = [sum(result.seconds.values()) for result in results]
    peaks = [max(result.peak_bytes.values()) / 2**30 for result in results]
    cells = [f"{seconds:.1f} s, {peak:.2f}" for seconds, peak in zip(totals, peaks, strict=True)]
    table.add_row("all", *cells, f"{totals[-1] / totals[0]:.1f}×, memory {peaks[-1] / peaks[0]:.1f}×")
    return table


async def _fill(storage: Storage, tenant_key: TenantKey, count: int) -> None:
    user_count = count // _EVENTS_PER_USER
    item_count = max(100, user_count // _USERS_PER_ITEM)
    async with storage.database.service_transaction(timeout_s=3600) as connection:
        cursor = await connection.execute(
            b"INSERT INTO items (tenant_key, item_id, item_type, categories)"
            b" SELECT %s, 'i' || n, 'product', ARRAY['taste ' || n %% %s] FROM generate_series(0, %s) AS n"
            b" RETURNING item_key",
            [tenant_key, _TASTES, item_count - 1],
        )
        item_keys = np.array([row["item_key"] for row in await cursor.fetchall()], dtype=np.int64)
        cursor = await connection.execute(
            b"SELECT event_type_key FROM event_types WHERE tenant_key = %s AND event_type = 'view'", [tenant_key]
        )
        event_type = (await cursor.fetchone())["event_type_key"]
        async with (
            connection.cursor() as copying,
            copying.copy(
                b"COPY events (tenant_key, event_time, event_id, event_type_key, user_key, item_key)"
                b" FROM STDIN (FORMAT BINARY)"
            ) as copy,
        ):
            await copy.write(b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0))
            for rows in _rows(count, user_count, item_keys, tenant_key, event_type):
                await copy.write(rows.tobytes())
            await copy.write(struct.pack(">h", -1))
    await storage.database.analyze()


def _rows(
    count: int, user_count: int, item_keys: NDArray[np.int64], tenant_key: int, event_type: int
) -> Iterator[NDArray[np.void]]:
    """Events of users with a few tastes each; popularity within a taste follows Zipf's law."""
    rng = np.random.default_rng(count)
    item_count = len(item_keys)
    activity = rng.lognormal(0.0, 1.0, user_count)
    users = np.repeat(np.arange(user_count), rng.multinomial(count, activity / activity.sum()))
    tastes = rng.integers(_TASTES, size=(user_count, _TASTES_PER_USER), dtype=np.int32)
    of_taste = item_count // _TASTES
    newest = (datetime.now(UTC) - _POSTGRES_EPOCH) // timedelta(microseconds=1)
    for start in range(0, count, _BLOCK_ROWS):
        block_users = users[start : start + _BLOCK_ROWS]
        size = len(block_users)
        taste = tastes[block_users, rng.integers(_TASTES_PER_USER, size=size)]
        # Items of taste t are those whose number is t modulo _TASTES, as their category says.
        place = (of_taste ** rng.random(size)).astype(np.int64) - 1
        items = np.minimum(place * _TASTES + taste, item_count - 1)
        is_off = rng.random(size) < _OFF_TASTE
        items[is_off] = (item_count ** rng.random(int(is_off.sum()))).astype(np.int64) - 1
        rows = np.zeros(size, dtype=_ROW)
        rows["fields"] = 6
        for name, length in (("tenant", 8), ("time", 8), ("id", _ID_DIGITS), ("type", 4), ("user", 8), ("item", 8)):
            rows[f"{name}_length"] = length
        rows["tenant"], rows["type"] = tenant_key, event_type
        rows["time"] = newest - rng.integers(_DAYS * 86_400_000_000, size=size)
        numbers = np.arange(start, start + size)
        rows["id"] = ord("0") + numbers[:, np.newaxis] // 10 ** np.arange(_ID_DIGITS - 1, -1, -1) % 10
        rows["user"] = block_users + 1
        rows["item"] = item_keys[items]
        yield rows


async def _train(storage: Storage, tenant_id: TenantId) -> dict[str, dict[str, int]]:
    """`recsvc train` in a process of its own."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "recsvc.cli.main", "train", "--tenant", tenant_id, "--json", file.name,
            env=os.environ
            | {"RECSVC_DATABASE_URL": storage.urls.database_url, "RECSVC_REDIS_URL": storage.urls.redis_url},
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, errors = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"training failed: {errors.decode(errors='replace')[-2000:]}")
        return json.loads(await asyncio.to_thread(Path(file.name).read_text, "utf-8"))
