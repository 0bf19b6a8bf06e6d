"""How much a caller may ask for: classes of calls, quotas, and the meter that counts against them.

The meter is the generic cell rate algorithm (GCRA) in its virtual scheduling form, ITU-T I.371 annex A and ATM Forum
Traffic Management 4.1, section 4.4.2: all that is kept of a bucket is its theoretical arrival time (TAT), the moment at
which it would be full again if nothing more came. `cache/take_permits.lua` states the same in Redis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

# Permits are counted in floats; a whole one that lacks less than this through rounding is there.
_ROUNDING = 1e-6


class CallClass(StrEnum):
    """What a call counts against; the values name the limits in metadata of errors."""

    READ = "reads_per_second"
    WRITE = "writes_per_second"
    BULK = "bulk_elements_per_second"
    ADMIN = "admin_calls_per_second"

    @property
    def is_bulk(self) -> bool:
        """Whether elements are counted, and messages may be larger."""
        return self is CallClass.BULK


@dataclass(frozen=True, slots=True)
class Quota:
    """per_s: permits a second in the long run; burst: permits that may be taken at once, 1 or more.

    interval_s: seconds in which one permit comes back.
    """

    per_s: float
    burst: int
    interval_s: float = field(init=False)

    def __post_init__(self) -> None:
        """Divide once: every call needs it."""
        object.__setattr__(self, "interval_s", 1.0 / self.per_s)

    def share(self, part: float) -> Quota:
        """The part of it that one of several users may have; at least one permit at once."""
        return Quota(self.per_s * part, max(1, math.floor(self.burst * part)))


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What a tenant may do. A class without a quota is not limited; key_quotas: of each key, if it may not have all."""

    quotas: Mapping[CallClass, Quota]
    key_quotas: Mapping[CallClass, Quota]
    max_streams: int
    max_calls: int


def available(tat_s: float, now_s: float, quota: Quota) -> int:
    """Permits that a bucket with this TAT holds now, 0 to burst."""
    return math.floor(quota.burst - _ahead_s(tat_s, now_s, quota) / quota.interval_s + _ROUNDING)


def taken(tat_s: float, now_s: float, quota: Quota, permits: int) -> float:
    """The TAT after so many permits were taken, which must have been available."""
    return now_s + _ahead_s(tat_s, now_s, quota) + permits * quota.interval_s


def wait_s(tat_s: float, now_s: float, quota: Quota, permits: int) -> float:
    """Seconds until so many permits, at most a burst, will be available if nobody takes any meanwhile."""
    return max(0.0, _ahead_s(tat_s, now_s, quota) + (permits - quota.burst) * quota.interval_s)


def _ahead_s(tat_s: float, now_s: float, quota: Quota) -> float:
    # An empty bucket is as far ahead as can be; beyond that lies only what was taken while the quota was another.
    return min(max(tat_s - now_s, 0.0), quota.burst * quota.interval_s)
