"""A tenant's catalogue and model as arrays: what the candidate statement joins, read once for many lists.

A snapshot is that of one version of the tenant, which changes with whatever is in it but the counters of items, and the
vectors that are derived for new items as events come: those are brought up to date with the counters.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from psycopg import AsyncServerCursor
from psycopg.rows import DictRow
from scipy import sparse

from recsvc.domain.arrays import Codes, Float32, Float64, Mask
from recsvc.domain.blocked_rows import BlockedRows
from recsvc.domain.ids import ItemId, ItemKey, ModelKey, TenantKey, UserKey
from recsvc.domain.tenancy import ServingModel
from recsvc.domain.users import UserKind
from recsvc.storage.arrays import numbers
from recsvc.storage.connection import Connection
from recsvc.storage.database import Database, ReplicaBehind, execute
from recsvc.storage.replicas import Replicas
from recsvc.storage.statements import load

_SQL = load("snapshots")
_TIMEOUT_S = 60.0
# So few rows at a time that turning them into arrays holds nobody up.
_VECTOR_ROWS, _ARRAY_ROWS = 500, 50
_LEAST_WEIGHT = np.float32(1e-20)
# Keys of one catalogue stand close together, as a rule: to look at a table is ten times as fast as to search in a list.
_SPARSEST = 8


@dataclass(frozen=True, slots=True)
class Counters:
    """Of all items of a snapshot, (n,); NaN where nothing positive has happened. The decayed ones are log2.

    derived_event_counts: how many events the vector of an item accounts for that training did not know; NaN of others.
    """

    event_counts: Float64
    popularity: Float64
    trends: Mapping[str, Float64]
    derived_event_counts: Float64


class KeyIndex:
    """Where keys stand in a list of them."""

    def __init__(self, keys: Sequence[ItemKey]) -> None:
        """keys: each once."""
        given = np.array(keys, dtype=np.int64)
        self._order = np.argsort(given)
        self._ascending = given[self._order]
        self._places: Codes | None = None
        self._before = int(self._ascending[0]) - 1 if keys else 0
        span = int(self._ascending[-1]) - self._before if keys else 0
        if span <= _SPARSEST * len(keys):
            # One place more at either end, for all keys beyond.
            self._places = np.full(span + 2, -1)
            self._places[given - self._before] = np.arange(len(keys))

    def positions(self, keys: Sequence[ItemKey] | Codes) -> Codes:
        """The position of each key; -1 for one that is not in the list."""
        wanted = np.asarray(keys, dtype=np.int64)
        if self._places is not None:
            return self._places.take(wanted - self._before, mode="clip")
        places = np.minimum(np.searchsorted(self._ascending, wanted), len(self._order) - 1)
        return np.where(self._ascending[places] == wanted, self._order[places], -1)


@dataclass(frozen=True, slots=True)
class ServingSnapshot:
    """Items in the order of their ids, n of them.

    publish_s, expire_s, newness: seconds since 1970, (n,). vectors: (n, dimension), zero where has_vector is not set.
    derived_event_counts: as Counters have them, of the vectors that are in here. neighbors, transitions: (n, n), row j
    has what item j says for others; a weight of 0 is kept as next to nothing, since zeros are what fills blocks up.
    """

    item_keys: Sequence[ItemKey]
    item_ids: Sequence[ItemId]
    keys: KeyIndex
    position_of_id: Mapping[ItemId, int]
    is_open: Mask
    publish_s: Float64
    expire_s: Float64
    expire_times: Sequence[datetime | None]
    newness: Float64
    is_derived: Mask
    derived_event_counts: Float64
    has_vector: Mask
    vectors: Float32
    neighbors: BlockedRows
    transitions: BlockedRows

    def __len__(self) -> int:
        """How many items there are."""
        return len(self.item_ids)

    @property
    def size_bytes(self) -> int:
        """Memory of the vectors, neighbours and transitions, which is nearly all that grows with a catalogue."""
        return self.vectors.nbytes + self.neighbors.size_bytes + self.transitions.size_bytes


@dataclass(frozen=True, slots=True)
class SubjectState:
    """A folded state as `subject` of the candidate statement has it; vector is None when it is of another model.

    user_key: None for whom nothing is stored.
    """

    user_key: UserKey | None
    version: int
    folded_version: int
    model_key: ModelKey | None
    history_size: int
    item_keys: Codes
    weights: Float64
    ages: Float64
    seen_keys: Codes
    vector: Float32 | None


class SnapshotRepository:
    """Reads snapshots, the counters that belong to them, and the states of many users at once."""

    def __init__(self, database: Database, replicas: Replicas) -> None:
        self._database = database
        self._replicas = replicas

    async def size(self, tenant_key: TenantKey, limit: int) -> int:
        """How many items the tenant has; no more than `limit`."""
        row = await self._database.fetch_one(tenant_key, _SQL["catalogue_size"], {"tenant": tenant_key, "limit": limit})
        return int(row["items"]) if row else 0

    async def read(
        self, tenant_key: TenantKey, model: ServingModel, neighbors_per_item: int, version: int
    ) -> ServingSnapshot:
        """The whole, as of one moment at which the tenant had this version or a later one; a replica may answer."""
        return await self._replicas.read(
            lambda database: self._read(database, tenant_key, model, neighbors_per_item, version)
        )

    @staticmethod
    async def _read(
        database: Database, tenant_key: TenantKey, model: ServingModel, neighbors_per_item: int, version: int
    ) -> ServingSnapshot:
        params = {
            "tenant": tenant_key,
            "model": model.model_key,
            "shard": model.shard,
            "neighbors_per_item": neighbors_per_item,
        }
        async with database.tenant_transaction(tenant_key, snapshot=True, timeout_s=_TIMEOUT_S) as connection:
            cursor = await execute(connection, _SQL["tenant_version"], params)
            row = await cursor.fetchone()
            if (row["version"] if row else 0) < version:
                raise ReplicaBehind
            cursor = await execute(connection, _SQL["catalogue"], params)
            row = await cursor.fetchone()
            item_keys = [ItemKey(key) for key in row["item_keys"] or ()]
            item_ids = [ItemId(item_id) for item_id in row["item_ids"] or ()]
            keys = KeyIndex(item_keys)
            has_vector = np.zeros(len(item_keys), dtype=np.bool_)
            vectors = np.zeros((len(item_keys), model.dimension), dtype=np.float32)
            async with _streamed(connection, "vectors", params) as rows:
                while chunk := await rows.fetchmany(_VECTOR_ROWS):
                    positions = keys.positions([item["item_key"] for item in chunk])
                    for position, item in zip(positions.tolist(), chunk, strict=True):
                        if position >= 0:
                            vectors[position] = item["vector"].to_numpy()
                            has_vector[position] = True
            neighbors = await _matrix(connection, "neighbors", params, keys, len(item_keys))
            transitions = await _matrix(connection, "transitions", params, keys, len(item_keys))
        expire_times = list(row["expire_times"] or ())
        return ServingSnapshot(
            item_keys=item_keys,
            item_ids=item_ids,
            keys=keys,
            position_of_id={item_id: position for position, item_id in enumerate(item_ids)},
            is_open=np.array(row["is_open"] or (), dtype=np.bool_),
            publish_s=_floats(row["publish_s"], missing=-np.inf),
            expire_s=np.array([np.inf if time is None else time.timestamp() for time in expire_times]),
            expire_times=expire_times,
            newness=_floats(row["newness"]),
            is_derived=np.array(row["is_derived"] or (), dtype=np.bool_),
            derived_event_counts=_floats(row["derived_event_counts"]),
            has_vector=has_vector,
            vectors=vectors,
            neighbors=neighbors,
            transitions=transitions,
        )

    async def counters(self, tenant_key: TenantKey, snapshot: ServingSnapshot) -> Counters:
        """What the counters of the snapshot's items are now."""
        row = await self._database.fetch_one(tenant_key, _SQL["counters"], {"tenant": tenant_key})
        assert row is not None  # noqa: S101  (an aggregate is always a row)
        positions = snapshot.keys.positions(row["item_keys"] or ())
        known = positions >= 0

        def column(name: str, missing: float = np.nan) -> Float64:
            values = np.full(len(snapshot), missing)
            values[positions[known]] = _floats(row[name])[known]
            return values

        return Counters(
            event_counts=column("event_counts", 0.0),
            popularity=column("popularity"),
            trends={name: column(name) for name in ("trend_day", "trend_week")},
            derived_event_counts=column("derived_event_counts"),
        )

    async def renew_vectors(
        self, tenant_key: TenantKey, model: ServingModel, snapshot: ServingSnapshot, counters: Counters
    ) -> None:
        """Bring those vectors of a snapshot up to date that were derived anew since, as the counters tell."""
        present = counters.derived_event_counts
        changed = np.flatnonzero(~np.isnan(present) & (present != snapshot.derived_event_counts))
        for start in range(0, len(changed), _VECTOR_ROWS):
            some = changed[start : start + _VECTOR_ROWS].tolist()
            rows = await self._database.fetch_all(
                tenant_key,
                _SQL["some_vectors"],
                {
                    "tenant": tenant_key,
                    "model": model.model_key,
                    "shard": model.shard,
                    "items": [snapshot.item_keys[at] for at in some],
                },
            )
            for at, row in zip(snapshot.keys.positions([row["item_key"] for row in rows]), rows, strict=True):
                snapshot.vectors[at] = row["vector"].to_numpy()
                snapshot.has_vector[at] = snapshot.is_derived[at] = True
            snapshot.derived_event_counts[some] = present[some]

    async def subject_states(
        self, tenant_key: TenantKey, model: ServingModel, subjects: Sequence[tuple[UserKind, str]], history_items: int
    ) -> list[tuple[int, SubjectState | None]]:
        """The states of users and sessions, in the order asked, each with the version of the tenant at that moment.

        None for whom nobody knows. history_items: so many items of each history, newest first.
        """
        rows = await self._database.fetch_all(
            tenant_key,
            _SQL["subject_states"],
            {
                "tenant": tenant_key,
                "model": model.model_key,
                "kinds": [kind.value for kind, _ in subjects],
                "user_ids": [user_id for _, user_id in subjects],
                "history": history_items,
            },
        )
        return [(row["tenant_version"], _subject_state(row)) for row in rows]


