"""Models at rest: read the signals to learn from, write vectors and neighbours, point to the model that serves.

A large model gets a partition of its own, written and indexed before it is attached, so that nobody waits for it; small
ones share a partition and are searched exactly.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql
from psycopg.types.json import Jsonb

from recsvc.domain.arrays import Float32, Float64
from recsvc.domain.audit import AuditEntry
from recsvc.domain.errors import ModelActive, ModelNotFound
from recsvc.domain.ids import ModelKey, TenantKey
from recsvc.domain.models import Model, ModelState
from recsvc.storage import binary_copy
from recsvc.storage.audit_log import append
from recsvc.storage.changes import Changes
from recsvc.storage.connection import Connection
from recsvc.storage.content import PublishedContent, write_content
from recsvc.storage.database import Database, execute
from recsvc.storage.statements import compose, load
from recsvc.storage.tenants import raise_version

_SQL = load("models")
_TIMEOUT_S = 3600.0
# pgvector's defaults are 16 and 64; ef_construction is spent once per model and saves on every search.
_HNSW_M = 16
_HNSW_EF_CONSTRUCTION = 128

Keys = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Signals:
    """What users' events say about items: one entry per pair, times in seconds since 1970."""

    user_keys: Keys
    item_keys: Keys
    signals: Float64
    times: Float64


