"""How well new items find their users: a share of the items is kept out of everything, then created as if new.

Protocol: train without the events of the cold items; create these; ask for users who like some of them. Then let a few
other users touch each cold item, and ask again. Judged are recall of the cold items in lists of the whole catalogue and
in a ranking of the cold ones alone, beside what chance would give. `offline` computes exactly and at once; `served`
asks the recommender that callers ask, with its index, blend and half precision.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from scipy import sparse

from recsvc.datasets.source import Dataset
from recsvc.domain.arrays import Codes, Float32, Interactions, Mask
from recsvc.domain.catalog import Item
from recsvc.domain.content import Features, content_features
from recsvc.domain.content_vectors import Evidence, derived_vector
from recsvc.domain.evaluation import EMPTY, rank_metrics, top_k
from recsvc.domain.ids import TenantKey, UserId
from recsvc.domain.recommendations import RecommendQuery, Strategy
from recsvc.engine.item_fold_in import ItemFoldIn
from recsvc.engine.recommender import Recommender
from recsvc.storage.events import EventRepository
from recsvc.storage.items import ItemRepository
from recsvc.training.algorithms.content import Content, ContentConfig, ContentFit, FeatureTable
from recsvc.training.algorithms.interface import ItemFactors
from recsvc.training.algorithms.spectral import Spectral, SpectralConfig
from recsvc.training.challengers import Advance
from recsvc.training.protocols import Table

_BLOCK_USERS = 256
_ITEMS, _EVENTS = 5_000, 20_000
_EVENTS_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class ColdSplit:
    """A table without its cold items.

    cold: (items,); train: (entries,) what is learned from; tested: users (rows of the table) who are asked for; wanted:
    (tested, items) the cold items that they like; first_events: entries that touch each cold item, by other users.
    """

    table: Table
    cold: Mask
    train: Mask
    tested: Codes
    wanted: Interactions
    first_events: Codes


@dataclass(frozen=True, slots=True)
class ColdRecall:
    """Mean recall@k of the wanted cold items, in the whole catalogue and among the cold ones, and chance's."""

    overall: float
    among_cold: float | None
    chance: float
    chance_among_cold: float

    @property
    def lift(self) -> float:
        """How many times better than chance the lists of the whole catalogue are."""
        return self.overall / self.chance if self.chance else 0.0


@dataclass(frozen=True, slots=True)
class ColdStart:
    """What came of one protocol: from content alone, and after the first events; metrics of the content model."""

    users: int
    cold_items: int
    content: ColdRecall
    after_events: ColdRecall
    metrics: Mapping[str, float]


