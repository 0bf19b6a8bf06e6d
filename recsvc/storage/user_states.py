"""What is known of users: read as histories, written as folded states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pgvector import Vector
from psycopg.rows import DictRow

from recsvc.domain.arrays import Codes, Float32, Float64, Mask
from recsvc.domain.ids import TenantKey, UserKey
from recsvc.domain.tenancy import ServingModel
from recsvc.domain.users import Identity, UserKind
from recsvc.storage.arrays import half_vectors, numbers
from recsvc.storage.database import Database, execute
from recsvc.storage.statements import load

_SQL = load("user_states")
# Long enough to fold a batch in; what a projector that died had taken waits so long.
_TAKEN_S = 2.0


@dataclass(frozen=True, slots=True)
class History:
    """What a user's events say at a version: items newest first, with their signals and whether they count as seen.

    times: when each was last touched, microseconds. All (n,).
    """

    user_key: UserKey
    version: int
    item_keys: Codes
    signals: Float64
    seen: Mask
    times: Codes


@dataclass(frozen=True, slots=True)
class UserState:
    """A history folded in; `vector` is None without a model or without a known item.

    ages: for each item 1 + the number of distinct times after it.
    """

    user_key: UserKey
    version: int
    item_keys: Codes
    weights: Float64
    ages: Codes
    seen_keys: Codes
    vector: Float32 | None


@dataclass(frozen=True, slots=True)
class Lag:
    """oldest_s: how long the user who waits longest has been dirty; users: how many are, counted up to a limit."""

    oldest_s: float
    users: int


@dataclass(frozen=True, slots=True)
class FoldInVectors:
    """Vectors of some items, each already multiplied by its fold-in scale, (n, dimension), in the order of the keys."""

    item_keys: Codes
    vectors: Float32


class UserStateRepository:
    """Reads histories and vectors, writes states."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def user_key(self, tenant_key: TenantKey, kind: UserKind, user_id: str) -> UserKey | None:
        """The key of a user or session; None when nobody of that id has been seen."""
        row = await self._database.fetch_one(
            tenant_key, _SQL["user_key"], {"tenant": tenant_key, "kind": kind.value, "user_id": user_id}
        )
        return UserKey(row["user_key"]) if row is not None else None

    async def identities(self, tenant_key: TenantKey, user_keys: Sequence[UserKey]) -> Mapping[UserKey, Identity]:
        """What callers name some users and sessions; those who are gone are left out."""
        rows = await self._database.fetch_all(
            tenant_key, _SQL["identities"], {"tenant": tenant_key, "users": list(user_keys)}
        )
        return {UserKey(row["user_key"]): (UserKind(row["kind"]), row["user_id"]) for row in rows}

    async def histories(self, tenant_key: TenantKey, user_keys: Sequence[UserKey], newest: int) -> list[History]:
        """The histories of those of the users who have any state. newest: so many events of each are read."""
        rows = await self._database.fetch_all(
            tenant_key, _SQL["histories"], {"tenant": tenant_key, "users": list(user_keys), "newest": newest}
        )
        return [
            History(
                user_key=UserKey(row["user_key"]),
                version=row["version"],
                item_keys=numbers(row["item_keys"], ">i8"),
                signals=numbers(row["signals"], ">f8"),
                seen=numbers(row["seen"], "?"),
                times=numbers(row["last_times"], ">i8"),
            )
            for row in rows
        ]

    async def fold_in_vectors(
        self, tenant_key: TenantKey, model: ServingModel, item_keys: Sequence[int]
    ) -> FoldInVectors:
        """The fold-in vectors of those of the items that the model knows."""
        (row,) = await self._database.fetch_all(
            tenant_key,
            _SQL["factors"],
            {"tenant": tenant_key, "shard": model.shard, "model": model.model_key, "items": list(item_keys)},
        )
        scales = numbers(row["scales"], ">f4")
        vectors = half_vectors(row["vectors"], model.dimension)
        return FoldInVectors(numbers(row["item_keys"], ">i8"), vectors * scales[:, np.newaxis])

    async def store(
        self,
        tenant_key: TenantKey,
        model: ServingModel | None,
        states: Sequence[UserState],
        *,
        is_announced: bool = True,
    ) -> None:
        """Put states in place; a state older than the one in place changes nothing.

        is_announced: whether caches know of the versions; else the states can be read but their users stay dirty.
        """
        if not states:
            return
        async with self._database.tenant_transaction(tenant_key) as connection:
            await execute(
                connection,
                _SQL["store_states"],
                {
                    "tenant": tenant_key,
                    "model": model.model_key if model else None,
                    "is_announced": is_announced,
                    "user_keys": [state.user_key for state in states],
                    "versions": [state.version for state in states],
                    "item_keys": [_literal(state.item_keys) for state in states],
                    "weights": [_literal(state.weights) for state in states],
                    "ages": [_literal(state.ages) for state in states],
                    "seen_keys": [_literal(state.seen_keys) for state in states],
                    "vectors": [Vector(state.vector) if state.vector is not None else None for state in states],
                },
            )

    async def take_dirty_users(self, limit: int) -> Mapping[TenantKey, Sequence[UserKey]]:
        """Some users of all tenants whose state lags behind, those who wait longest; nobody else gets them now."""
        async with self._database.service_transaction() as connection:
            cursor = await execute(connection, _SQL["take_dirty_users"], {"limit": limit, "taken_s": _TAKEN_S})
            return _by_tenant(await cursor.fetchall())

    async def lag(self, limit: int) -> Lag:
        """How far the states of all tenants lag behind their events."""
        async with self._database.service_transaction() as connection:
            cursor = await execute(connection, _SQL["lag"], {"limit": limit})
            (row,) = await cursor.fetchall()
            return Lag(oldest_s=max(0.0, row["oldest_s"]), users=row["users"])

    async def states_of_other_models(self, limit: int) -> Mapping[TenantKey, Sequence[UserKey]]:
        """Some users of all tenants whose state was folded in with another model than the one that serves."""
        async with self._database.service_transaction() as connection:
            cursor = await execute(connection, _SQL["states_of_other_models"], {"limit": limit})
            return _by_tenant(await cursor.fetchall())


def _literal(values: Codes | Float64) -> str:
    """An array as PostgreSQL reads it."""
    return "{" + ",".join(map(str, values.tolist())) + "}"


def _by_tenant(rows: Sequence[DictRow]) -> Mapping[TenantKey, Sequence[UserKey]]:
    found: dict[TenantKey, list[UserKey]] = {}
    for row in rows:
        found.setdefault(TenantKey(row["tenant_key"]), []).append(UserKey(row["user_key"]))
    return found
