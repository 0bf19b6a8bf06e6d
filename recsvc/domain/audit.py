"""What the audit log says of one administrative action: who, what, on what, and how it ended. Never what was sent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from recsvc.domain.ids import TenantId, TenantKey


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One action. actor: id of an API key, cli:<account>, or configuration; outcome: a canonical code.

    tenant_key: None while the tenant does not exist. key, time: set once it is stored.
    """

    tenant_key: TenantKey | None
    tenant_id: TenantId
    actor: str
    action: str
    targets: tuple[str, ...] = ()
    outcome: str = "OK"
    request_id: str = ""
    key: int = 0
    time: datetime | None = None

    def about(self, *targets: str) -> AuditEntry:
        """The same, of these targets too."""
        return replace(self, targets=(*self.targets, *targets))


@dataclass(frozen=True, slots=True)
class AuditQuestion:
    """Which entries are wanted; what is empty is not asked for. tenant_id: acted for, or acted upon.

    before: the key of an entry; only older ones are wanted.
    """

    tenant_id: str = ""
    actor: str = ""
    action: str = ""
    outcome: str = ""
    since: datetime | None = None
    until: datetime | None = None
    before: int | None = None
    limit: int = 100
