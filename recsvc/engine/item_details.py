"""The fields of items that a caller asked for, put into a list that was found without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from recsvc.domain.ids import TenantKey
from recsvc.domain.recommendations import RecommendedItem
from recsvc.storage.items import ItemRepository


async def with_details(
    items: ItemRepository, tenant_key: TenantKey, found: Sequence[RecommendedItem], item_fields: Sequence[str]
) -> tuple[RecommendedItem, ...]:
    """The same list; each with its item when any field of it is wanted."""
    if not item_fields or not found:
        return tuple(found)
    stored = await items.get_many(tenant_key, [one.item_id for one in found])
    return tuple(replace(one, item=stored.get(one.item_id)) for one in found)
