"""The one connection to Redis. Every wait is bounded, and a Redis that is away costs almost nothing: its breaker opens.

Commands return None when Redis did not answer; callers treat that as "not cached". Redis is never needed for a right
answer, only for a fast one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Self

import redis.asyncio as aioredis
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from recsvc.resilience.backoff import Backoff
from recsvc.resilience.breaker import Breaker, BreakerOpen
from recsvc.resilience.retries import Retries, RetryPolicy
from recsvc.settings import CacheSettings
from recsvc.telemetry.metrics import Metrics
from recsvc.telemetry.spans import REDIS
from recsvc.telemetry.stages import Told, stage

_log = structlog.get_logger(__name__)
_PUBLISH_AGAIN = RetryPolicy(attempts=3, backoff=Backoff(first_s=0.05, longest_s=0.2), longest_s=2.0)
_UNANSWERED = (RedisError, OSError, TimeoutError)
_COMMANDS = ("ping", "get", "set", "raise_versions", "take_permits", "publish", "sketch")


def _command(name: str) -> Callable[..., tuple[str, Told]]:
    """What a span tells of a command."""
    span = REDIS.format(command=name)
    return lambda *_, **__: (span, {"db.system.name": "redis"})


@dataclass(frozen=True, slots=True)
class Claim:
    """What is asked of one bucket of permits; ahead_s: by how much its TAT is known to be ahead of now."""

    interval_s: float
    burst: int
    needed: int
    wanted: int
    ahead_s: float


class RedisClient:
    """An async context manager around a pool of connections."""

    def __init__(self, url: str, settings: CacheSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._failures = metrics.redis_failures
        self._seconds = {command: metrics.redis_seconds.labels(command) for command in _COMMANDS}
        self._breaker = Breaker(
            "redis",
            failures=settings.breaker_failures,
            reset_s=settings.breaker_reset_s,
            # One that answers costs no wait, whatever it refuses.
            is_failure=lambda error: not isinstance(error, ResponseError),
            on_change=metrics.breaker_changed("redis"),
        )
        self._retries = Retries(metrics.retried)
        self._redis = aioredis.Redis.from_url(
            url,
            socket_timeout=settings.timeout_s,
            socket_connect_timeout=settings.timeout_s,
            max_connections=settings.pool_size,
            # Another try would double the wait; the next request is the retry.
            retry=Retry(NoBackoff(), 0),
        )
        self._set_versions = self._redis.register_script(_script("set_versions.lua"))
        self._take_permits = self._redis.register_script(_script("take_permits.lua"))

    async def __aenter__(self) -> Self:
        """Connections are made as they are needed, so that the service starts without Redis."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close all connections."""
        await self._redis.aclose()

    @property
    def is_available(self) -> bool:
        """Whether Redis is being asked at present."""
        return not self._breaker.is_open

    @stage(REDIS, named=_command("PING"))
    async def ping(self) -> bool:
        """Whether Redis answers; False without asking while it is being left alone."""
        try:
            with self._breaker.guard(), self._seconds["ping"].time():
                await self._redis.ping()
        except (RedisError, OSError, TimeoutError, BreakerOpen):
            return False
        return True

    @stage(REDIS, named=_command("MGET"))
    async def get_many(self, keys: Sequence[str]) -> list[bytes | None] | None:
        """Values of some keys, None for those that are not there; None when Redis does not answer."""
        try:
            with self._breaker.guard(), self._seconds["get"].time():
                answers: list[Any] = list(await self._redis.mget(keys))
        except (RedisError, OSError, TimeoutError, BreakerOpen) as error:
            self._note(error)
            return None
        return answers

    @stage(REDIS, named=_command("SET"))
    async def put(self, key: str, value: bytes, life_s: float) -> bool:
        """Store a value; returns whether it was stored."""
        try:
            with self._breaker.guard(), self._seconds["set"].time():
                await self._redis.set(key, value, px=max(1, int(life_s * 1000)))
        except (RedisError, OSError, TimeoutError, BreakerOpen) as error:
            self._note(error)
            return False
        return True

    @stage(REDIS, named=_command("PFADD"))
    async def add_to_sketch(self, key: str, members: Sequence[str], life_s: float) -> bool:
        """Have a HyperLogLog count these members; returns whether it does. life_s: how long it is kept from now on."""
        try:
            with self._breaker.guard(), self._seconds["sketch"].time():
                async with self._redis.pipeline(transaction=False) as pipeline:
                    pipeline.pfadd(key, *members)
                    pipeline.expire(key, int(life_s))
                    await pipeline.execute()
        except (RedisError, OSError, TimeoutError, BreakerOpen) as error:
            self._note(error)
            return False
        return True

    @stage(REDIS, named=_command("PFCOUNT"))
    async def sketch_size(self, key: str) -> int | None:
        """About how many different members a HyperLogLog has counted; None when Redis does not answer."""
        try:
            with self._breaker.guard(), self._seconds["sketch"].time():
                return int(await self._redis.pfcount(key))
        except (RedisError, OSError, TimeoutError, BreakerOpen) as error:
            self._note(error)
            return None

    @stage(REDIS, named=_command("PUBLISH"))
    async def publish(self, channel: str, text: str) -> bool:
        """Tell whoever listens; returns whether Redis took it.

        Tried some times, whatever the breaker says: what is told this way is rare, and waited for by servers that may
        have found Redis again before this one has.
        """

        async def publish() -> None:
            with self._seconds["publish"].time():
                await self._redis.publish(channel, text)

        try:
            await self._retries.run("publish", publish, _PUBLISH_AGAIN, lambda error: isinstance(error, _UNANSWERED))
        except _UNANSWERED as error:
            self._note(error)
            return False
        return True

    def subscription(self) -> Any:
        """A connection that hears what is published; an async context manager. Its user bounds the waits."""
        return self._redis.pubsub()

    @stage(REDIS, named=_command("EVALSHA"))
    async def raise_versions(self, versions: Mapping[str, int], channel: str) -> bool:
        """Raise version keys, all of one hash slot; those that are new are published on the channel.

        Returns whether Redis has them now.
        """
        if not versions:
            return True
        try:
            with self._breaker.guard(), self._seconds["raise_versions"].time():
                try:
                    await self._set_versions(
                        keys=list(versions), args=[int(self._settings.version_ttl_s), channel, *versions.values()]
                    )
                except ResponseError:
                    # Out of memory it takes nothing and still answers lists: of an unknown version none is current.
                    await self._redis.unlink(*versions)
                    raise
        except (RedisError, OSError, TimeoutError, BreakerOpen) as error:
            self._note(error)
            return False
        return True

    @stage(REDIS, named=_command("EVALSHA"))
    async def take_permits(self, names: Sequence[str], claims: Sequence[Claim]) -> list[tuple[int, float]] | None:
        """Take permits from all of these buckets, which are of one hash slot, or from none.

        Returns for each bucket the permits taken and the seconds by which its TAT is ahead; None when Redis does not
        answer.
        """
        arguments = [
            number
            for claim in claims
            for number in (claim.interval_s * 1e6, claim.burst, claim.needed, claim.wanted, claim.ahead_s * 1e6)
        ]
        try:
            with self._breaker.guard(), self._seconds["take_permits"].time():
                answer: list[Any] = await self._take_permits(keys=list(names), args=arguments)
        except (RedisError, OSError, TimeoutError, BreakerOpen) as error:
            self._note(error)
            return None
        return [(int(given), float(ahead_us) / 1e6) for given, ahead_us in zip(answer[::2], answer[1::2], strict=True)]

    def _note(self, error: Exception) -> None:
        self._failures.inc()
        if not isinstance(error, BreakerOpen):
            _log.warning("redis.failed", error=type(error).__name__)


def _script(name: str) -> str:
    return (resources.files("recsvc.cache") / name).read_text(encoding="utf-8")
