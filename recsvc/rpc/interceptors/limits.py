"""Refuses what a tenant or a key asks for beyond its limits: calls in flight, open streams, and rates.

What is in flight is counted by each process, rates by all processes together (`cache/permits.py`). Where no rate is set
Redis is not asked.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Sequence
from functools import partial

from recsvc.cache.permits import Bucket, Permits
from recsvc.domain.errors import DomainError, LimitExceeded, RateLimited
from recsvc.domain.ids import TenantKey
from recsvc.domain.limits import CallClass, TenantLimits
from recsvc.domain.tenancy import Principal
from recsvc.rpc.calls import Call, Context
from recsvc.rpc.methods import MethodPolicy
from recsvc.rpc.tenant_limits import TenantLimitSource

_RETRY_CALL_S = 0.1
_RETRY_STREAM_S = 1.0


class Limits:
    """Bounds what is going on at once of one tenant at this process, and how often it and each of its keys call."""

    def __init__(self, limits: TenantLimitSource, permits: Permits) -> None:
        self._limits = limits
        self._permits = permits
        # Tenants with something in flight only.
        self._calls: dict[TenantKey, int] = {}
        self._streams: dict[TenantKey, int] = {}

    def concerns(self, policy: MethodPolicy) -> bool:
        """All methods."""
        return True

    def enter(self, call: Call, context: Context) -> Awaitable[None] | None:
        """Count the call in and take its permits; those of a stream are taken as its elements come.

        Raises LimitExceeded and RateLimited.
        """
        principal = call.caller()
        limits = self._limits.at_hand(principal.tenant_key)
        return self._admit(call, principal, limits) if limits is not None else self._enter_unknown(call, principal)

    def leave(self, call: Call, error: DomainError | None) -> None:
        """Count it out; permits come back with time alone."""
        counts = self._streams if call.policy.is_stream else self._calls
        tenant_key = call.caller().tenant_key
        if counts[tenant_key] > 1:
            counts[tenant_key] -= 1
        else:
            del counts[tenant_key]

    async def _enter_unknown(self, call: Call, principal: Principal) -> None:
        waiting = self._admit(call, principal, await self._limits.of(principal.tenant_key))
        if waiting is not None:
            await waiting

    def _admit(self, call: Call, principal: Principal, limits: TenantLimits) -> Awaitable[None] | None:
        counts, most = (self._streams, limits.max_streams) if call.policy.is_stream else (self._calls, limits.max_calls)
        if counts.get(principal.tenant_key, 0) >= most:
            raise _too_many(call, principal, most)
        if call.policy.is_request_stream:
            call.pace = partial(self._pace, principal, call.policy.call_class)
        counts[principal.tenant_key] = counts.get(principal.tenant_key, 0) + 1
        if call.policy.call_class not in limits.quotas:
            return None
        buckets = self._buckets(principal, call.policy.call_class, limits)
        if self._permits.take_at_hand(buckets, call.cost):
            call.headers = _headers(buckets)
            return None
        return self._take(call, principal, buckets)

    async def _take(self, call: Call, principal: Principal, buckets: Sequence[Bucket]) -> None:
        try:
            await self._take_or_refuse(call, principal, buckets)
        except BaseException:
            self.leave(call, None)
            raise

    async def _take_or_refuse(self, call: Call, principal: Principal, buckets: Sequence[Bucket]) -> None:
        call_class = call.policy.call_class
        most = buckets[-1].quota.burst
        if call.cost > most:
            text = f"{call.cost} elements at once are more than the {most} that may ever come at once; send fewer"
            raise LimitExceeded(call_class.value, text)
        refused = await self._permits.take(buckets, call.cost) if call.cost else None
        call.headers = _headers(buckets)
        if refused is not None:
            is_tenant = refused.bucket is buckets[0]
            subject = f"tenant:{principal.tenant_id}" if is_tenant else f"api_key:{principal.key_id}"
            raise RateLimited(call_class.value, refused.bucket.quota.per_s, subject, refused.retry_after_s)

    async def _pace(self, principal: Principal, call_class: CallClass, elements: int) -> None:
        # A stream may last for hours, and its limits may change meanwhile.
        limits = self._limits.at_hand(principal.tenant_key) or await self._limits.of(principal.tenant_key)
        if call_class in limits.quotas:
            await self._permits.take_patiently(self._buckets(principal, call_class, limits), elements)

    def _buckets(self, principal: Principal, call_class: CallClass, limits: TenantLimits) -> Sequence[Bucket]:
        """The tenant's bucket first, then the key's, if a key may not have all."""
        name = f"recsvc:{{{principal.tenant_key}}}:permits:{call_class.name}"
        of_tenant = self._permits.bucket(name, limits.quotas[call_class])
        of_key = limits.key_quotas.get(call_class)
        return (of_tenant, self._permits.bucket(f"{name}:{principal.key_id}", of_key)) if of_key else (of_tenant,)


def _too_many(call: Call, principal: Principal, most: int) -> LimitExceeded:
    limit, what, retry_s = (
        ("max_streams", "streams open", _RETRY_STREAM_S)
        if call.policy.is_stream
        else ("max_calls", "calls in flight", _RETRY_CALL_S)
    )
    subject = f"tenant:{principal.tenant_id}"
    text = f"{subject} has {most} {what} at this server, as many as it may"
    return LimitExceeded(limit, text, subject=subject, retry_after_s=retry_s)


def _headers(buckets: Sequence[Bucket]) -> tuple[tuple[str, str], ...]:
    """Of the bucket that has the least left: how much may come at once, what is left, seconds until it is full."""
    now_s = time.monotonic()
    remaining, tightest = buckets[0].remaining(now_s), buckets[0]
    for bucket in buckets[1:]:
        if (left := bucket.remaining(now_s)) < remaining:
            remaining, tightest = left, bucket
    return (
        ("x-ratelimit-limit", str(tightest.quota.burst)),
        ("x-ratelimit-remaining", str(remaining)),
        ("x-ratelimit-reset", str(math.ceil(tightest.full_in_s(now_s)))),
    )
