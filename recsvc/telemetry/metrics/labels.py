"""Labels whose values others choose: bounded, so that no metric grows with what tenants are called or make up."""

from __future__ import annotations

import time
from collections import Counter
from typing import Final

OTHER: Final = "other"
_JUDGED_EVERY_S = 60.0
# Of so many tenants calls are counted between two judgements.
_COUNTED = 10_000


class BoundedLabel:
    """Lets the first so many different values through; all further ones are `other`."""

    def __init__(self, at_most: int) -> None:
        self._at_most = at_most
        self._known: set[str] = set()

    def of(self, value: str) -> str:
        """What stands for the value."""
        if value in self._known:
            return value
        if len(self._known) >= self._at_most:
            return OTHER
        self._known.add(value)
        return value


class TenantLabels:
    """Names the busiest tenants, at most so many; the rest are `other`. With 0 all are one, with an empty label.

    Those that called most often since the last judgement get the names that are left. A name once given stays until the
    process ends, so that there are never more series than that.
    """

    def __init__(self, at_most: int, judged_every_s: float = _JUDGED_EVERY_S) -> None:
        self._at_most = at_most
        self._judged_every_s = judged_every_s
        self._judged = time.monotonic()
        self._named: set[str] = set()
        self._calls: Counter[str] = Counter()

    @property
    def are_told_apart(self) -> bool:
        """Whether any tenant may be named."""
        return self._at_most > 0

    def of(self, tenant_id: str) -> str:
        """What stands for a tenant."""
        if not self._at_most:
            return ""
        return tenant_id if tenant_id in self._named else OTHER

    def of_caller(self, tenant_id: str) -> str:
        """The same of a tenant that calls, which counts towards its having a name."""
        if self._at_most and tenant_id not in self._named and len(self._named) < self._at_most:
            if tenant_id in self._calls or len(self._calls) < _COUNTED:
                self._calls[tenant_id] += 1
            if time.monotonic() - self._judged >= self._judged_every_s:
                self._judge()
        return self.of(tenant_id)

    def _judge(self) -> None:
        busiest = self._calls.most_common(self._at_most - len(self._named))
        self._named.update(tenant_id for tenant_id, _ in busiest)
        self._calls.clear()
        self._judged = time.monotonic()
