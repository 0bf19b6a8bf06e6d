"""SimilarItems: the basis that was asked for, or for AUTO the first one that has an answer."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from recsvc.domain.ids import TenantKey
from recsvc.domain.ranking.diversity import CategoryCap, mmr
from recsvc.domain.recommendations import (
    Degradation,
    DegradationLevel,
    Reason,
    ReasonKind,
    RecommendedItem,
    SimilarItemsQuery,
    SimilarityBasis,
    Source,
)
from recsvc.domain.tenancy import TenantProfile
from recsvc.engine.item_details import with_details
from recsvc.engine.profiles import TenantProfiles
from recsvc.storage.items import ItemRepository
from recsvc.storage.similar_items import ItemLabels, Similar, SimilarItemRepository, SimilarQuestion
from recsvc.telemetry.metrics import Metrics

_POOL = 10


@dataclass(frozen=True, slots=True)
class SimilarItems:
    """The answer of SimilarItems."""

    items: tuple[RecommendedItem, ...]
    by: SimilarityBasis
    model_id: str
    generate_time: datetime
    recommendation_id: str
    degradation: Degradation


class SimilarItemFinder:
    """Finds items like a given one."""

    def __init__(
        self, similar: SimilarItemRepository, items: ItemRepository, profiles: TenantProfiles, metrics: Metrics
    ) -> None:
        self._similar = similar
        self._items = items
        self._profiles = profiles
        self._lists = metrics.similar_lists

    async def find(self, tenant_key: TenantKey, query: SimilarItemsQuery) -> SimilarItems:
        """Raises ItemNotFound."""
        profile = await self._profiles.get_current(tenant_key)
        item = await self._similar.item(tenant_key, query.item_id)
        diverse = query.diversity.trade_off < 1 or query.diversity.max_per_category > 0
        question = SimilarQuestion(
            filter=query.filter,
            limit=query.count * (_POOL if diverse else 1),
            excluded=query.exclude_item_ids,
            category_field=query.diversity.category_field if query.diversity.max_per_category else None,
            want_vectors=query.diversity.trade_off < 1,
        )
        basis, found = await self._by_basis(profile, query.by, item, question)
        chosen = _diverse(found, query) if diverse else found[: query.count]
        listed = [
            RecommendedItem(
                item_id=similar.item_id,
                score=similar.score,
                source=Source.CONTENT if basis is SimilarityBasis.CONTENT else Source.NEIGHBORS,
                reasons=(_reason(query, basis, similar),) if query.explain else (),
            )
            for similar in chosen
        ]
        degradation = Degradation()
        if basis is SimilarityBasis.BEHAVIOR and profile.model is None:
            degradation = Degradation(DegradationLevel.PARTIAL, "no model is trained yet")
        self._lists.labels(basis.value, degradation.level.name).inc()
        return SimilarItems(
            items=await with_details(self._items, profile, listed, query.item_fields),
            by=basis,
            model_id=profile.model.model_id if profile.model and basis is SimilarityBasis.BEHAVIOR else "",
            generate_time=datetime.now(UTC),
            recommendation_id=secrets.token_hex(16),
            degradation=degradation,
        )

    async def _by_basis(
        self, profile: TenantProfile, by: SimilarityBasis, item: ItemLabels, question: SimilarQuestion
    ) -> tuple[SimilarityBasis, list[Similar]]:
        now = datetime.now(UTC)
        tenant_key, model = profile.tenant_key, profile.model
        match by:
            case SimilarityBasis.CONTENT:
                return by, await self._similar.by_content(tenant_key, model, item, question, now)
            case SimilarityBasis.BOUGHT_TOGETHER:
                return by, await self._similar.bought_together(tenant_key, model, item, question, now)
        found: list[Similar] = []
        if model is not None:
            found = await self._similar.by_behavior(tenant_key, model, item, question, now)
        if by is SimilarityBasis.BEHAVIOR or found:
            return SimilarityBasis.BEHAVIOR, found
        return SimilarityBasis.CONTENT, await self._similar.by_content(tenant_key, model, item, question, now)


def _diverse(found: list[Similar], query: SimilarItemsQuery) -> list[Similar]:
    if not found:
        return found
    scores = np.array([similar.score for similar in found])
    width = max((len(similar.vector) for similar in found if similar.vector is not None), default=1)
    vectors = np.array(
        [similar.vector if similar.vector is not None else np.zeros(width, np.float32) for similar in found]
    )
    cap = None
    if query.diversity.max_per_category:
        cap = CategoryCap([similar.categories for similar in found], query.diversity.max_per_category)
    order = mmr(scores / max(float(scores.max()), 1e-12), vectors, query.count, query.diversity.trade_off, cap)
    return [found[int(position)] for position in order]


def _reason(query: SimilarItemsQuery, basis: SimilarityBasis, similar: Similar) -> Reason:
    match basis:
        case SimilarityBasis.CONTENT:
            return Reason(ReasonKind.MATCHES_ATTRIBUTES, similar.score, names=tuple(similar.labels))
        case SimilarityBasis.BOUGHT_TOGETHER:
            return Reason(ReasonKind.FREQUENTLY_BOUGHT_TOGETHER, similar.score, names=(query.item_id,))
    return Reason(
        ReasonKind.SIMILAR_TO_INTERACTED, similar.score, item_id=query.item_id, strength=min(1.0, similar.score)
    )
