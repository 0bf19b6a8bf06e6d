"""Who wants to know of committed changes: caches, which must not serve what the change has outdated.

Storage announces after the commit and before the caller hears of it, so that whoever got OK never reads an older
list. If the process dies in between, `freshness.repair` announces again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from recsvc.domain.ids import TenantKey, UserKey


class Changes(Protocol):
    """Takes announcements; must not raise and must not block for long."""

    async def tenant_changed(self, tenant_key: TenantKey, version: int) -> None:
        """Catalogue, settings or model of a tenant are now of this version."""

    async def users_changed(self, tenant_key: TenantKey, versions: Mapping[UserKey, int]) -> None:
        """These users' states are now of these versions; 0 means that the user is gone."""

    async def keys_changed(self, key_ids: Sequence[str]) -> None:
        """These API keys were rotated, revoked or deleted."""
