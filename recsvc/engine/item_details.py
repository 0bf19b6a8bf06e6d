"""The fields of items that a caller asked for, put into a list that was found without them."""

from __future__ import annotations

from collections.abc import Sequence

from recsvc.domain.recommendations import RecommendedItem
from recsvc.domain.tenancy import TenantProfile
from recsvc.storage.items import ItemRepository


async def with_details(
    items: ItemRepository, profile: TenantProfile, found: Sequence[RecommendedItem], item_fields: Sequence[str]
) -> tuple[RecommendedItem, ...]:
    """The same list; each with its item when any field of it is wanted. profile: that the list goes by."""
    if not item_fields or not found:
        return tuple(found)
    stored = await items.details(profile.tenant_key, [one.item_id for one in found], profile.version)
    return tuple(one._replace(item=stored.get(one.item_id)) for one in found)
