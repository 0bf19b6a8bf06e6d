"""A tenant's limits between its settings and the domain."""

from __future__ import annotations

import math
from functools import lru_cache

from recsvc.domain.limits import CallClass, Quota, TenantLimits
from recsvc.domain.tenancy import TenantSettings
from recsvc.rpc.convert.tenant_settings import settings_proto
from recsvc.settings import LimitSettings


@lru_cache(maxsize=10_000)
def tenant_limits(settings: TenantSettings, defaults: LimitSettings) -> TenantLimits:
    """What the settings say, completed by the service's defaults: 0 in a tenant's settings means the default."""
    own = settings_proto(settings).rate_limits
    burst_s = own.burst_seconds or defaults.burst_seconds
    quotas = {}
    for call_class in CallClass:
        per_s = getattr(own, call_class.value) or getattr(defaults, call_class.value)
        if per_s > 0:
            quotas[call_class] = Quota(per_s, max(1, math.floor(per_s * burst_s)))
    share = own.key_share or defaults.key_share
    return TenantLimits(
        quotas=quotas,
        key_quotas={call_class: quota.share(share) for call_class, quota in quotas.items()} if share < 1.0 else {},
        max_streams=own.max_streams or defaults.max_streams,
        max_calls=own.max_calls or defaults.max_calls,
    )
