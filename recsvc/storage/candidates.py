"""The one round trip of Recommend: from a question in keys and limits to arrays of candidates with component scores.

With replicas there are two: the primary says what is known of the subject, and a replica that knows it, too, searches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

import numpy as np
from psycopg import sql
from psycopg.rows import DictRow

from recsvc.domain.arrays import Float32, Float64, Mask
from recsvc.domain.filters import Tree
from recsvc.domain.ids import ItemId, ItemKey, ModelKey, TenantKey, UserKey
from recsvc.domain.recommendations import Boost
from recsvc.domain.tenancy import ServingModel
from recsvc.domain.users import UserKind
from recsvc.storage.database import Database
from recsvc.storage.filter_sql import ITEM_COLUMNS, CompiledFilter, compile_filter
from recsvc.storage.replicas import Replicas
from recsvc.storage.statements import compose, load
from recsvc.telemetry.spans import EXPLAIN
from recsvc.telemetry.stages import stage

_SQL = load("candidates")
# Without a model no vector is ever compared; the statements still need some length.
NO_MODEL = ServingModel(ModelKey(0), "", 1, 0, {}, {})
_MIN_EF_SEARCH, _MAX_EF_SEARCH = 40, 1000


Trend = Literal["trend_day", "trend_week"]
"""The counter that trending items are ordered by: its name is the column's."""


@dataclass(frozen=True, slots=True)
class CandidateQuestion:
    """For whom, from which sources how many, and what they must be like. A limit of 0 leaves a source out.

    recency: by source, how much an item of the history counts against the one touched after it; default 1.
    sequence_items: so many distinct times back the history speaks for what comes next.
    """

    kind: UserKind = UserKind.USER
    user_id: str | None = None
    session_item_ids: tuple[ItemId, ...] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    history_items: int = 1000
    neighbors_per_item: int = 300
    score_neighbors: bool = False
    trend: Trend = "trend_day"
    include_seen: bool = False
    excluded: tuple[ItemId, ...] = ()
    given: tuple[ItemId, ...] = ()
    filter: Tree | None = None
    boosts: tuple[Boost, ...] = ()
    category_field: str | None = None
    want_vectors: bool = False
    recency: Mapping[str, float] = field(default_factory=dict)
    sequence_items: int = 10


class Subject(NamedTuple):
    """The state that the candidates were found with. version is 0 for the unknown."""

    user_key: UserKey | None
    version: int
    folded_version: int
    model_key: ModelKey | None
    history_size: int


