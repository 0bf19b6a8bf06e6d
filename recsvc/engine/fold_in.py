"""From events to what is known of a user, in closed form: u = Σ s_j v_j over the items j that the user likes.

v_j is the vector of item j and s_j its fold-in scale (training.algorithms.spectral). Nothing is trained per user, so a
state is a pure function of the events and the model, and can be computed again at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from recsvc.cache.versions import VersionAnnouncer
from recsvc.domain.arrays import Float32
from recsvc.domain.ids import ItemKey, TenantKey, UserKey
from recsvc.domain.tenancy import ServingModel
from recsvc.storage.user_states import History, UserState, UserStateRepository
from recsvc.telemetry.metrics import Metrics

_BATCH = 200


def liked_items(history: History, limit: int) -> tuple[tuple[ItemKey, ...], tuple[float, ...]]:
    """Items with a positive signal, newest first, and their signals."""
    liked = [(item, signal) for item, signal in zip(history.item_keys, history.signals, strict=True) if signal > 0][
        :limit
    ]
    return tuple(item for item, _ in liked), tuple(signal for _, signal in liked)


def fold_in(item_keys: Sequence[ItemKey], vectors: Mapping[ItemKey, Float32]) -> Float32 | None:
    """The user's vector: the sum of the items' fold-in vectors, (dimension,); None when no item has one."""
    known = [vectors[item] for item in item_keys if item in vectors]
    return np.sum(known, axis=0, dtype=np.float32) if known else None


class FoldIn:
    """Computes and stores the states of users."""

    def __init__(
        self, states: UserStateRepository, announcer: VersionAnnouncer, metrics: Metrics, history_items: int
    ) -> None:
        """history_items: how many of a user's liked items count, newest first."""
        self._states = states
        self._announcer = announcer
        self._metrics = metrics
        self._history_items = history_items

    async def refresh(
        self, tenant_key: TenantKey, model: ServingModel | None, user_keys: Sequence[UserKey], *, by: str
    ) -> None:
        """Bring the states of these users up to their events. by: who asked, for the metric."""
        for start in range(0, len(user_keys), _BATCH):
            histories = await self._states.histories(tenant_key, user_keys[start : start + _BATCH])
            states = await self._computed(tenant_key, model, histories)
            # Only once caches know the version may the state count as folded: whoever finds it dirty announces again.
            if await self._announcer.announce_users(tenant_key, {state.user_key: state.version for state in states}):
                await self._states.store(tenant_key, model, states)
            self._metrics.folds.labels(by).inc(len(states))

    async def _computed(
        self, tenant_key: TenantKey, model: ServingModel | None, histories: Sequence[History]
    ) -> list[UserState]:
        liked = {history.user_key: liked_items(history, self._history_items) for history in histories}
        needed = {item for items, _ in liked.values() for item in items}
        vectors: Mapping[ItemKey, Float32] = {}
        if model is not None and needed:
            vectors = (await self._states.fold_in_vectors(tenant_key, model, sorted(needed))).by_item
        return [
            UserState(
                user_key=history.user_key,
                version=history.version,
                item_keys=liked[history.user_key][0],
                weights=liked[history.user_key][1],
                seen_keys=tuple(item for item, seen in zip(history.item_keys, history.seen, strict=True) if seen),
                vector=fold_in(liked[history.user_key][0], vectors),
            )
            for history in histories
        ]
