"""What training does with the catalogue: reads its content, fits the mapping, and gives items that nobody has touched
the vectors that follow from it.

Storage derives the vectors of later items by the same mapping (`engine.item_fold_in`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recsvc.domain.arrays import Interactions
from recsvc.domain.content import content_features
from recsvc.domain.ids import TenantKey
from recsvc.storage.content import ContentRepository, DescribedItem, PublishedContent
from recsvc.storage.models import ItemWeights, TrainedModel
from recsvc.training.algorithms.content import Content, ContentConfig, FeatureTable, FeatureTableBuilder
from recsvc.training.algorithms.interface import ItemFactors, Progress, no_progress

Keys = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The items of a tenant: keys, numbers of their states (n,), and their features."""

    item_keys: Keys
    etags: Keys
    table: FeatureTable

    def positions(self, item_keys: Keys) -> Keys:
        """Where these items stand in the catalogue; -1 for those that it lacks."""
        order = np.argsort(self.item_keys)
        places = np.searchsorted(self.item_keys, item_keys, sorter=order)
        found = order[np.minimum(places, len(order) - 1)] if len(order) else np.zeros(len(item_keys), dtype=np.int64)
        known = self.item_keys[found] == item_keys if len(order) else np.zeros(len(item_keys), dtype=np.bool_)
        return np.where(known, found, -1).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Enriched:
    """A model with the vectors of untouched items and figures of held-out ones; the content to publish with it."""

    trained: TrainedModel
    content: PublishedContent | None


async def read_catalogue(content: ContentRepository, tenant_key: TenantKey) -> Catalogue:
    """All items of a tenant with their features, made in a thread part by part."""
    builder = FeatureTableBuilder()
    keys: list[int] = []
    etags: list[int] = []
    async for part in content.described(tenant_key):
        keys.extend(described.item_key for described in part)
        etags.extend(described.etag for described in part)
        await asyncio.to_thread(_add, builder, part)
    return Catalogue(np.array(keys, dtype=np.int64), np.array(etags, dtype=np.int64), builder.table())


def enrich(
    trained: TrainedModel,
    interactions: Interactions,
    rejected: Keys,
    catalogue: Catalogue,
    config: ContentConfig | None = None,
    progress: Progress = no_progress,
) -> Enriched:
    """Fit the mapping, and append the untouched items of the catalogue that it says anything about.

    trained: its items are the columns of `interactions`, which it was fitted on. rejected: items that users came to
    and nobody liked; nothing speaks for them.
    """
    config = config or ContentConfig()
    positions = catalogue.positions(trained.item_keys)
    factors = ItemFactors(trained.vectors, trained.fold_in_scales)
    fit = Content(config).fit(catalogue.table.rows(positions), factors, interactions, progress)
    if fit is None:
        return Enriched(trained, None)
    known = np.concatenate([positions, catalogue.positions(rejected)])
    untouched = np.setdiff1d(np.arange(len(catalogue.item_keys)), known)
    described, vectors, scales = fit.vectors(catalogue.table.rows(untouched))
    derived = untouched[described]
    count = len(derived)
    chosen = {"penalty": fit.penalty, **asdict(fit.model.calibration), "features": len(fit.model.names)}
    extended = replace(
        trained,
        item_keys=np.concatenate([trained.item_keys, catalogue.item_keys[derived]]),
        vectors=np.concatenate([trained.vectors, vectors]),
        fold_in_scales=np.concatenate([trained.fold_in_scales, scales]),
        neighbors=_padded(trained.neighbors, count),
        transitions=_padded(trained.transitions, count) if trained.transitions is not None else None,
        hyperparameters={**trained.hyperparameters, "content": chosen},
        metrics={**trained.metrics, **fit.metrics},
    )
    content = PublishedContent(fit.model, catalogue.item_keys[derived], catalogue.etags[derived])
    return Enriched(extended, content)


def _add(builder: FeatureTableBuilder, part: Sequence[DescribedItem]) -> None:
    builder.add(content_features(described.item) for described in part)


def _padded(weights: ItemWeights, count: int) -> ItemWeights:
    """The same weights with so many more items that have none."""
    return replace(weights, indptr=np.concatenate([weights.indptr, np.full(count, weights.indptr[-1])]))
