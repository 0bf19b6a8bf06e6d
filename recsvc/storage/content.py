"""Content in storage: what a model knows of features, and the vectors that are derived from it between two trainings.

An item is due when it was created or changed, when it has new events, or when another model serves; the mark of that
is written by the same transaction. `deriving` hands out what is due and takes the vectors in, in one transaction, so
that a crash leaves the marks where they were.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pgvector import Vector
from psycopg.types.json import Jsonb

from recsvc.domain.catalog import Item
from recsvc.domain.content_vectors import Calibration, ContentModel, DerivedVector, Evidence, FeatureVectors
from recsvc.domain.ids import ItemId, ItemKey, ModelKey, TenantKey
from recsvc.storage import binary_copy
from recsvc.storage.connection import Connection
from recsvc.storage.database import Database, execute
from recsvc.storage.retries import despite_deadlocks
from recsvc.storage.statements import load
from recsvc.storage.tenants import raise_version

_SQL = load("content")
_EXPORT_TIMEOUT_S = 3600.0
# A switch of models looks at the whole catalogue.
_DERIVE_TIMEOUT_S = 600.0
_CHUNK = 5000
_BLOCK_ROWS = 1024
# Newest first. More users than these change a direction little; the events of a user beyond these are old.
_EVIDENCE_EVENTS, _EVIDENCE_USERS, _USER_EVENTS = 500, 50, 100
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class DescribedItem:
    """An item with its key and the number of its state; of `item` only what describes it is there."""

    item_key: ItemKey
    etag: int
    item: Item


@dataclass(frozen=True, slots=True)
class PublishedContent:
    """What publication stores besides vectors: the content model, and the items whose vectors it made."""

    model: ContentModel
    derived_keys: NDArray[np.int64]
    derived_etags: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DueItem:
    """An item whose vector is due."""

    described: DescribedItem
    event_count: int


@dataclass(frozen=True, slots=True)
class Derived:
    """What became of a due item; no vector when there is nothing to go by."""

    due: DueItem
    vector: DerivedVector | None


async def write_content(
    connection: Connection, tenant_key: TenantKey, model_key: ModelKey, content: PublishedContent
) -> None:
    """Store a model's content, in the transaction that publishes the model. It goes when the model is deleted."""
    model = content.model
    await execute(
        connection,
        _SQL["insert_content_model"],
        {
            "tenant": tenant_key,
            "model": model_key,
            "mean": Vector(model.mean),
            "calibration": Jsonb(asdict(model.calibration)),
        },
    )
    for statement, rows in (
        ("copy_features", _feature_rows(tenant_key, model_key, model)),
        ("copy_derived", _derived_rows(tenant_key, model_key, content)),
    ):
        async with connection.cursor() as cursor, cursor.copy(_SQL[statement].rstrip(";").encode()) as copy:
            await copy.write(binary_copy.HEADER)
            for block in rows:
                await copy.write(block)
            await copy.write(binary_copy.TRAILER)


