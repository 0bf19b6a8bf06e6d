"""Users like a given one, by the vectors that their histories fold into."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

from recsvc.domain.errors import UserNotFound
from recsvc.domain.filters import Tree
from recsvc.domain.ids import ModelKey, TenantKey, UserId, UserKey
from recsvc.domain.recommendations import SimilarUser
from recsvc.domain.tenancy import ServingModel
from recsvc.storage.database import Database
from recsvc.storage.filter_sql import USER_COLUMNS, compile_filter
from recsvc.storage.statements import compose, load

_SQL = load("similar_users")


@dataclass(frozen=True, slots=True)
class FoundUser:
    """A known user, and what their state was folded in from; version is 0 without events.

    others_lag: whether anybody's state in the tenant is still that of another model.
    """

    user_key: UserKey
    version: int
    folded_version: int
    model_key: ModelKey | None
    others_lag: bool

    def lags(self, model: ServingModel) -> bool:
        """Whether the state is not that of the present events and model."""
        return self.version > 0 and (self.folded_version < self.version or self.model_key != model.model_key)


class SimilarUserRepository:
    """Asks PostgreSQL for similar users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def user(self, tenant_key: TenantKey, model: ServingModel | None, user_id: UserId) -> FoundUser:
        """Raises UserNotFound; sessions are no users."""
        row = await self._database.fetch_one(
            tenant_key,
            _SQL["find_user"],
            {"tenant": tenant_key, "model": model.model_key if model else None, "user_id": user_id},
        )
        if row is None:
            raise UserNotFound(user_id)
        model_key = ModelKey(row["model_key"]) if row["model_key"] is not None else None
        return FoundUser(
            UserKey(row["user_key"]), row["version"], row["folded_version"], model_key, bool(row["others_lag"])
        )

    async def most_alike(
        self,
        tenant_key: TenantKey,
        model: ServingModel,
        user_key: UserKey,
        tree: Tree | None,
        limit: int,
        now: datetime,
    ) -> list[SimilarUser]:
        """Known users that match, by cosine, most alike first; none when the user or nobody else has a vector.

        Reads the vectors of all of the tenant's users: see docs/operations.md for what that costs at which size.
        """
        matching = compile_filter(tree, USER_COLUMNS, now)
        rows = await self._database.fetch_all(
            tenant_key,
            compose(_SQL["similar_users"], filter=matching.condition),
            {"tenant": tenant_key, "model": model.model_key, "user": user_key, "limit": limit, **matching.params},
        )
        return [
            # Rounding may carry a cosine past its bounds.
            SimilarUser(UserId(row["user_id"]), max(-1.0, min(1.0, 1.0 - row["distance"])))
            for row in rows
            if row["distance"] is not None and not math.isnan(row["distance"])
        ]