def cold_split(
    table: Table, share: float, *, seed: int = 0, events_per_item: int = 5, max_users: int = 2000
) -> ColdSplit:
    """Keep a random share of the items out. At most half of those who like one are tested; the others touch them.

    Raises ValueError when nobody is left to ask.
    """
    rng = np.random.default_rng(seed)
    item_count, user_count = len(table.item_ids), len(table.subjects)
    cold = np.zeros(item_count, dtype=np.bool_)
    cold[rng.choice(item_count, max(1, round(item_count * share)), replace=False)] = True
    train = ~cold[table.items]
    known = np.bincount(table.users[train & table.liked], minlength=user_count) > 0
    is_user = np.array([not subject.is_session for subject in table.subjects])
    eligible = np.unique(table.users[~train & table.liked & (known & is_user)[table.users]])
    if not len(eligible):
        raise ValueError("no user who likes a cold item likes any other")
    tested = np.sort(rng.choice(eligible, max(1, min(max_users, len(eligible) // 2)), replace=False))
    is_tested = np.zeros(user_count, dtype=np.bool_)
    is_tested[tested] = True
    others = np.flatnonzero(~train & table.liked & ~is_tested[table.users])
    return ColdSplit(
        table,
        cold,
        train,
        tested,
        table.matrix(~train & table.liked)[tested],
        _first(table, others, events_per_item, rng),
    )


def offline(
    split: ColdSplit,
    items: Mapping[str, Item],
    *,
    k: int = 50,
    spectral: SpectralConfig | None = None,
    content: ContentConfig | None = None,
) -> ColdStart:
    """Exact figures of the item factors alone. items: by id, those of the table."""
    table = split.table
    train = table.matrix(split.train & table.liked)
    factors = Spectral(spectral or SpectralConfig()).fit(train)
    features = [content_features(items[item_id]) for item_id in table.item_ids]
    fit = Content(content or ContentConfig()).fit(FeatureTable.of(features), factors, train)
    if fit is None:
        raise ValueError("no two items have a feature in common")
    touched = split.first_events
    toucher_matrix = sparse.csr_matrix(
        (np.ones(len(touched), dtype=np.float32), (table.items[touched], table.users[touched])),
        shape=(len(table.item_ids), len(table.subjects)),
    )
    known = train[split.tested]
    user_vectors = factors.fold_in(known)
    recalls = [
        _recall(split, user_vectors, known, _with_cold(factors, fit, features, split.cold, evidence), k)
        for evidence in ({}, _evidence(factors, train, toucher_matrix, split.cold))
    ]
    return ColdStart(len(split.tested), int(split.cold.sum()), recalls[0], recalls[1], fit.metrics)


async def served(
    split: ColdSplit,
    dataset: Dataset,
    tenant_key: TenantKey,
    storage: ServedBy,
    *,
    k: int = 50,
    strategy: Strategy = Strategy.AUTO,
    advance: Advance = lambda _count: None,
) -> ColdStart:
    """The same through the recommender: the cold items are created after training, and derived as the service does.

    tenant_key: an empty tenant. Among the cold ones alone nothing is asked. advance: told of more lists.
    """
    cold_ids = {item_id for item_id, is_cold in zip(split.table.item_ids, split.cold, strict=True) if is_cold}
    for items in _chunks([item for item in dataset.items() if item.item_id not in cold_ids], _ITEMS):
        await storage.items.upsert_many(tenant_key, items)
    await _write(storage, tenant_key, dataset, split.train)
    await storage.train()
    for items in _chunks([item for item in dataset.items() if item.item_id in cold_ids], _ITEMS):
        await storage.items.upsert_many(tenant_key, items)
    await _derive(storage, tenant_key)
    before = await _served_recall(split, tenant_key, storage.recommender, strategy, k, advance)
    first = np.zeros(len(split.train), dtype=np.bool_)
    first[split.first_events] = True
    await _write(storage, tenant_key, dataset, first)
    await _derive(storage, tenant_key)
    after = await _served_recall(split, tenant_key, storage.recommender, strategy, k, advance)
    return ColdStart(len(split.tested), len(cold_ids), before, after, {})


@dataclass(frozen=True, slots=True)
class ServedBy:
    """What the protocol runs through. train: trains and activates a model of the tenant."""

    items: ItemRepository
    events: EventRepository
    item_fold_in: ItemFoldIn
    recommender: Recommender
    train: Callable[[], Awaitable[None]]


def _first(table: Table, entries: Codes, count: int, rng: np.random.Generator) -> Codes:
    """At most `count` random entries of each item, each of another user."""
    shuffled = rng.permutation(entries)
    pairs = np.column_stack([table.items[shuffled], table.users[shuffled]])
    _, unique = np.unique(pairs, axis=0, return_index=True)
    shuffled = shuffled[np.sort(unique)]
    order = np.argsort(table.items[shuffled], kind="stable")
    by_item = shuffled[order]
    items = table.items[by_item]
    starts = np.searchsorted(items, items)
    return np.sort(by_item[np.arange(len(by_item)) - starts < count])


def _with_cold(
    factors: ItemFactors,
    fit: ContentFit,
    features: Sequence[Features],
    cold: Mask,
    evidence: Mapping[int, Evidence],
) -> Float32:
    """Item vectors (items, d), the cold ones derived."""
    vectors = factors.vectors.copy()
    items = np.flatnonzero(cold)
    positions, directions = fit.predicted(FeatureTable.of(features[item] for item in items.tolist()))
    predicted = dict(zip(items[positions].tolist(), directions, strict=True))
    for item in items.tolist():
        derived = derived_vector(predicted.get(item), evidence.get(item), fit.model.mean, fit.model.calibration)
        vectors[item] = derived.vector if derived is not None else 0.0
    return vectors


def _evidence(factors: ItemFactors, train: Interactions, touchers: Interactions, cold: Mask) -> Mapping[int, Evidence]:
    """What the users in `touchers` (items, users) say of the cold items."""
    found = {}
    for item in np.flatnonzero(cold).tolist():
        vectors = factors.fold_in(train[touchers[item].indices])
        lengths = np.linalg.norm(vectors, axis=1)
        placed = vectors[lengths > 0] / lengths[lengths > 0, np.newaxis]
        if len(placed):
            found[item] = Evidence(len(placed), placed.sum(axis=0))
    return found


def _recall(split: ColdSplit, user_vectors: Float32, known: Interactions, vectors: Float32, k: int) -> ColdRecall:
    overall, among = [], []
    warm = np.flatnonzero(~split.cold)
    for start in range(0, len(split.tested), _BLOCK_USERS):
        rows = slice(start, start + _BLOCK_USERS)
        scores = user_vectors[rows] @ vectors.T
        overall.append(top_k(scores, k, known[rows]))
        scores[:, warm] = -np.inf
        among.append(top_k(scores, k, known[rows]))
    return _figures(split, np.concatenate(overall), np.concatenate(among))


def _figures(split: ColdSplit, overall: Codes, among: Codes | None) -> ColdRecall:
    k = overall.shape[1]
    seen = np.diff(split.table.matrix(split.train)[split.tested].indptr)
    chance = np.minimum(1.0, k / np.maximum(1, len(split.cold) - seen)).mean()
    return ColdRecall(
        overall=float(rank_metrics(overall, split.wanted).recall.mean()),
        among_cold=None if among is None else float(rank_metrics(among, split.wanted).recall.mean()),
        chance=float(chance),
        chance_among_cold=min(1.0, k / int(split.cold.sum())),
    )


async def _write(storage: ServedBy, tenant_key: TenantKey, dataset: Dataset, chosen: Mask) -> None:
    events = (event for event, is_chosen in zip(dataset.events(), chosen, strict=True) if is_chosen)
    while chunk := list(islice(events, _EVENTS)):
        await storage.events.write(tenant_key, chunk, timeout_s=_EVENTS_TIMEOUT_S)


async def _derive(storage: ServedBy, tenant_key: TenantKey) -> None:
    while await storage.item_fold_in.refresh(tenant_key):
        continue


async def _served_recall(
    split: ColdSplit, tenant_key: TenantKey, recommender: Recommender, strategy: Strategy, k: int, advance: Advance
) -> ColdRecall:
    codes = {item_id: code for code, item_id in enumerate(split.table.item_ids)}
    lists = np.full((len(split.tested), k), EMPTY, dtype=np.int64)
    for row, user in enumerate(split.tested.tolist()):
        query = RecommendQuery(user_id=UserId(split.table.subjects[user].id), count=k, strategy=strategy)
        found = await recommender.recommend(tenant_key, query)
        ranked = [codes.get(item.item_id, EMPTY) for item in found.items]
        lists[row, : len(ranked)] = ranked
        advance(1)
    return _figures(split, lists, None)


def _chunks(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
