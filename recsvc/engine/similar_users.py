"""SimilarUsers: whose taste, as the active model sees it, points the same way.

Users are compared by the cosine of their folded-in vectors, so that somebody with three events can be like somebody
with three hundred. The asked user counts with every acknowledged event, the others as they were last folded in. After a
switch of models the projector carries everybody over; until it is through, the answer says that it is partial.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from recsvc.domain.errors import NoModel
from recsvc.domain.ids import TenantKey
from recsvc.domain.recommendations import Degradation, DegradationLevel, SimilarUser, SimilarUsersQuery
from recsvc.engine.fold_in import FoldIn
from recsvc.engine.profiles import TenantProfiles
from recsvc.storage.similar_users import SimilarUserRepository


@dataclass(frozen=True, slots=True)
class SimilarUsers:
    """The answer of SimilarUsers, most alike first; empty when the user has touched nothing that the model knows."""

    users: tuple[SimilarUser, ...]
    model_id: str
    degradation: Degradation


class SimilarUserFinder:
    """Finds users of like taste."""

    def __init__(self, similar: SimilarUserRepository, profiles: TenantProfiles, fold_in: FoldIn) -> None:
        self._similar = similar
        self._profiles = profiles
        self._fold_in = fold_in

    async def find(self, tenant_key: TenantKey, query: SimilarUsersQuery) -> SimilarUsers:
        """Raises UserNotFound, and NoModel when nothing is trained yet."""
        profile = await self._profiles.get_current(tenant_key)
        user = await self._similar.user(tenant_key, profile.model, query.user_id)
        if profile.model is None:
            raise NoModel
        if user.lags(profile.model):
            await self._fold_in.refresh(tenant_key, profile.model, [user.user_key], by="reader")
        found = await self._similar.most_alike(
            tenant_key, profile.model, user.user_key, query.filter, query.count, datetime.now(UTC)
        )
        degradation = Degradation()
        if user.others_lag:
            degradation = Degradation(DegradationLevel.PARTIAL, "users are being carried over to a new model")
        return SimilarUsers(tuple(found), profile.model.model_id, degradation)
