"""Tenant profiles kept in process for a moment: settings and active model are read by every call, written rarely."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from recsvc.domain.ids import TenantKey
from recsvc.domain.tenancy import TenantProfile
from recsvc.storage.tenants import TenantRepository

_LIFE_S = 1.0


@dataclass(slots=True)
class _Entry:
    profile: TenantProfile
    loaded: float


class TenantProfiles:
    """Profiles no older than a second, loaded by one caller at a time per tenant."""

    def __init__(self, tenants: TenantRepository) -> None:
        self._tenants = tenants
        self._entries: dict[TenantKey, _Entry] = {}
        self._locks: dict[TenantKey, asyncio.Lock] = {}

    async def get(self, tenant_key: TenantKey) -> TenantProfile:
        """The tenant's profile. Raises TenantNotFound."""
        entry = self._entries.get(tenant_key)
        if entry is not None and time.monotonic() - entry.loaded < _LIFE_S:
            return entry.profile
        async with self._locks.setdefault(tenant_key, asyncio.Lock()):
            entry = self._entries.get(tenant_key)
            if entry is None or time.monotonic() - entry.loaded >= _LIFE_S:
                return await self.reload(tenant_key)
            return entry.profile

    async def reload(self, tenant_key: TenantKey) -> TenantProfile:
        """The profile as it is in the database now."""
        started = time.monotonic()
        profile = await self._tenants.profile(tenant_key)
        self._entries[tenant_key] = _Entry(profile, started)
        return profile
