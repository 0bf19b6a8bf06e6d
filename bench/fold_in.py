"""What it costs to bring a user's state up to one more event, by how many events there were: `python -m bench.fold_in`.

All of a user's events are views of random items, so that the state has as many items as it can have.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.__main__ import prepare
from recsvc.app import Storage, build_engine, open_storage
from recsvc.domain.events import Event
from recsvc.domain.ids import EventId, ItemId, TenantId, TenantKey, UserId, UserKey
from recsvc.domain.users import UserKind
from recsvc.settings import Settings

_ROUNDS = 15
_BATCH = 4000
_WITHIN = timedelta(days=60)


@dataclass(slots=True)
class FoldTimes:
    """Milliseconds of each round: until all was done, and of that what this process computed."""

    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, nargs="+", default=[100, 1000, 10_000, 100_000], help="of each user")
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="recsvc-bench-"))
    home.chmod(0o755)
    try:
        asyncio.run(_measure(home, arguments.events))
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def _measure(home: Path, sizes: list[int]) -> None:
    console = Console()
    async with open_storage(Settings(embedded_dir=home, database_url=None, redis_url=None)) as storage:
        _, _, item_ids, name = await prepare(storage, Console(file=open(os.devnull, "w")))  # noqa: SIM115, ASYNC230
        tenant_key = (await storage.tenants.get(TenantId("bench"))).tenant_key
        users = {size: await _user(storage, tenant_key, item_ids, size) for size in sizes}
        await storage.database.analyze()
        times = await _fold_times(storage, tenant_key, users)
    table = Table("events", "ms, median", "least", "of this process", title=f"one fold-in, items of {name}")
    for size, found in times.items():
        wall_ms, cpu_ms = statistics.median(found.wall_ms), statistics.median(found.cpu_ms)
        table.add_row(f"{size:,}", f"{wall_ms:.1f}", f"{min(found.wall_ms):.1f}", f"{cpu_ms:.1f}")
    console.print(table)


async def _user(storage: Storage, tenant_key: TenantKey, item_ids: list[str], events: int) -> UserKey:
    """A user who has viewed so often."""
    rng, now, user_id = random.Random(events), datetime.now(UTC), UserId(f"views-{events}")
    for start in range(0, events, _BATCH):
        batch = [
            Event(
                EventId(f"{user_id}/{number}"),
                "view",
                ItemId(rng.choice(item_ids)),
                now - rng.random() * _WITHIN,
                user_id=user_id,
            )
            for number in range(start, min(start + _BATCH, events))
        ]
        await storage.events.write(tenant_key, batch, count_at_once=False)
    user_key = await storage.states.user_key(tenant_key, UserKind.USER, user_id)
    assert user_key is not None
    return user_key


async def _fold_times(storage: Storage, tenant_key: TenantKey, users: dict[int, UserKey]) -> dict[int, FoldTimes]:
    """One user after the other, round by round, since a machine is not as fast in one second as in the next."""
    engine = build_engine(storage)
    profile = await engine.profiles.get_current(tenant_key)
    times = {size: FoldTimes() for size in users}
    for _ in range(_ROUNDS):
        for size, user_key in users.items():
            start, cpu = time.perf_counter(), time.process_time()
            await engine.fold_in.refresh(tenant_key, profile.model, [user_key], by="bench")
            times[size].wall_ms.append(1000 * (time.perf_counter() - start))
            times[size].cpu_ms.append(1000 * (time.process_time() - cpu))
    return times


if __name__ == "__main__":
    main()