@dataclass(frozen=True, slots=True)
class ItemWeights:
    """Sparse item–item weights by position: those of item j are positions[indptr[j]:indptr[j + 1]], best first."""

    indptr: NDArray[np.int64]
    positions: NDArray[np.integer[Any]]
    weights: Float32


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model as training hands it over; arrays by position in `item_keys`.

    vectors: (n, dimension); fold_in_scales: (n,); transitions: what follows what; None where behaviour has no order.
    signal_power: how much of the strength of a signal counts, 0 = all alike; disliked_strength: what a disliked item
    counts.
    """

    item_keys: Keys
    vectors: Float32
    fold_in_scales: Float32
    neighbors: ItemWeights
    transitions: ItemWeights | None
    algorithm: str
    blend_weights: Mapping[str, float]
    recency: Mapping[str, float]
    signal_power: float
    disliked_strength: float
    hyperparameters: Mapping[str, object]
    metrics: Mapping[str, float]
    user_count: int
    event_count: int


class ModelRepository:
    """Reads signals and keeps models. Works as the owner of the schema, since large models are tables of their own."""

    def __init__(self, database: Database, changes: Changes) -> None:
        self._database = database
        self._changes = changes

    async def signals(self, tenant_key: TenantKey) -> Signals:
        """All signals of a tenant, from one snapshot."""
        async with (
            self._database.service_transaction(timeout_s=_TIMEOUT_S) as connection,
            connection.cursor() as cursor,
            cursor.copy(_SQL["export_signals"].rstrip(";").encode(), {"tenant": tenant_key}) as copy,
        ):
            data = bytearray()
            async for row in copy:
                data += row
        return Signals(*binary_copy.read_signals(data))

    async def publish(
        self,
        tenant_key: TenantKey,
        trained: TrainedModel,
        *,
        content: PublishedContent | None = None,
        exact_search_items: int,
        progress: Callable[[str, float], None],
    ) -> Model:
        """Store a model whole and ready to be activated.

        content: None when nothing is known of what items say about themselves. progress: told the stage (publish,
        index) and its share.
        """
        dimension = int(trained.vectors.shape[1])
        async with self._database.service_transaction() as connection:
            cursor = await execute(
                connection,
                _SQL["insert_model"],
                {
                    "tenant": tenant_key,
                    "model_id": uuid.uuid4().hex[:16],
                    "algorithm": trained.algorithm,
                    "dimension": dimension,
                    "blend_weights": Jsonb(dict(trained.blend_weights)),
                    "recency": Jsonb(dict(trained.recency)),
                    "signal_power": trained.signal_power,
                    "disliked_strength": trained.disliked_strength,
                    "hyperparameters": Jsonb(dict(trained.hyperparameters)),
                    "metrics": Jsonb(dict(trained.metrics)),
                    "item_count": len(trained.item_keys),
                    "user_count": trained.user_count,
                    "event_count": trained.event_count,
                },
            )
            model_key = ModelKey((await cursor.fetchone())["model_key"])
        shard = model_key if len(trained.item_keys) > exact_search_items else 0
        async with self._database.service_transaction(timeout_s=_TIMEOUT_S) as connection:
            await self._write_factors(connection, tenant_key, model_key, shard, trained, progress)
            keys = tenant_key, model_key, trained.item_keys
            await self._write_weights(connection, "copy_neighbors", *keys, trained.neighbors)
            if trained.transitions is not None:
                await self._write_weights(connection, "copy_transitions", *keys, trained.transitions)
            if content is not None:
                await write_content(connection, tenant_key, model_key, content)
            await connection.execute(_SQL["analyze_weights"].encode())
            if shard:
                await connection.execute(compose(_SQL["analyze_partition"], partition=_partition(shard)))
                # Last, since it locks the table of all models.
                await connection.execute(
                    compose(_SQL["attach_partition"], partition=_partition(shard), shard=sql.Literal(shard))
                )
            progress("index", 1.0)
            await execute(connection, _SQL["finish_model"], {"tenant": tenant_key, "model": model_key, "shard": shard})
            cursor = await connection.execute(
                b"SELECT * FROM models WHERE tenant_key = %s AND model_key = %s", [tenant_key, model_key]
            )
            return _model(await cursor.fetchone())

    async def activate(self, tenant_key: TenantKey, model_id: str, *, audit: AuditEntry | None = None) -> Model:
        """Let a model serve, by one pointer update. Raises ModelNotFound."""
        async with self._database.service_transaction() as connection:
            await execute(connection, _SQL["hold_pointer"], {"tenant": tenant_key})
            cursor = await execute(connection, _SQL["lock_model"], {"tenant": tenant_key, "model_id": model_id})
            row = await cursor.fetchone()
            if row is None:
                raise ModelNotFound(model_id)
            keys = {"tenant": tenant_key, "model": row["model_key"]}
            await execute(connection, _SQL["point_to_model"], keys)
            await execute(connection, _SQL["mark_active"], keys)
            version = await raise_version(connection, tenant_key)
            await append(connection, audit)
        await self._changes.tenant_changed(tenant_key, version)
        return await self.get(tenant_key, model_id)

    async def get(self, tenant_key: TenantKey, model_id: str) -> Model:
        """Raises ModelNotFound."""
        row = await self._database.fetch_one(
            tenant_key, _SQL["get_model"], {"tenant": tenant_key, "model_id": model_id}
        )
        if row is None:
            raise ModelNotFound(model_id)
        return _model(row)

    async def active(self, tenant_key: TenantKey) -> Model | None:
        """The model that serves, if any."""
        row = await self._database.fetch_one(tenant_key, _SQL["active_model"], {"tenant": tenant_key})
        return _model(row) if row else None

    async def list(self, tenant_key: TenantKey, before: int | None, limit: int) -> Sequence[Model]:
        """Models, newest first, before the given key."""
        rows = await self._database.fetch_all(
            tenant_key, _SQL["list_models"], {"tenant": tenant_key, "before": before, "limit": limit}
        )
        return [_model(row) for row in rows]

    async def delete(self, tenant_key: TenantKey, model_id: str, *, audit: AuditEntry | None = None) -> None:
        """Raises ModelNotFound, or ModelActive for the one that serves."""
        async with self._database.service_transaction(timeout_s=_TIMEOUT_S) as connection:
            await execute(connection, _SQL["hold_pointer"], {"tenant": tenant_key})
            cursor = await execute(connection, _SQL["lock_model"], {"tenant": tenant_key, "model_id": model_id})
            row = await cursor.fetchone()
            if row is None:
                raise ModelNotFound(model_id)
            if row["active_model_key"] == row["model_key"]:
                raise ModelActive(f"model {model_id!r} serves at present; activate another one first")
            await self._forget(connection, tenant_key, row["model_key"], row["shard"])
            await append(connection, audit)

    async def delete_surplus(self, tenant_key: TenantKey, keep: int) -> None:
        """Delete what failed runs left behind, and old models beyond `keep`."""
        async with self._database.service_transaction(timeout_s=_TIMEOUT_S) as connection:
            await execute(connection, _SQL["hold_pointer"], {"tenant": tenant_key})
            cursor = await execute(connection, _SQL["surplus_models"], {"tenant": tenant_key, "keep": keep})
            for row in await cursor.fetchall():
                await self._forget(connection, tenant_key, row["model_key"], row["shard"])

    async def _write_factors(
        self,
        connection: Connection,
        tenant_key: TenantKey,
        model_key: ModelKey,
        shard: int,
        trained: TrainedModel,
        progress: Callable[[str, float], None],
    ) -> None:
        partition = _partition(shard) if shard else sql.Identifier("item_factors")
        if shard:
            await connection.execute(compose(_SQL["create_partition"], partition=partition))
        rows = binary_copy.factor_rows(
            tenant_key, model_key, shard, trained.item_keys, trained.fold_in_scales, trained.vectors
        )
        written = 0
        async with (
            connection.cursor() as cursor,
            cursor.copy(compose(_SQL["copy_factors"], table=partition)) as copy,
        ):
            await copy.write(binary_copy.HEADER)
            for block in rows:
                await copy.write(block)
                written += len(block)
                progress("publish", written / max(1, len(trained.item_keys) * (2 * trained.vectors.shape[1] + 66)))
            await copy.write(binary_copy.TRAILER)
        if shard:
            progress("index", 0.0)
            await connection.execute(b"SELECT set_config('maintenance_work_mem', '512MB', true)")
            await connection.execute(compose(_SQL["key_partition"], partition=partition))
            await connection.execute(
                compose(
                    _SQL["index_partition"],
                    partition=partition,
                    dimension=sql.Literal(int(trained.vectors.shape[1])),
                    m=sql.Literal(_HNSW_M),
                    ef_construction=sql.Literal(_HNSW_EF_CONSTRUCTION),
                )
            )

    @staticmethod
    async def _write_weights(
        connection: Connection,
        statement: str,
        tenant_key: TenantKey,
        model_key: ModelKey,
        item_keys: Keys,
        weights: ItemWeights,
    ) -> None:
        rows = binary_copy.neighbor_rows(
            tenant_key, model_key, item_keys, weights.indptr, item_keys[weights.positions], weights.weights
        )
        async with connection.cursor() as cursor, cursor.copy(_SQL[statement].rstrip(";").encode()) as copy:
            await copy.write(binary_copy.HEADER)
            for block in rows:
                await copy.write(block)
            await copy.write(binary_copy.TRAILER)

    @staticmethod
    async def _forget(connection: Connection, tenant_key: TenantKey, model_key: int, shard: int) -> None:
        keys = {"tenant": tenant_key, "model": model_key}
        if shard:
            await connection.execute(compose(_SQL["drop_partition"], partition=_partition(shard)))
        else:
            await execute(connection, _SQL["delete_shared_factors"], keys)
        await execute(connection, _SQL["delete_neighbors"], keys)
        await execute(connection, _SQL["delete_transitions"], keys)
        await execute(connection, _SQL["delete_model"], keys)


def _partition(shard: int) -> sql.Identifier:
    return sql.Identifier(f"item_factors_{shard}")


def _model(row: Any) -> Model:
    return Model(
        model_key=ModelKey(row["model_key"]),
        model_id=row["model_id"],
        state=ModelState(row["state"]),
        algorithm=row["algorithm"],
        dimension=row["dimension"],
        shard=row["shard"],
        blend_weights=row["blend_weights"],
        recency=row["recency"],
        signal_power=row["signal_power"],
        disliked_strength=row["disliked_strength"],
        hyperparameters=row["hyperparameters"],
        metrics=row["metrics"],
        item_count=row["item_count"],
        user_count=row["user_count"],
        event_count=row["event_count"],
        create_time=row["create_time"],
        activate_time=row["activate_time"],
    )
