"""Items like a given one, by behaviour, by content, or by who bought both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from psycopg.rows import DictRow

from recsvc.domain.arrays import Float32
from recsvc.domain.errors import ItemNotFound
from recsvc.domain.filters import Tree
from recsvc.domain.ids import ItemId, ItemKey, TenantKey
from recsvc.domain.tenancy import ServingModel
from recsvc.storage.candidates import NO_MODEL, category_expression, eligible_items
from recsvc.storage.database import Database
from recsvc.storage.replicas import Replicas
from recsvc.storage.statements import compose, load

_SQL = load("similar")
_BUYERS = 2000
# The latest say as much as all of them, and more of what is bought now.
_BASKETS = 200


@dataclass(frozen=True, slots=True)
class SimilarQuestion:
    """Which items are wanted, and what they must be like."""

    filter: Tree | None
    limit: int
    excluded: Sequence[ItemId]
    category_field: str | None
    want_vectors: bool


@dataclass(frozen=True, slots=True)
class ItemLabels:
    """An item with its categories and tags, and the version of the tenant at that moment."""

    item_key: ItemKey
    labels: Sequence[str]
    tenant_version: int


@dataclass(frozen=True, slots=True)
class Similar:
    """One similar item; labels: what it shares, by content; a vector only if it was asked for and there is one."""

    item_key: ItemKey
    item_id: ItemId
    score: float
    labels: Sequence[str]
    categories: Sequence[str]
    vector: Float32 | None


class SimilarItemRepository:
    """Asks PostgreSQL for similar items."""

    def __init__(self, database: Database, replicas: Replicas) -> None:
        self._database = database
        self._replicas = replicas

    async def item(self, tenant_key: TenantKey, item_id: ItemId) -> ItemLabels:
        """Raises ItemNotFound."""
        row = await self._database.fetch_one(tenant_key, _SQL["find_item"], {"tenant": tenant_key, "item_id": item_id})
        if row is None:
            raise ItemNotFound(item_id)
        return ItemLabels(ItemKey(row["item_key"]), row["labels"], row["tenant_version"])

    async def by_behavior(
        self,
        tenant_key: TenantKey,
        model: ServingModel,
        item: ItemLabels,
        question: SimilarQuestion,
        now: datetime,
    ) -> list[Similar]:
        """Neighbours in the model, nearest first."""
        return await self._ask("similar_by_behavior", tenant_key, model, item, question, now)

    async def by_content(
        self,
        tenant_key: TenantKey,
        model: ServingModel | None,
        item: ItemLabels,
        question: SimilarQuestion,
        now: datetime,
    ) -> list[Similar]:
        """Items that share categories and tags, most alike first."""
        return await self._ask("similar_by_content", tenant_key, model, item, question, now)

    async def bought_together(
        self,
        tenant_key: TenantKey,
        model: ServingModel | None,
        item: ItemLabels,
        question: SimilarQuestion,
        now: datetime,
    ) -> list[Similar]:
        """What is bought in the same baskets, and behind it what the same users buy at other times."""
        found = await self._ask("bought_together", tenant_key, model, item, question, now)
        if len(found) == question.limit:
            return found
        known = {similar.item_key for similar in found}
        lowest = min((similar.score for similar in found), default=1.0)
        others = await self._ask("bought_by_the_same", tenant_key, model, item, question, now)
        fill = [replace(other, score=lowest * min(1.0, other.score)) for other in others if other.item_key not in known]
        return [*found, *fill][: question.limit]

    async def _ask(
        self,
        statement: str,
        tenant_key: TenantKey,
        model: ServingModel | None,
        item: ItemLabels,
        question: SimilarQuestion,
        now: datetime,
    ) -> list[Similar]:
        serving = model or NO_MODEL
        eligible = eligible_items(question.filter, now)
        category = category_expression(question.category_field)
        query = compose(_SQL[statement], eligible=eligible.condition, category=category.condition)
        params = {
            "tenant": tenant_key,
            "model": serving.model_key,
            "shard": serving.shard,
            "item": item.item_key,
            "labels": list(item.labels),
            "buyers": _BUYERS,
            "baskets": _BASKETS,
            "limit": question.limit,
            "excluded": list(question.excluded),
            "want_vectors": question.want_vectors,
            **eligible.params,
            **category.params,
        }
        rows = await self._replicas.fetch_all(tenant_key, query, params, version=item.tenant_version)
        return [_similar(row) for row in rows]


def _similar(row: DictRow) -> Similar:
    return Similar(
        item_key=ItemKey(row["item_key"]),
        item_id=ItemId(row["item_id"]),
        score=float(row["score"]),
        labels=row.get("labels") or (),
        categories=row["category"] or (),
        vector=row["vector"].to_numpy().astype(np.float32) if row["vector"] is not None else None,
    )