@dataclass(frozen=True, slots=True)
class Candidates:
    """Candidates by item id, one array entry each; a component that a candidate lacks is NaN.

    components: collaborative (inner product), neighbors and sequence (sums of weights), content, popular and trending
    (log2 of a decayed count), new (seconds), recent (position in the history), repeat (signal). is_new: those whose
    vectors are derived, since training has not seen them. lacks: what of it is not as it should be, for people.
    """

    subject: Subject
    item_keys: Sequence[ItemKey]
    item_ids: Sequence[ItemId]
    components: Mapping[str, Float64]
    boosts: Float64
    event_counts: Float64
    is_new: Mask
    expire_times: Sequence[datetime | None]
    categories: Sequence[Sequence[str]]
    vectors: Float32 | None
    lacks: str = ""

    def __len__(self) -> int:
        """How many there are."""
        return len(self.item_ids)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one item of a history says for a candidate, by source: its neighbour weight, and its part of the product."""

    item_id: ItemId
    parts: Mapping[str, float]


_COMPONENTS = {
    "collaborative": "collaborative",
    "neighbors": "neighbors",
    "sequence": "sequence",
    "content": "content",
    "popular": "popular",
    "trending": "trending",
    "new": "newness",
    "recent": "position",
    "repeat": "signal",
}


class CandidateRepository:
    """Asks PostgreSQL for candidates."""

    def __init__(self, database: Database, replicas: Replicas) -> None:
        self._database = database
        self._replicas = replicas

    async def find(
        self, tenant_key: TenantKey, model: ServingModel | None, question: CandidateQuestion, now: datetime
    ) -> Candidates:
        """Candidates of all asked sources, in the order of their item ids, from one round trip."""
        serving = model or NO_MODEL
        eligible = eligible_items(question.filter, now)
        boost = _boost_expression(question.boosts, now)
        category = category_expression(question.category_field)
        query = compose(
            _SQL["candidates"],
            eligible=eligible.condition,
            dimension=sql.Literal(serving.dimension),
            trend=sql.Identifier(question.trend),
            boost=boost.condition,
            category=category.condition,
        )
        limits = question.limits
        params: dict[str, object] = {
            "tenant": tenant_key,
            "kind": question.kind.value,
            "user_id": question.user_id,
            "session_items": list(question.session_item_ids),
            **_recencies(question.recency),
            "signal_power": serving.signal_power,
            "disliked_strength": serving.disliked_strength,
            "sequence_items": question.sequence_items,
            "history": question.history_items,
            "neighbors_per_item": question.neighbors_per_item,
            "dimension": serving.dimension,
            "shard": serving.shard,
            "model": serving.model_key,
            "include_seen": question.include_seen,
            "excluded": list(question.excluded),
            "given": list(question.given),
            "score_neighbors": question.score_neighbors,
            "collaborative_limit": limits.get("collaborative", 0),
            "neighbors_limit": limits.get("neighbors", 0),
            # Nearly all items may be shown, so twice the limit leaves enough; a filter may leave one in a thousand.
            "neighbors_pool": None if question.filter else 2 * limits.get("neighbors", 0),
            "sequence_limit": limits.get("sequence", 0),
            "sequence_pool": None if question.filter else 2 * limits.get("sequence", 0),
            "content_limit": limits.get("content", 0),
            "popular_limit": limits.get("popular", 0),
            "trending_limit": limits.get("trending", 0),
            "new_limit": limits.get("new", 0),
            "history_limit": limits.get("history", 0),
            "want_vectors": question.want_vectors,
            **eligible.params,
            **boost.params,
            **category.params,
        }
        # A list of candidates shorter than the limit would be searched again and again.
        ef_search = min(_MAX_EF_SEARCH, max(_MIN_EF_SEARCH, limits.get("collaborative", 0)))
        tune = compose(_SQL["tune_search"], ef_search=sql.Literal(str(ef_search)))
        rows = await self._searched(tenant_key, model, query, params, tune)
        return _candidates(rows, question.want_vectors, serving.dimension)

    async def _searched(
        self,
        tenant_key: TenantKey,
        model: ServingModel | None,
        query: sql.Composed,
        params: Mapping[str, object],
        tune: sql.Composed,
    ) -> list[DictRow]:
        """From a replica only if the primary would have found it with the same catalogue, model and state."""
        if not self._replicas.fresh:
            return await self._database.fetch_all(tenant_key, query, params, setting=tune)
        asked = {name: params[name] for name in ("tenant", "kind", "user_id")}
        now = await self._database.fetch_one(tenant_key, _SQL["subject_now"], asked)
        if now is None or _lags(now, model.model_key if model else None):
            # It is folded in next, and then no replica has it yet.
            return await self._database.fetch_all(tenant_key, query, params, setting=tune)
        return await self._replicas.fetch_all(
            tenant_key,
            query,
            params,
            version=now["tenant_version"],
            setting=tune,
            suffices=lambda rows: _state(_subject_row(rows)) == _state(now),
        )

    @stage(EXPLAIN)
    async def explanations(
        self,
        tenant_key: TenantKey,
        model: ServingModel,
        user_key: UserKey | None,
        items: Sequence[ItemKey],
        question: CandidateQuestion,
    ) -> Mapping[ItemKey, Sequence[Evidence]]:
        """For each of the items: what the items of the history or session of a question say for it."""
        rows = await self._database.fetch_all(
            tenant_key,
            _SQL["explanations"],
            {
                "tenant": tenant_key,
                "model": model.model_key,
                "shard": model.shard,
                "user": user_key,
                "session_items": list(question.session_item_ids),
                "items": list(items),
                "history": question.history_items,
                **_recencies(question.recency),
                "signal_power": model.signal_power,
                "disliked_strength": model.disliked_strength,
                "sequence_items": question.sequence_items,
            },
        )
        found: dict[ItemKey, list[Evidence]] = {}
        for row in rows:
            parts = {name: row[name] for name in ("neighbors", "sequence", "collaborative")}
            found.setdefault(ItemKey(row["item_key"]), []).append(Evidence(ItemId(row["because"]), parts))
        return found

    @stage(EXPLAIN)
    async def matching_labels(
        self,
        tenant_key: TenantKey,
        user_key: UserKey | None,
        session_item_ids: Sequence[ItemId],
        items: Sequence[ItemKey],
        history_items: int,
    ) -> Mapping[ItemKey, Sequence[str]]:
        """For each of the items: categories and tags that it shares with the history or session, weightiest first."""
        rows = await self._database.fetch_all(
            tenant_key,
            _SQL["matching_labels"],
            {
                "tenant": tenant_key,
                "user": user_key,
                "session_items": list(session_item_ids),
                "items": list(items),
                "history": history_items,
            },
        )
        return {ItemKey(row["item_key"]): row["labels"] for row in rows}


def _recencies(recency: Mapping[str, float]) -> dict[str, object]:
    return {f"{name}_recency": recency.get(name, 1.0) for name in ("collaborative", "neighbors", "sequence")}


def eligible_items(tree: Tree | None, now: datetime) -> CompiledFilter:
    """What may be in a list at all: available, shown, published, not expired, and matching the filter."""
    matching = compile_filter(tree, ITEM_COLUMNS, now, "filter")
    condition = sql.SQL(
        "i.available AND NOT i.hidden AND (i.publish_time IS NULL OR i.publish_time <= %(now)s)"
        " AND (i.expire_time IS NULL OR i.expire_time > %(now)s) AND {}"
    ).format(matching.condition)
    return CompiledFilter(condition, {"now": now, **matching.params})


def _boost_expression(boosts: Sequence[Boost], now: datetime) -> CompiledFilter:
    expression: sql.Composable = sql.SQL("1.0")
    params: dict[str, object] = {}
    for index, boost in enumerate(boosts):
        condition = compile_filter(boost.filter, ITEM_COLUMNS, now, f"boost_{index}")
        factor = f"boost_{index}_factor"
        expression = sql.SQL("{} * (CASE WHEN {} THEN {}::float8 ELSE 1.0 END)").format(
            expression, condition.condition, sql.Placeholder(factor)
        )
        params |= {**condition.params, factor: boost.factor}
    return CompiledFilter(sql.SQL("({})::float8").format(expression), params)


def category_expression(category_field: str | None) -> CompiledFilter:
    """What counts as an item's categories, as text[]; NULL where nobody asks."""
    match category_field:
        case None:
            return CompiledFilter(sql.SQL("NULL::text[]"))
        case "categories" | "tags":
            return CompiledFilter(sql.SQL("i.{}").format(sql.Identifier(category_field)))
        case "item_type":
            return CompiledFilter(sql.SQL("ARRAY[i.item_type]"))
        case _:
            key = category_field.removeprefix("attributes.")
            return CompiledFilter(
                sql.SQL("array_remove(ARRAY[i.attributes ->> %(category_key)s], NULL)"), {"category_key": key}
            )


