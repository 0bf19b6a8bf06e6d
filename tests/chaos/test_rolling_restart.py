"""A release: two servers are stopped and started in turn under load, and no call fails.

`RECSVC_CHAOS_RESTARTS` is how many times both are restarted (default 1, `make chaos` takes ten). Clients balance over
both by round robin and watch their health, as docs/operations.md recommends; they repeat no call.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from recsvc.app import Storage
from recsvc.cli.tenants import new_key
from recsvc.domain.catalog import Item
from recsvc.domain.ids import ItemId
from recsvc.domain.tenancy import Scope, Tenant
from recsvc.gen.v1 import ingestion_service_pb2 as events_pb
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from tests.api import Api, describe
from tests.chaos.installation import ServerProcess

_ROUNDS = int(os.environ.get("RECSVC_CHAOS_RESTARTS", "1"))
_CALLS_PER_S = 40
_WATCHERS = 4
_DEADLINE_S = 8.0
# What a release waits between two servers (`minReadySeconds`), so that clients have found the new one.
_SETTLED_S = 1.5
_DRAIN_S = 10.0
_CHANNEL = (
    (
        "grpc.service_config",
        json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": "readiness"}}),
    ),
    # The channel's own pause of up to two minutes between attempts is longer than a restart takes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)

pytestmark = pytest.mark.timeout(120 + 60 * _ROUNDS)


@dataclass
class _Seen:
    """What the clients got."""

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    lists: int = 0
    ended_watches: Counter[str] = field(default_factory=Counter)


@pytest.fixture
async def servers(storage: Storage, tmp_path: Path) -> AsyncIterator[tuple[ServerProcess, ServerProcess]]:
    """Two processes of the service, taking calls."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RECSVC_")}
    environment = kept | {
        "RECSVC_DATABASE_URL": storage.urls.database_url,
        "RECSVC_REDIS_URL": storage.urls.redis_url,
        "RECSVC_SERVER__METRICS_PORT": "0",
        "RECSVC_SERVER__DRAIN_S": str(_DRAIN_S),
    }
    both = (ServerProcess(environment, tmp_path / "1.log"), ServerProcess(environment, tmp_path / "2.log"))
    try:
        for server in both:
            server.start()
        await asyncio.gather(*(server.serves() for server in both))
        yield both
    finally:
        for server in both:
            server.kill()


async def _call(api: Api, number: int, seen: _Seen) -> None:
    try:
        if number % 4:
            await api.recommendations.Recommend(pb.RecommendRequest(user_id=f"u{number % 20}"), timeout=_DEADLINE_S)
        else:
            event = events_pb.Event(
                event_id=f"e{number}", event_type="view", user_id=f"u{number % 20}", item_id=f"i{number % 50}"
            )
            await api.ingestion.RecordEvent(events_pb.RecordEventRequest(event=event), timeout=_DEADLINE_S)
    except grpc.aio.AioRpcError as error:
        seen.failed[f"{error.code().name}: {error.details()}"] += 1
    else:
        seen.answered += 1


async def _call_steadily(api: Api, seen: _Seen, until: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        number = 0
        while not until.is_set():
            group.create_task(_call(api, number, seen))
            number += 1
            await asyncio.sleep(1 / _CALLS_PER_S)


async def _watch(api: Api, user_id: str, seen: _Seen) -> None:
    """Follow a list, and begin again, elsewhere, when the server says that it stops."""
    while True:
        watch = api.recommendations.WatchRecommendations(
            pb.WatchRecommendationsRequest(request=pb.RecommendRequest(user_id=user_id)), timeout=3600
        )
        try:
            async for update in watch:
                seen.lists += update.HasField("recommendation")
        except grpc.aio.AioRpcError as error:
            seen.ended_watches[describe(error).reason or f"{error.code().name}: {error.details()}"] += 1
            await asyncio.sleep(0.1)


async def test_no_call_fails_while_servers_are_restarted_in_turn(
    servers: tuple[ServerProcess, ServerProcess], storage: Storage, new_tenant: Tenant
) -> None:
    key = await new_key(storage, new_tenant.tenant_id, "test", frozenset(Scope) - {Scope.ADMIN_SERVICE})
    await storage.items.upsert_many(new_tenant.tenant_key, [Item(ItemId(f"i{number}")) for number in range(50)])
    seen, end = _Seen(), asyncio.Event()
    stops_s: list[float] = []
    first, second = servers
    async with Api.connected(first.port, key.secret, further_ports=[second.port], options=_CHANNEL) as api:
        await asyncio.wait_for(api.channel.channel_ready(), 30)
        calling = asyncio.create_task(_call_steadily(api, seen, end))
        watches = [asyncio.create_task(_watch(api, f"u{number}", seen)) for number in range(_WATCHERS)]
        await asyncio.sleep(_SETTLED_S)
        for server in servers * _ROUNDS:
            start = time.monotonic()
            assert await asyncio.to_thread(server.stop) == 0
            stops_s.append(time.monotonic() - start)
            server.start()
            await server.serves()
            await asyncio.sleep(_SETTLED_S)
        end.set()
        await calling
        for watch in watches:
            assert not watch.done()
            watch.cancel()
    print(
        f"\n{2 * _ROUNDS} restarts: {seen.answered} calls answered, {sum(seen.failed.values())} failed;"
        f" {sum(seen.ended_watches.values())} watches ended, {seen.lists} lists;"
        f" stopping took {max(stops_s):.1f} s at most"
    )
    assert seen.failed == {}
    assert seen.answered > 0
    assert seen.ended_watches.keys() == {"SERVER_DRAINING"}
    assert seen.lists > _WATCHERS
    # Nobody who merely watches, a list or the health, is waited for.
    assert max(stops_s) < _DRAIN_S
