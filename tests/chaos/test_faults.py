"""One dependency fails in one of many ways under steady load: all lists are answered, no acknowledged event is lost.

`RECSVC_CHAOS_FAULT_S` (default 1) is how many seconds each fault lasts; a table of what was measured is printed.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator

import grpc
import pytest

from recsvc.domain.errors import StorageUnavailable
from recsvc.gen.v1 import ingestion_service_pb2 as events_pb
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from recsvc.resilience.breaker import BreakerOpen
from recsvc.settings import PostgresSettings
from recsvc.storage.database import Database
from recsvc.telemetry.metrics import Metrics
from tests.api import Api
from tests.chaos.faults import FAULTS, postgres_killed, redis_killed, redis_out_of_memory
from tests.chaos.installation import Installation, installed
from tests.chaos.proxy import Toxic
from tests.chaos.steady_load import (
    AVAILABILITY,
    DEADLINE_S,
    FAULT_S,
    RECOVERED_S,
    USERS,
    Answers,
    Outcome,
    Recorded,
    ask,
    asked_for,
    make_known,
    metrics,
    normally,
    open_breakers,
    record,
    recording,
    recovery_s,
    stored,
)

pytestmark = pytest.mark.timeout(600)

_LONG_S = 10.0
"""From here on there are calls enough for a percentile; in a short run one pause of the machine would be the 99th."""
_OPENED_S = 10.0
_OPENED = dict.fromkeys(("postgres stopped", "postgres partitioned"), "postgresql") | {
    "postgres slow": "postgresql_slow",
    "redis stopped": "redis",
    "redis partitioned": "redis",
}
"""By fault, the breaker that must open: what callers would wait for without it. In the others none need."""


@pytest.fixture(scope="module")
async def installation() -> AsyncIterator[Installation]:
    """Two servers with users whose lists were asked for before."""
    async with installed(seed=1, is_poisoned=True) as ready:
        async with Api.connected(ready.server.port, ready.key) as api:
            await make_known([api])
        yield ready


@pytest.fixture(scope="module")
async def normal(installation: Installation) -> Answers:
    """What calls get while all is well."""
    async with Api.connected(installation.server.port, installation.key) as api:
        return await normally([api])


@pytest.mark.parametrize("name", FAULTS)
async def test_lists_are_answered_and_events_are_kept_while_one_dependency_fails(
    installation: Installation, normal: Answers, name: str
) -> None:
    async with Api.connected(installation.server.port, installation.key) as api, recording([api]) as recorded:
        with FAULTS[name](installation):
            first = await asked_for([api], FAULT_S / 2)
            opened = await asyncio.to_thread(open_breakers, installation)
            start = time.monotonic()
            while _OPENED.get(name) not in {None, *opened} and time.monotonic() < start + _OPENED_S:
                first += await asked_for([api], FAULT_S / 4)
                opened = await asyncio.to_thread(open_breakers, installation)
            later = await asked_for([api], FAULT_S / 2)
        recovered_s = await recovery_s(api)
    found = await asyncio.to_thread(stored, installation)
    outcome = Outcome(normal, first, later, opened, recovered_s, recorded, found)
    print(outcome.row(name))
    assert outcome.whole.known_answered >= AVAILABILITY, outcome.whole.failures
    assert not outcome.whole.failures
    assert (outcome.lost, outcome.doubled) == (set(), set())
    if name in _OPENED:
        assert _OPENED[name] in opened
        if FAULT_S >= _LONG_S:
            assert later.percentile_ms(0.99) <= 3 * normal.percentile_ms(0.99) + 250
    if name.startswith("redis"):
        assert outcome.whole.levels.keys() == {"NONE"}


async def test_an_event_that_is_refused_is_stored_once_when_it_is_sent_again(installation: Installation) -> None:
    event = events_pb.Event(event_id="refused-1", event_type="view", user_id="u1", item_id="i1")
    async with Api.connected(installation.server.port, installation.key) as api:
        with postgres_killed(installation), pytest.raises(grpc.aio.AioRpcError) as refused:
            await api.ingestion.RecordEvent(events_pb.RecordEventRequest(event=event), timeout=DEADLINE_S)
        # An attempt may be stored and yet be told UNAVAILABLE: that is what its id is for.
        await asyncio.wait_for(record(api, event, Recorded()), RECOVERED_S)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (await asyncio.to_thread(stored, installation))["refused-1"] == 1


async def test_an_answer_that_never_comes_is_waited_for_little_longer_than_its_statement_may_take(
    installation: Installation,
) -> None:
    network = installation.postgres_network
    assert network is not None
    url = f"postgresql://recsvc@127.0.0.1:{network.port}/recsvc"
    async with Database(url, PostgresSettings(statement_timeout_s=0.2), Metrics()) as database:
        async with asyncio.timeout(DEADLINE_S):
            with network.poisoned(Toxic(is_partitioned=True)), pytest.raises(StorageUnavailable):
                await database.fetch_all(installation.tenant_key, "SELECT 1", {})


async def test_a_slow_server_that_falls_silent_is_soon_left_alone(installation: Installation) -> None:
    network = installation.postgres_network
    assert network is not None
    url = f"postgresql://recsvc@127.0.0.1:{network.port}/recsvc"
    # Every answer is a slow one.
    settings = PostgresSettings(pool_size=1, pool_timeout_s=0.1, slow_answer_s=1e-9, breaker_slow_s=0.5)
    async with Database(url, settings, Metrics()) as database:

        async def is_left_alone() -> bool:
            """Whether one of many impatient reads is not let through."""
            start = time.monotonic()
            while time.monotonic() < start + _OPENED_S:
                try:
                    async with asyncio.timeout(0.2):
                        await database.fetch_all(installation.tenant_key, "SELECT 1", {})
                except StorageUnavailable as error:
                    if isinstance(error.__cause__, BreakerOpen):
                        return True
                except TimeoutError:
                    continue
            return False

        while not database.is_slow():
            async with database.service_transaction():
                await asyncio.sleep(0.1)
        with network.poisoned(Toxic(is_partitioned=True)):
            assert all(await asyncio.gather(*(is_left_alone() for _ in range(10))))


async def test_lists_come_from_memory_while_both_are_away(installation: Installation) -> None:
    async with Api.connected(installation.server.port, installation.key) as api:
        await ask(api, "u1", fresh=True)
        with postgres_killed(installation), redis_killed(installation):
            # Longer than the silence of Redis takes to be noticed, and than a key is trusted without a look at it.
            for _ in range(5):
                answer = await ask(api, "u1", fresh=False)
                assert answer.degradation.level in {pb.Degradation.LEVEL_PARTIAL, pb.Degradation.LEVEL_FALLBACK}
                assert answer.items
                await asyncio.sleep(0.7)


async def test_no_list_misses_an_acknowledged_event_while_redis_is_out_of_memory(installation: Installation) -> None:
    async with Api.connected(installation.server.port, installation.key) as api:
        before = {f"u{user}": await ask(api, f"u{user}", fresh=False) for user in range(USERS)}
        with redis_out_of_memory(installation):
            for user_id, answer in before.items():
                bought = answer.items[0].item_id
                event = events_pb.Event(
                    event_id=f"bought-{user_id}", event_type="purchase", user_id=user_id, item_id=bought
                )
                await record(api, event, Recorded())
                after = await ask(api, user_id, fresh=False)
                assert bought not in {item.item_id for item in after.items}


async def test_a_question_never_asked_is_answered_from_memory_while_postgresql_is_away(
    installation: Installation,
) -> None:
    async with Api.connected(installation.server.port, installation.key) as api:
        whole = await _list_from_memory(installation, api, pb.RecommendRequest(user_id="u1", count=13))
        with postgres_killed(installation):
            request = pb.RecommendRequest(user_id="u1", count=10, exclude_item_ids=whole[:3])
            answer = await api.recommendations.Recommend(request, timeout=DEADLINE_S)
            request.item_mask.paths.append("title")
            detailed = await api.recommendations.Recommend(request, timeout=DEADLINE_S)
            stranger = await api.recommendations.Recommend(
                pb.RecommendRequest(user_id="nobody", count=10), timeout=DEADLINE_S
            )
        await recovery_s(api)
    assert answer.degradation.level == pb.Degradation.LEVEL_PARTIAL
    assert [item.item_id for item in answer.items] == whole[3:]
    assert detailed.degradation.level == pb.Degradation.LEVEL_PARTIAL
    assert detailed.items
    assert all(item.HasField("item") and item.item_id not in whole[:3] for item in detailed.items)
    assert stranger.degradation.level == pb.Degradation.LEVEL_FALLBACK


async def _list_from_memory(installation: Installation, api: Api, request: pb.RecommendRequest) -> list[str]:
    """A fresh list that was made from the catalogue in memory, as it is once that was read."""
    request.max_staleness.FromSeconds(0)
    async with asyncio.timeout(RECOVERED_S):
        while True:
            before = await asyncio.to_thread(_lists_from_snapshots, installation)
            answer = await api.recommendations.Recommend(request, timeout=DEADLINE_S)
            if await asyncio.to_thread(_lists_from_snapshots, installation) > before:
                return [item.item_id for item in answer.items]
            await asyncio.sleep(0.2)


def _lists_from_snapshots(installation: Installation) -> float:
    found = re.search(r'recsvc_candidate_questions_total\{by="snapshot"\} (\S+)', metrics(installation))
    return float(found[1]) if found else 0.0
