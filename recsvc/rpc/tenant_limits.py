"""The limits of each tenant at hand, without a wait: read again in the background while the old ones still hold.

A change of a tenant's limits is in force within three seconds at every process. While the database is away the limits
known last hold, and the service's defaults for a tenant of which nothing is known.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass

from recsvc.domain.errors import DomainError
from recsvc.domain.ids import TenantKey
from recsvc.domain.limits import TenantLimits
from recsvc.domain.tenancy import TenantSettings
from recsvc.engine.profiles import TenantProfiles
from recsvc.rpc.convert.limits import tenant_limits
from recsvc.settings import LimitSettings

_LIFE_S = 2.0
_REMEMBERED = 10_000


@dataclass(slots=True)
class _Known:
    """until_s: when they are read again; None while they were never read."""

    limits: TenantLimits
    until_s: float | None = None
    reading: asyncio.Task[None] | None = None


class TenantLimitSource:
    """Limits by tenant."""

    def __init__(self, profiles: TenantProfiles, defaults: LimitSettings) -> None:
        self._profiles = profiles
        self._settings = defaults
        self._defaults = tenant_limits(TenantSettings(), defaults)
        self._known: OrderedDict[TenantKey, _Known] = OrderedDict()

    def reload(self, defaults: LimitSettings) -> None:
        """Have these be the defaults: for each tenant as soon as its settings can be read again."""
        before, self._settings = self._defaults, defaults
        self._defaults = tenant_limits(TenantSettings(), defaults)
        for known in self._known.values():
            if known.limits is before:
                known.limits = self._defaults
            if known.until_s is not None:
                known.until_s = 0.0

    def at_hand(self, tenant_key: TenantKey) -> TenantLimits | None:
        """The tenant's limits if they are known, a little old at most; None when they must be waited for."""
        known = self._known.get(tenant_key)
        if known is None or known.until_s is None:
            return None
        if time.monotonic() >= known.until_s:
            self._begin_reading(tenant_key, known)
        return known.limits

    async def of(self, tenant_key: TenantKey) -> TenantLimits:
        """The tenant's limits; waits for those of a tenant that was not seen lately."""
        known = self._known.get(tenant_key)
        if known is None:
            known = self._known[tenant_key] = _Known(self._defaults)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        if known.until_s is None:
            # Whoever leaves does not take the answer of the others along.
            await asyncio.shield(self._begin_reading(tenant_key, known))
        return known.limits

    def _begin_reading(self, tenant_key: TenantKey, known: _Known) -> asyncio.Task[None]:
        if known.reading is None:
            known.reading = asyncio.create_task(self._read(tenant_key, known))
        return known.reading

    async def _read(self, tenant_key: TenantKey, known: _Known) -> None:
        try:
            # What cannot be read is the servicer's to tell, if it needs the tenant at all.
            with suppress(DomainError):
                profile = await self._profiles.get(tenant_key)
                known.limits = tenant_limits(profile.settings, self._settings)
        finally:
            known.until_s = time.monotonic() + _LIFE_S
            known.reading = None
