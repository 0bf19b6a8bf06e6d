"""Items: one way to write them, whether one, a thousand or a million; and the ways to read them.

What needs the tenant to be judged (attribute schema, length of embeddings, etags) is checked here, item by item, before
anything is written, and texts are cleaned as the tenant wants them. Every write raises the tenant's version and
announces it, so that no cached list outlives it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from psycopg import Rollback, sql
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from recsvc.domain.catalog import AttributeRule, AttributeType, Item, check_attributes
from recsvc.domain.cleaning import clean_item
from recsvc.domain.consistency import STRONG, Consistency
from recsvc.domain.errors import (
    AlreadyExists,
    DomainError,
    DuplicateInBatch,
    EmbeddingDimensionMismatch,
    InvalidField,
    ItemNotFound,
    StaleEtag,
)
from recsvc.domain.filters import Tree
from recsvc.domain.ids import ItemId, TenantKey, UserKey
from recsvc.domain.markup import MarkupPolicies
from recsvc.domain.order_by import Order
from recsvc.domain.paging import PageValue
from recsvc.storage.changes import Changes
from recsvc.storage.connection import Connection
from recsvc.storage.database import Database, execute
from recsvc.storage.event_references import await_event_writers
from recsvc.storage.filter_sql import ITEM_COLUMNS, Columns, compile_filter
from recsvc.storage.listing import PageQuestion, fetch_page
from recsvc.storage.replicas import Replicas
from recsvc.storage.retries import despite_deadlocks
from recsvc.storage.statements import compose, load
from recsvc.storage.tenants import raise_version

_SQL = load("items")
_UPSERT_JSON = compose(_SQL["upsert_items"], source=sql.SQL(_SQL["incoming_json"].rstrip(";")))
_UPSERT_COPIED = compose(_SQL["upsert_items"], source=sql.SQL("incoming_items n"))
# Below this many items the temporary table costs more than it saves.
_COPY_FROM = 1001
_COPY_TYPES = (
    "text", "text", "text", "text", "text[]", "text[]", "jsonb", "text", "bool", "bool", "timestamptz", "timestamptz",
    "int8",
)  # fmt: skip
_BULK_TIMEOUT_S = 600.0
_EXPORT_TIMEOUT_S = 3600.0
_EXPORT_CHUNK = 1000
# So many are judged before others have their turn: the most hostile of them take milliseconds each.
_JUDGED_AT_ONCE = 50
# A page token holds the order values of a row and must stay short, whatever the title.
_ORDERED_TITLE = 200
_ORDER_COLUMNS: Columns = {**ITEM_COLUMNS, "title": f"left(i.title, {_ORDERED_TITLE})"}
# The sequence begins at 1.
_NO_ETAG = 0


@dataclass(frozen=True, slots=True)
class Written:
    """One item as it is stored now."""

    item: Item
    created: bool


@dataclass(frozen=True, slots=True)
class ItemActivity:
    """Live counters of one item."""

    item_id: ItemId
    viewers_now: int
    user_count: int
    event_counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ItemExport:
    """A part of an export."""

    snapshot_time: datetime
    items: Sequence[Item]
    deleted_item_ids: Sequence[ItemId] = ()


WriteOutcome = Written | DomainError


class ItemRepository:
    """Writes and reads the items of a tenant."""

    def __init__(
        self,
        database: Database,
        replicas: Replicas,
        changes: Changes,
        *,
        longest_transaction_s: float = _BULK_TIMEOUT_S,
    ) -> None:
        """longest_transaction_s: no write takes longer; an incremental export must look back so far."""
        self._database = database
        self._replicas = replicas
        self._changes = changes
        self._longest_transaction_s = longest_transaction_s

    async def create(self, tenant_key: TenantKey, item: Item, path: str = "item") -> Item:
        """Raises AlreadyExists, and what `upsert_many` refuses."""

        def must_be_new(present: Item | None) -> Item:
            if present is not None:
                raise AlreadyExists("item", item.item_id)
            return replace(item, etag="")

        return await self.change(tenant_key, item.item_id, must_be_new, path)

    async def change(
        self, tenant_key: TenantKey, item_id: ItemId, change: Callable[[Item | None], Item], path: str = "item"
    ) -> Item:
        """Apply a change to the item as it is now (None when there is none), atomically.

        The change returns the item to store; the etag that it carries must be the present one, or empty.
        path: where the item stands in the request, for errors.
        """

        async def write() -> tuple[Item, int] | None:
            async with self._database.tenant_transaction(tenant_key) as connection:
                cursor = await execute(connection, _SQL["lock_item"], {"tenant": tenant_key, "item_id": item_id})
                row = await cursor.fetchone()
                wanted = change(_item(row) if row else None)
                (outcome,) = await self._write(connection, tenant_key, [wanted], lambda _: path)
                if isinstance(outcome, DomainError):
                    raise outcome
                if row is None and not outcome.created:
                    # Another has created it meanwhile; the change must begin from what is there now.
                    raise Rollback
                return outcome.item, await raise_version(connection, tenant_key)
            return None

        while (written := await despite_deadlocks(self._database, "write_item", write)) is None:
            continue
        item, version = written
        await self._changes.tenant_changed(tenant_key, version)
        return item

    async def upsert_many(
        self, tenant_key: TenantKey, items: Sequence[Item], path: Callable[[int], str] = "items[{}]".format
    ) -> Sequence[WriteOutcome]:
        """Create or replace items as a whole, in one transaction; by binary COPY when there are many.

        path: where the item of a position stands in the request, for errors.

        Returns one outcome per item, in order: Written, or the error that refused it (StaleEtag, DuplicateInBatch,
        AttributeNotAllowed, EmbeddingDimensionMismatch, InvalidField). A refused item never fails its neighbours.
        """

        async def write() -> tuple[Sequence[WriteOutcome], int]:
            async with self._database.tenant_transaction(tenant_key, timeout_s=_BULK_TIMEOUT_S) as connection:
                if any(item.etag for item in items):
                    params = {"tenant": tenant_key, "item_ids": [item.item_id for item in items]}
                    await execute(connection, _SQL["lock_items"], params)
                outcomes = await self._write(connection, tenant_key, items, path)
                return outcomes, await raise_version(connection, tenant_key)

        outcomes, version = await despite_deadlocks(self._database, "write_items", write)
        await self._changes.tenant_changed(tenant_key, version)
        return outcomes

    async def get(self, tenant_key: TenantKey, item_id: ItemId, consistency: Consistency = STRONG) -> Item:
        """Raises ItemNotFound."""
        found = await self.get_many(tenant_key, [item_id], consistency)
        if item_id not in found:
            raise ItemNotFound(item_id)
        return found[item_id]

    async def get_many(
        self, tenant_key: TenantKey, item_ids: Sequence[ItemId], consistency: Consistency = STRONG
    ) -> Mapping[ItemId, Item]:
        """Those of the items that exist, by id."""
        params = {"tenant": tenant_key, "item_ids": list(item_ids)}
        rows = await self._replicas.read_as(
            consistency, lambda database: database.fetch_all(tenant_key, _SQL["get_items"], params)
        )
        return {ItemId(row["item_id"]): _item(row) for row in rows}

    async def details(self, tenant_key: TenantKey, item_ids: Sequence[ItemId], version: int) -> Mapping[ItemId, Item]:
        """The items of a list that goes by a version of the tenant, by id; those that are gone are left out."""
        params = {"tenant": tenant_key, "item_ids": list(item_ids)}
        rows = await self._replicas.fetch_all(
            tenant_key,
            _SQL["get_items"],
            params,
            version=version,
            # The list may know of an item that came after that version.
            suffices=lambda rows: len(rows) == len(set(item_ids)),
        )
        return {ItemId(row["item_id"]): _item(row) for row in rows}

    async def any_of(self, tenant_key: TenantKey) -> bool:
        """Whether the tenant has any item."""
        row = await self._database.fetch_one(tenant_key, _SQL["any_items"], {"tenant": tenant_key})
        return bool(row and row["found"])

    async def list(
        self, tenant_key: TenantKey, question: PageQuestion, consistency: Consistency = STRONG
    ) -> list[Item]:
        """A page of items that match."""
        rows = await self._replicas.read_as(
            consistency,
            lambda database: fetch_page(
                database, tenant_key, _SQL["list_items"], ITEM_COLUMNS, question, order_columns=_ORDER_COLUMNS
            ),
        )
        return [_item(row) for row in rows]

    async def delete(self, tenant_key: TenantKey, item_ids: Sequence[ItemId], etag: str = "") -> frozenset[ItemId]:
        """Delete items with their events, vectors and counters; returns the ids of those that were there.

        etag: delete only while the item has this etag (for a single item).
        """
        try:
            expected = _etag_number(etag, item_ids[0]) if etag else None
        except StaleEtag:
            expected = _NO_ETAG
        params = {"tenant": tenant_key, "item_ids": list(item_ids), "etag": expected}

        async def delete() -> tuple[frozenset[ItemId], dict[UserKey, int], int]:
            async with self._database.tenant_transaction(tenant_key, timeout_s=_BULK_TIMEOUT_S) as connection:
                cursor = await execute(connection, _SQL["delete_items"], params)
                gone = await cursor.fetchone()
                dirty: dict[UserKey, int] = {}
                if gone["item_ids"]:
                    # Those who write events wait from here on, so nearly all of the work comes before.
                    await await_event_writers(connection)
                    cursor = await execute(connection, _SQL["delete_late_events"], {"tenant": tenant_key, **gone})
                    dirty = {row["user_key"]: row["version"] for row in await cursor.fetchall()}
                return frozenset(gone["item_ids"] or ()), dirty, await raise_version(connection, tenant_key)

        gone, dirty, version = await despite_deadlocks(self._database, "delete_items", delete)
        await self._changes.tenant_changed(tenant_key, version)
        if dirty:
            await self._changes.users_changed(tenant_key, dirty)
        return gone

    async def export(
        self, tenant_key: TenantKey, tree: Tree | None, modified_after: datetime | None, now: datetime
    ) -> AsyncIterator[ItemExport]:
        """All items that match, or what changed since a moment, from one consistent snapshot."""
        condition = compile_filter(tree, ITEM_COLUMNS, now)
        query = compose(_SQL["export_items"], filter=condition.condition)
        params = {"tenant": tenant_key, "modified_after": modified_after, **condition.params}
        async with self._replicas.export_transaction(tenant_key, timeout_s=_EXPORT_TIMEOUT_S) as connection:
            snapshot_time = await self._database.snapshot_time(connection, self._longest_transaction_s)
            deleted: list[ItemId] = []
            if modified_after is not None:
                cursor = await execute(connection, _SQL["export_deleted"], params)
                deleted = [ItemId(row["item_id"]) for row in await cursor.fetchall()]
            # The first part comes even when it is empty: it carries the moment of the snapshot.
            yield ItemExport(snapshot_time, [], deleted)
            async with connection.cursor("export_items") as rows:
                await rows.execute(query, params)
                while chunk := await rows.fetchmany(_EXPORT_CHUNK):
                    yield ItemExport(snapshot_time, [_item(row) for row in chunk])

    async def activity(
        self,
        tenant_key: TenantKey,
        item_ids: Sequence[ItemId],
        window_s: float,
        presence_s: float,
        consistency: Consistency = STRONG,
    ) -> Mapping[ItemId, ItemActivity]:
        """Live counters of those of the items that exist."""
        params = {"tenant": tenant_key, "item_ids": list(item_ids), "window_s": window_s, "presence_s": presence_s}
        rows = await self._replicas.read_as(
            consistency, lambda database: database.fetch_all(tenant_key, _SQL["item_activity"], params)
        )
        by_item: dict[ItemId, list[DictRow]] = {}
        for row in rows:
            by_item.setdefault(ItemId(row["item_id"]), []).append(row)
        return {
            item_id: ItemActivity(
                item_id=item_id,
                viewers_now=len({key for row in of_item for key in row["present_keys"] or ()}),
                user_count=len({key for row in of_item for key in row["user_keys"] or ()}),
                event_counts={row["event_type"]: row["events"] for row in of_item if row["events"]},
            )
            for item_id, of_item in by_item.items()
        }

    async def _write(
        self, connection: Connection, tenant_key: TenantKey, items: Sequence[Item], path: Callable[[int], str]
    ) -> Sequence[WriteOutcome]:
        """Write the good ones of some items; the outcomes of all, in order."""
        judged = await _judged(connection, tenant_key, items, path)
        good = [item for item in judged if isinstance(item, Item)]
        if len(good) < _COPY_FROM:
            params = {"tenant": tenant_key, "items": Jsonb([_document(item) for item in good], dumps=_dumps)}
            cursor = await execute(connection, _UPSERT_JSON, params)
        else:
            await execute(connection, _SQL["create_incoming"])
            async with connection.cursor() as copying, copying.copy(_SQL["copy_incoming"].encode()) as copy:
                copy.set_types(_COPY_TYPES)
                for item in good:
                    row = _document(item)
                    row["attributes"] = Jsonb(row["attributes"])
                    await copy.write_row([*row.values()])
            cursor = await execute(connection, _UPSERT_COPIED, {"tenant": tenant_key})
        stored = {row["item_id"]: row for row in await cursor.fetchall()}
        return [_written(item, stored.get(item.item_id)) if isinstance(item, Item) else item for item in judged]


def order_values(item: Item, orders: Sequence[Order]) -> list[PageValue]:
    """What `ItemRepository.list` orders an item by: titles by their beginning."""
    return [item.title[:_ORDERED_TITLE] if order.field == "title" else getattr(item, order.field) for order in orders]


async def _judged(
    connection: Connection, tenant_key: TenantKey, items: Sequence[Item], path: Callable[[int], str]
) -> list[Item | DomainError]:
    """Each item as it is to be stored, or what is wrong with it."""
    cursor = await execute(connection, _SQL["write_context"], {"tenant": tenant_key})
    context = await cursor.fetchone()
    schema = [
        AttributeRule(key, AttributeType(kind), required, filterable)
        for key, kind, required, filterable in context["attribute_schema"]
    ]
    markup = MarkupPolicies.of(context["text_settings"])
    dimension: int | None = context["embedding_dimension"]
    judged: list[Item | DomainError] = []
    seen: set[ItemId] = set()
    for position, sent in enumerate(items):
        if position % _JUDGED_AT_ONCE == _JUDGED_AT_ONCE - 1:
            await asyncio.sleep(0)
        try:
            item = clean_item(sent, markup, path(position))
            _check(item, schema, path(position))
            if item.embedding is not None:
                # Only an item that is right in everything else may be the one that fixes the length.
                if dimension is None and item.item_id not in seen:
                    dimension = await _fix_dimension(connection, tenant_key, len(item.embedding))
                _check_dimension(item.embedding, dimension, path(position))
            if item.item_id in seen:
                raise DuplicateInBatch(f"{path(position)}.item_id", f"{item.item_id!r} stands twice in the batch")
        except DomainError as error:
            judged.append(error)
        else:
            judged.append(item)
            seen.add(item.item_id)
    return judged


async def _fix_dimension(connection: Connection, tenant_key: TenantKey, dimension: int) -> int:
    """The length of the tenant's embeddings from now on: this one, unless another was first."""
    params = {"tenant": tenant_key, "dimension": dimension}
    cursor = await execute(connection, _SQL["fix_embedding_dimension"], params)
    return int((await cursor.fetchone())["embedding_dimension"])