def _subject_row(rows: Sequence[DictRow]) -> DictRow:
    return next(row for row in rows if row["item_key"] is None)


def _state(subject: DictRow) -> tuple[object, ...]:
    return tuple(subject[name] for name in ("user_key", "version", "folded_version", "model_key"))


def _lags(subject: DictRow, model_key: ModelKey | None) -> bool:
    version = subject["version"] or 0
    return version > 0 and ((subject["folded_version"] or 0) < version or subject["model_key"] != model_key)


def _candidates(rows: Sequence[DictRow], want_vectors: bool, dimension: int) -> Candidates:
    state = _subject_row(rows)
    found = [row for row in rows if row["item_key"] is not None]
    vectors = None
    if want_vectors:
        vectors = np.zeros((len(found), dimension), dtype=np.float32)
        for position, row in enumerate(found):
            if row["vector"] is not None:
                vectors[position] = row["vector"].to_numpy()
    return Candidates(
        subject=Subject(
            user_key=UserKey(state["user_key"]) if state["user_key"] is not None else None,
            version=state["version"] or 0,
            folded_version=state["folded_version"] or 0,
            model_key=ModelKey(state["model_key"]) if state["model_key"] is not None else None,
            history_size=state["history_size"],
        ),
        item_keys=[ItemKey(row["item_key"]) for row in found],
        item_ids=[ItemId(row["item_id"]) for row in found],
        components={name: _column(found, column) for name, column in _COMPONENTS.items()},
        boosts=_column(found, "boost"),
        event_counts=_column(found, "event_count"),
        is_new=np.array([row["is_derived"] for row in found], dtype=np.bool_),
        expire_times=[row["expire_time"] for row in found],
        categories=[row["category"] or () for row in found],
        vectors=vectors,
    )


def _column(rows: Sequence[DictRow], name: str) -> Float64:
    values: list[Any] = [row[name] for row in rows]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