@asynccontextmanager
async def _streamed(
    connection: Connection, name: str, params: Mapping[str, object]
) -> AsyncIterator[AsyncServerCursor[DictRow]]:
    async with connection.cursor(f"snapshot_{name}") as cursor:
        await cursor.execute(_SQL[name].encode(), params, binary=True)
        yield cursor


async def _matrix(
    connection: Connection, name: str, params: Mapping[str, object], keys: KeyIndex, n: int
) -> BlockedRows:
    """(n, n): what each item says for others, from rows of keys and weights."""
    rows: list[Codes] = [np.empty(0, dtype=np.int32)]
    columns: list[Codes] = [np.empty(0, dtype=np.int32)]
    weights: list[Float32] = [np.empty(0, dtype=np.float32)]
    async with _streamed(connection, name, params) as found:
        while chunk := await found.fetchmany(_ARRAY_ROWS):
            for at, row in zip(keys.positions([row["item_key"] for row in chunk]), chunk, strict=True):
                if at < 0:
                    continue
                places = keys.positions(row["keys"])
                known = places >= 0
                said = np.array(row["weights"], dtype=np.float32)[known]
                columns.append(places[known].astype(np.int32))
                weights.append(np.where(said == 0, _LEAST_WEIGHT, said))
                rows.append(np.full(len(said), at, dtype=np.int32))
    entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
    return BlockedRows.of(sparse.csr_matrix(entries, shape=(n, n), dtype=np.float32))


def _floats(values: Sequence[float | None] | None, missing: float = np.nan) -> Float64:
    found = np.array(values or (), dtype=np.float64)
    return np.where(np.isnan(found), missing, found)


def _subject_state(row: DictRow) -> SubjectState | None:
    if row["user_key"] is None:
        return None
    item_keys = numbers(row["item_keys"], ">i8")
    # Of a time before ages were kept there are fewer of them, and the position stands in.
    ages = np.arange(1.0, len(item_keys) + 1)
    known = numbers(row["ages"], ">i4")
    ages[: len(known)] = known
    return SubjectState(
        user_key=UserKey(row["user_key"]),
        version=row["version"] or 0,
        folded_version=row["folded_version"] or 0,
        model_key=ModelKey(row["model_key"]) if row["model_key"] is not None else None,
        history_size=row["history_size"],
        item_keys=item_keys,
        weights=numbers(row["weights"], ">f4").astype(np.float64),
        ages=ages,
        seen_keys=numbers(row["seen_keys"], ">i8"),
        vector=row["vector"].to_numpy() if row["vector"] is not None else None,
    )