def _check_dimension(embedding: Sequence[float], dimension: int | None, path: str) -> None:
    if dimension is not None and len(embedding) != dimension:
        raise EmbeddingDimensionMismatch(
            f"{path}.embedding",
            f"must have {dimension} numbers, as the tenant's first embedding; has {len(embedding)}",
        )


def _check(item: Item, schema: Sequence[AttributeRule], path: str) -> None:
    check_attributes(item.attributes, schema, f"{path}.attributes")
    if item.publish_time and item.expire_time and item.expire_time <= item.publish_time:
        raise InvalidField(f"{path}.expire_time", "must be after publish_time")
    if item.etag:
        _etag_number(item.etag, item.item_id)


def _written(item: Item, row: Mapping[str, Any] | None) -> WriteOutcome:
    if row is None:
        return StaleEtag(item.item_id)
    stored = replace(item, etag=_etag_text(row["etag"]), create_time=row["create_time"], update_time=row["update_time"])
    return Written(stored, row["created"])


def _document(item: Item) -> dict[str, Any]:
    """The item in the order of the columns of incoming_items."""
    return {
        "item_id": item.item_id,
        "item_type": item.item_type,
        "title": item.title,
        "description": item.description,
        "categories": list(item.categories),
        "tags": list(item.tags),
        "attributes": dict(item.attributes),
        "embedding": None if item.embedding is None else "[" + ",".join(map(repr, item.embedding)) + "]",
        "available": item.available,
        "hidden": item.hidden,
        "publish_time": item.publish_time,
        "expire_time": item.expire_time,
        "expected_etag": _etag_number(item.etag, item.item_id) if item.etag else None,
    }


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=datetime.isoformat)


def _item(row: Mapping[str, Any]) -> Item:
    embedding = row["embedding"]
    return Item(
        item_id=ItemId(row["item_id"]),
        item_type=row["item_type"],
        title=row["title"],
        description=row["description"],
        categories=tuple(row["categories"]),
        tags=tuple(row["tags"]),
        attributes=row["attributes"],
        embedding=tuple(embedding.to_list()) if embedding is not None else None,
        available=row["available"],
        hidden=row["hidden"],
        publish_time=row["publish_time"],
        expire_time=row["expire_time"],
        etag=_etag_text(row["etag"]),
        create_time=row["create_time"],
        update_time=row["update_time"],
    )


def _etag_text(number: int) -> str:
    return f"{number:x}"


def _etag_number(text: str, item_id: ItemId) -> int:
    """What is no etag of ours cannot be current."""
    try:
        number = int(text, 16)
    except ValueError:
        raise StaleEtag(item_id) from None
    if not 0 < number < 2**63:
        raise StaleEtag(item_id)
    return number
