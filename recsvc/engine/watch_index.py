"""Who watches, found by what changed: a user, an identity that nobody had seen before, a whole tenant.

A change costs as much as it has watchers, however many others there are. What this holds is exact: whoever wakes
watchers by it reaches those concerned and nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from recsvc.domain.ids import TenantKey, UserKey
from recsvc.domain.users import Identity


@dataclass(slots=True, eq=False)
class Watcher:
    """One watched list.

    identity: whose it is; None of anybody's. user_key: of that user as far as it is known; None before their first
    event. is_key_checked: False once the user has changed, since whoever is erased and comes back has another key.
    is_urgent: whether it was woken by what its own user did.
    """

    tenant_key: TenantKey
    identity: Identity | None
    user_key: UserKey | None = None
    is_key_checked: bool = False
    is_urgent: bool = True
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self, *, is_urgent: bool) -> None:
        """Have it look at its list again."""
        self.is_urgent = self.is_urgent or is_urgent
        self.changed.set()


@dataclass(slots=True)
class _OfTenant:
    watchers: set[Watcher] = field(default_factory=set)
    by_user: dict[UserKey, set[Watcher]] = field(default_factory=dict)
    by_identity: dict[Identity, set[Watcher]] = field(default_factory=dict)


class WatchIndex:
    """The watchers of a process."""

    def __init__(self) -> None:
        self._tenants: dict[TenantKey, _OfTenant] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Watcher]:
        return (watcher for tenant in self._tenants.values() for watcher in tenant.watchers)

    def add(self, watcher: Watcher) -> None:
        """Begin to find a watcher: by its tenant, and by its identity until its key is known."""
        self._tenants.setdefault(watcher.tenant_key, _OfTenant()).watchers.add(watcher)
        self._count += 1
        self.forget_key(watcher)

    def remove(self, watcher: Watcher) -> None:
        """Find it no more."""
        tenant = self._tenants[watcher.tenant_key]
        self._unlink(tenant, watcher)
        tenant.watchers.discard(watcher)
        self._count -= 1
        if not tenant.watchers:
            del self._tenants[watcher.tenant_key]

    def forget_key(self, watcher: Watcher) -> None:
        """Find it by its identity again."""
        tenant = self._tenants[watcher.tenant_key]
        self._unlink(tenant, watcher)
        watcher.user_key, watcher.is_key_checked = None, False
        if watcher.identity is not None:
            tenant.by_identity.setdefault(watcher.identity, set()).add(watcher)

    def learn_key(self, watcher: Watcher, user_key: UserKey) -> None:
        """Find it by its user's key from now on."""
        tenant = self._tenants[watcher.tenant_key]
        self._unlink(tenant, watcher)
        watcher.user_key, watcher.is_key_checked = user_key, True
        tenant.by_user.setdefault(user_key, set()).add(watcher)

    def of_tenant(self, tenant_key: TenantKey) -> Sequence[Watcher]:
        """All of a tenant."""
        tenant = self._tenants.get(tenant_key)
        return tuple(tenant.watchers) if tenant else ()

    def of_users(self, tenant_key: TenantKey, user_keys: Iterable[UserKey]) -> Sequence[Watcher]:
        """Those of some users, as far as their keys are known."""
        tenant = self._tenants.get(tenant_key)
        return [watcher for key in user_keys for watcher in tenant.by_user.get(key, ())] if tenant else ()

    def of_identity(self, tenant_key: TenantKey, identity: Identity) -> Sequence[Watcher]:
        """Those who wait for somebody of this name to be seen."""
        tenant = self._tenants.get(tenant_key)
        return tuple(tenant.by_identity.get(identity, ())) if tenant else ()

    def strangers(self, tenant_key: TenantKey) -> Sequence[Watcher]:
        """All who wait for somebody to be seen."""
        tenant = self._tenants.get(tenant_key)
        return [watcher for found in tenant.by_identity.values() for watcher in found] if tenant else ()

    def has_strangers(self, tenant_key: TenantKey) -> bool:
        """Whether anybody waits for somebody to be seen."""
        tenant = self._tenants.get(tenant_key)
        return tenant is not None and bool(tenant.by_identity)

    @staticmethod
    def _unlink(tenant: _OfTenant, watcher: Watcher) -> None:
        if watcher.user_key is not None and (found := tenant.by_user.get(watcher.user_key)) is not None:
            found.discard(watcher)
            if not found:
                del tenant.by_user[watcher.user_key]
        if watcher.identity is not None and (waiting := tenant.by_identity.get(watcher.identity)) is not None:
            waiting.discard(watcher)
            if not waiting:
                del tenant.by_identity[watcher.identity]