class Deriving:
    """One turn at a tenant's due items, inside a transaction. calibration: None when the model knows no content."""

    def __init__(self, connection: Connection, tenant_key: TenantKey, serving: Mapping[str, Any]) -> None:
        self._connection = connection
        self._tenant_key = tenant_key
        self._model: dict[str, object] = {
            "tenant": tenant_key,
            "model": serving["model_key"],
            "shard": serving["shard"],
            "dimension": serving["dimension"],
        }
        self._marks: list[int] = []
        self._marked: set[int] = set()
        self._known: list[int] = []
        self.calibration = Calibration(**serving["calibration"]) if serving["calibration"] else None
        self._mean = serving["mean"].to_numpy().astype(np.float32) if serving["mean"] is not None else None
        self.outdates_lists = False
        """Whether lists that were cached before `store` lack items that have a vector since."""

        self.is_last = False
        """Whether there were no more marks than the turn took in hand."""

        self.handled = 0
        """How many marks and items the turn took in hand."""

    async def due(self, limit: int) -> list[DueItem]:
        """At most about `limit` due items that training does not know."""
        newest = limit // 4
        marks = await self._fetch("due_marks", oldest=limit - newest, newest=newest)
        whole = [row["mark_key"] for row in marks if row["item_key"] is None]
        if whole:
            await execute(self._connection, _SQL["allow_scans"])
            await execute(self._connection, _SQL["expand_catalogue_mark"], {**self._model, "marks": whole})
            await execute(self._connection, _SQL["prefer_indexes"])
        self.is_last = len(marks) < limit and not whole
        self._marks = [row["mark_key"] for row in marks if row["item_key"] is not None]
        touched = await self._fetch("touched_items", limit=limit)
        self._marked = {row["item_key"] for row in marks if row["item_key"] is not None}
        keys = self._marked | {row["item_key"] for row in touched}
        rows = await self._fetch("due_items", items=sorted(keys)) if keys else []
        self.handled = len(rows) + len(whole)
        self._known = [row["item_key"] for row in rows if row["known"]]
        return [DueItem(_described(row), row["event_count"]) for row in rows if not row["known"]]

    async def features(self, names: Sequence[str]) -> FeatureVectors:
        """What the model knows of these features. Only when there is a calibration."""
        assert self._mean is not None  # noqa: S101  (stored together with the calibration)
        rows = await self._fetch("known_features", features=list(names)) if names else []
        return FeatureVectors(
            {row["feature"]: row["idf"] for row in rows},
            {row["feature"]: row["vector"].to_numpy().astype(np.float32) for row in rows},
            self._mean,
        )

    async def evidence(self, item_keys: Sequence[ItemKey]) -> Mapping[ItemKey, Evidence]:
        """The users who like these items, where there are any that the model can place."""
        if not item_keys:
            return {}
        rows = await self._fetch(
            "item_evidence",
            items=list(item_keys),
            events=_EVIDENCE_EVENTS,
            users=_EVIDENCE_USERS,
            history=_USER_EVENTS,
        )
        return {
            ItemKey(row["item_key"]): Evidence(row["users"], row["direction"].to_numpy().astype(np.float32))
            for row in rows
        }

    async def store(self, derived: Sequence[Derived]) -> None:
        """Put vectors in place and strike the items off the list. Last in the transaction."""
        await self._store_vectors([(one.due.described.item_key, one.vector) for one in derived])
        items = [one.due.described.item_key for one in derived]
        counts = [one.due.event_count for one in derived]
        if derived:
            etags = [one.due.described.etag for one in derived]
            await execute(
                self._connection,
                _SQL["note_derived"],
                {**self._model, "items": items, "etags": etags, "counts": counts},
            )
        await self._strike_off(items, counts)
        # Events alone change too little.
        self.outdates_lists = not self._marked.isdisjoint(items)

    async def outdate_lists(self) -> int:
        """Returns the version that the tenant has from the end of the transaction on."""
        return await raise_version(self._connection, self._tenant_key)

    async def give_up(self, due: Sequence[DueItem]) -> None:
        """Strike items off the list for which this model can do nothing."""
        await self._strike_off([one.described.item_key for one in due], [None] * len(due))

    async def _store_vectors(self, vectors: Sequence[tuple[ItemKey, DerivedVector | None]]) -> None:
        found = [(item, vector) for item, vector in vectors if vector is not None]
        if found:
            await execute(
                self._connection,
                _SQL["store_vectors"],
                {
                    **self._model,
                    "items": [item for item, _ in found],
                    "scales": [vector.fold_in_scale for _, vector in found],
                    "vectors": [Vector(vector.vector) for _, vector in found],
                },
            )
        nothing = [item for item, vector in vectors if vector is None]
        if nothing:
            await execute(self._connection, _SQL["drop_vectors"], {**self._model, "items": nothing})

    async def _strike_off(self, items: Sequence[ItemKey], counts: Sequence[int | None]) -> None:
        done = [*items, *self._known]
        if done:
            params = {**self._model, "items": done, "counts": [*counts, *([None] * len(self._known))]}
            await execute(self._connection, _SQL["note_counts"], params)
        if self._marks:
            await execute(self._connection, _SQL["remove_marks"], {**self._model, "marks": self._marks, "items": done})

    async def _fetch(self, statement: str, **params: object) -> list[dict[str, Any]]:
        cursor = await execute(self._connection, _SQL[statement], {**self._model, **params})
        rows: list[dict[str, Any]] = await cursor.fetchall()
        return rows


