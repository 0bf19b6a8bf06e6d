"""Buckets of permits that all processes share through Redis, at the cost of a round trip only now and then.

A process that uses permits quickly takes some ahead of need, its lease: so most calls are admitted from what is at
hand. Permits at hand are paid for, so over any time T all processes together admit at most burst + per_s · T + the
leases that they hold. A lease is at most a tenth of a second's permits and a tenth of the burst; what is unused of it
after a second is lost. With a burst below ten nothing is taken ahead, and the count is exact. While Redis is away each
process counts by itself, from what it knew; afterwards the one that took the most tells Redis.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from recsvc.cache.redis_client import Claim, RedisClient
from recsvc.domain.limits import Quota, available, taken, wait_s

_LEASE_S = 0.1
_LEASE_OF_BURST = 10
_LEASE_LIFE_S = 1.0
_REMEMBERED_BUCKETS = 50_000
# Permits at hand of one bucket may go to another call while those of the other are asked for.
_TRIES = 4
# Not longer, so that a limit that was raised is noticed, and a wait that others cut short ends.
_LONGEST_REST_S = 1.0


@dataclass(slots=True)
class Bucket:
    """What this process knows of one bucket. tat_s: by its monotonic clock; at_hand: permits paid for, till until_s."""

    name: str
    quota: Quota
    tat_s: float = 0.0
    at_hand: int = 0
    until_s: float = 0.0
    lease: int = 0
    refilling: asyncio.Lock = field(default_factory=asyncio.Lock)

    def held(self, now_s: float) -> int:
        """Permits at hand now."""
        return self.at_hand if now_s < self.until_s else 0

    def wait_s(self, now_s: float, permits: int) -> float:
        """Seconds until so many more than those at hand can be available: others may take some before."""
        return wait_s(self.tat_s, now_s, self.quota, permits - self.held(now_s))

    def remaining(self, now_s: float) -> int:
        """Permits that are left as far as is known here."""
        return available(self.tat_s, now_s, self.quota) + self.held(now_s)

    def full_in_s(self, now_s: float) -> float:
        """Seconds until it is full again."""
        return max(0.0, self.tat_s - now_s)

    def receive(self, permits: int, tat_s: float, now_s: float) -> None:
        """Put permits to those at hand, with what is known of the bucket after they were taken."""
        self.tat_s = tat_s
        if permits:
            self.at_hand = self.held(now_s) + permits
            self.until_s = now_s + _LEASE_LIFE_S

    def claim(self, permits: int, now_s: float) -> Claim:
        """What to ask Redis for. The lease doubles while each is used up before it ends, and begins anew otherwise."""
        most = min(int(self.quota.per_s * _LEASE_S), self.quota.burst // _LEASE_OF_BURST)
        self.lease = min(most, 2 * self.lease + 1) if now_s < self.until_s else 0
        needed = permits - self.held(now_s)
        return Claim(self.quota.interval_s, self.quota.burst, needed, needed + self.lease, self.full_in_s(now_s))


@dataclass(frozen=True, slots=True)
class Refused:
    """Which bucket had too few permits, and after how many seconds it may have enough."""

    bucket: Bucket
    retry_after_s: float


class Permits:
    """The buckets that were used lately."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def bucket(self, name: str, quota: Quota) -> Bucket:
        """The bucket of this name, which has this quota from now on. Buckets taken from together share a hash tag."""
        found = self._buckets.get(name)
        if found is None:
            found = self._buckets[name] = Bucket(name, quota)
            while len(self._buckets) > _REMEMBERED_BUCKETS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(name)
            found.quota = quota
        return found

    @staticmethod
    def take_at_hand(buckets: Sequence[Bucket], permits: int) -> bool:
        """Take permits that are at hand of all buckets; False, and nothing was taken, when there are too few."""
        return _taken_at_hand(buckets, permits, time.monotonic())

    async def take(self, buckets: Sequence[Bucket], permits: int) -> Refused | None:
        """Take permits from all buckets; None when they were taken, else nothing was. permits: at most a burst."""
        if self.take_at_hand(buckets, permits):
            return None
        # One at a time asks, and the others find what it took ahead.
        async with buckets[0].refilling:
            for _ in range(_TRIES):
                now_s = time.monotonic()
                if _taken_at_hand(buckets, permits, now_s):
                    return None
                # What is known can only be too little: a refusal by it needs no question.
                if refused := _refused(buckets, permits, now_s):
                    return refused
                short = [bucket for bucket in buckets if bucket.held(now_s) < permits]
                if not await self._refill(short, permits, now_s):
                    _refill_alone(short, permits, now_s)
        return Refused(short[0], short[0].quota.interval_s)

    async def take_patiently(self, buckets: Sequence[Bucket], permits: int) -> None:
        """Take permits, however many, as fast as they come. The caller's cancellation bounds the wait."""
        at_once = min(bucket.quota.burst for bucket in buckets)
        while permits > 0:
            refused = await self.take(buckets, min(permits, at_once))
            if refused is None:
                permits -= at_once
            else:
                # Those who wait for the same bucket must not come back together.
                await asyncio.sleep(min(refused.retry_after_s, _LONGEST_REST_S) * random.uniform(1.0, 1.1))  # noqa: S311

    async def _refill(self, buckets: Sequence[Bucket], permits: int, now_s: float) -> bool:
        claims = [bucket.claim(permits, now_s) for bucket in buckets]
        answers = await self._client.take_permits([bucket.name for bucket in buckets], claims)
        if answers is None:
            return False
        # The TAT counts from the question, rather too early than too late. But permits are at hand only from now on: a
        # process that is kept from its turn may read the answer so late that they would be lost already.
        received_s = time.monotonic()
        for bucket, (given, ahead_s) in zip(buckets, answers, strict=True):
            bucket.receive(given, now_s + ahead_s, received_s)
        return True


def _taken_at_hand(buckets: Sequence[Bucket], permits: int, now_s: float) -> bool:
    for bucket in buckets:
        if bucket.at_hand < permits or now_s >= bucket.until_s:
            return False
    for bucket in buckets:
        bucket.at_hand -= permits
    return True


def _refused(buckets: Sequence[Bucket], permits: int, now_s: float) -> Refused | None:
    slowest = max(buckets, key=lambda bucket: bucket.wait_s(now_s, permits))
    wait = slowest.wait_s(now_s, permits)
    return Refused(slowest, wait) if wait > 0 else None


def _refill_alone(buckets: Sequence[Bucket], permits: int, now_s: float) -> None:
    """Count without Redis, from what is known here; the buckets were found to have enough."""
    for bucket in buckets:
        needed = permits - bucket.held(now_s)
        given = min(needed, available(bucket.tat_s, now_s, bucket.quota))
        bucket.receive(given, taken(bucket.tat_s, now_s, bucket.quota, given), now_s)
