"""Derives the vectors of items that training has not seen, from their content and from who has touched them since.

The counterpart of `fold_in` for items: nothing is trained, so a vector is a pure function of the item, the events and
the model, and can be derived again at any time. Any number of processes may do it: a tenant is one process's turn at a
time, and what is due is struck off in the transaction that stores the vectors.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

import structlog

from recsvc.domain.content import Features, content_features
from recsvc.domain.content_vectors import Calibration, Evidence, FeatureVectors, derived_vector, predicted_direction
from recsvc.domain.errors import DomainError
from recsvc.domain.ids import ItemKey, TenantKey
from recsvc.storage.changes import Changes
from recsvc.storage.content import ContentRepository, Derived, Deriving, DueItem

_log = structlog.get_logger(__name__)
# A switch of models, or a large import, makes a whole catalogue due, and each new version of a tenant has all its lists
# made anew. No cached list is called current for much longer than this.
_OUTDATE_EVERY_S = 30.0
BATCH = 100
"""Items of one transaction, about: few enough that calls which are answered beside it do not notice."""


class ItemFoldIn:
    """Brings the vectors of due items up to date."""

    def __init__(self, content: ContentRepository, changes: Changes) -> None:
        self._content = content
        self._changes = changes
        # Tenants whose cached lists lack items, and since when.
        self._outdated: dict[TenantKey, float] = {}

    async def refresh_once(self) -> int:
        """One batch of every tenant that has any; returns how many items there were."""
        count = 0
        # Another process may have taken the last turn of those whose lists this one has yet to outdate.
        for tenant_key in {*await self._content.tenants_with_due_items(), *self._outdated}:
            try:
                count += await self.refresh(tenant_key)
            except DomainError as error:
                # The other tenants need not wait for what may be wrong with one.
                _log.warning("item_fold_in.failed", tenant_key=tenant_key, error=error.reason)
        return count

    async def refresh(self, tenant_key: TenantKey) -> int:
        """One batch of a tenant; returns how many items there were. 0: nothing is due, or another is at it."""
        now = time.monotonic()
        is_overdue = now - self._outdated.get(tenant_key, now) >= _OUTDATE_EVERY_S

        async def derive() -> tuple[int, float | None, int | None]:
            since = self._outdated.get(tenant_key)
            async with self._content.deriving(tenant_key) as deriving:
                if deriving is None:
                    return 0, None if is_overdue else since, None
                due = await deriving.due(BATCH)
                if deriving.calibration is None:
                    await deriving.give_up(due)
                else:
                    await deriving.store(await _derived(deriving, deriving.calibration, due))
                if since is None and deriving.outdates_lists:
                    since = now
                if since is not None and (deriving.is_last or is_overdue):
                    return deriving.handled, None, await deriving.outdate_lists()
                return deriving.handled, since, None

        count, since, version = await self._content.despite_deadlocks(derive)
        if since is None:
            self._outdated.pop(tenant_key, None)
        else:
            self._outdated[tenant_key] = since
        if version is not None:
            await self._changes.tenant_changed(tenant_key, version)
        return count


async def _derived(deriving: Deriving, calibration: Calibration, due: Sequence[DueItem]) -> list[Derived]:
    # In a thread, since a batch of long descriptions takes as long as several calls.
    features = await asyncio.to_thread(_features, due)
    known = await deriving.features(sorted({name for of_item in features for name in of_item}))
    evidence = await deriving.evidence([one.described.item_key for one in due if one.event_count])
    return await asyncio.to_thread(_vectors, due, features, known, evidence, calibration)


def _features(due: Sequence[DueItem]) -> list[Features]:
    return [content_features(one.described.item) for one in due]


def _vectors(
    due: Sequence[DueItem],
    features: Sequence[Features],
    known: FeatureVectors,
    evidence: Mapping[ItemKey, Evidence],
    calibration: Calibration,
) -> list[Derived]:
    return [
        Derived(
            one,
            derived_vector(
                predicted_direction(of_item, known), evidence.get(one.described.item_key), known.mean, calibration
            ),
        )
        for one, of_item in zip(due, features, strict=True)
    ]