class ContentRepository:
    """Reads descriptions for training, and hands out what is due."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def described(self, tenant_key: TenantKey) -> AsyncIterator[Sequence[DescribedItem]]:
        """All items of a tenant as of one snapshot, in parts."""
        async with (
            self._database.tenant_transaction(tenant_key, timeout_s=_EXPORT_TIMEOUT_S) as connection,
            connection.cursor("described_items") as cursor,
        ):
            await cursor.execute(_SQL["described_items"].encode(), {"tenant": tenant_key})
            while rows := await cursor.fetchmany(_CHUNK):
                yield [_described(row) for row in rows]

    async def tenants_with_due_items(self) -> Sequence[TenantKey]:
        """Tenants for which any item is due."""
        async with self._database.service_transaction() as connection:
            await execute(connection, _SQL["prefer_indexes"])
            cursor = await execute(connection, _SQL["tenants_with_due_items"])
            return [TenantKey(row["tenant_key"]) for row in await cursor.fetchall()]

    async def despite_deadlocks(self, derive: Callable[[], Awaitable[_Result]]) -> _Result:
        """The result of work that takes a turn by `deriving`, done again when its transaction ended in a deadlock."""
        return await despite_deadlocks(self._database, "derive_vectors", derive)

    @asynccontextmanager
    async def deriving(self, tenant_key: TenantKey) -> AsyncIterator[Deriving | None]:
        """A turn at a tenant's due items; None when another process has it, or no model serves."""
        async with self._database.tenant_transaction(tenant_key, timeout_s=_DERIVE_TIMEOUT_S) as connection:
            params = {"tenant": tenant_key}
            await execute(connection, _SQL["prefer_indexes"])
            turn = await (await execute(connection, _SQL["take_turn"], params)).fetchone()
            if not turn["taken"]:
                yield None
                return
            serving = await (await execute(connection, _SQL["serving_content"], params)).fetchone()
            if serving is None:
                # Whichever model comes to serve, the switch to it marks the whole catalogue.
                await execute(connection, _SQL["forget_marks"], params)
                await execute(connection, _SQL["forget_counts"], params)
                yield None
                return
            yield Deriving(connection, tenant_key, serving)


def _described(row: Mapping[str, Any]) -> DescribedItem:
    return DescribedItem(
        ItemKey(row["item_key"]),
        row["etag"],
        Item(
            item_id=ItemId(row["item_id"]),
            item_type=row["item_type"],
            title=row["title"],
            description=row["description"],
            categories=tuple(row["categories"]),
            tags=tuple(row["tags"]),
            attributes=row["attributes"],
        ),
    )


def _feature_rows(tenant_key: int, model_key: int, model: ContentModel) -> Iterator[bytes]:
    dimension = len(model.mean)
    halves = model.vectors.astype(">f2")
    parts: list[bytes] = []
    for position, name in enumerate(model.names):
        text = name.encode()
        parts.append(
            struct.pack(">hiqiqi", 5, 8, tenant_key, 8, model_key, len(text))
            + text
            + struct.pack(">ifihh", 4, float(model.idf[position]), 4 + 2 * dimension, dimension, 0)
            + halves[position].tobytes()
        )
        if len(parts) >= _BLOCK_ROWS:
            yield b"".join(parts)
            parts.clear()
    yield b"".join(parts)


def _derived_rows(tenant_key: int, model_key: int, content: PublishedContent) -> Iterator[bytes]:
    columns = ("tenant", "model", "item", "etag", "events")
    cells = [entry for name in columns for entry in ((f"{name}_length", ">i4"), (name, ">i8"))]
    rows = np.zeros(len(content.derived_keys), dtype=np.dtype([("fields", ">i2"), *cells]))
    rows["fields"] = len(columns)
    for name, value in zip(
        columns, (tenant_key, model_key, content.derived_keys, content.derived_etags, 0), strict=True
    ):
        rows[f"{name}_length"] = 8
        rows[name] = value
    for start in range(0, len(rows), _CHUNK):
        yield rows[start : start + _CHUNK].tobytes()
