"""From events to what is known of a user, in closed form: u = Σ r_j^p ρ^(a_j − 1) s_j v_j over the items j they like.

v_j is the vector of item j, s_j its fold-in scale (training.algorithms.spectral), r_j the signal of the events about
it, a_j its age in distinct times. The signal power p and the recency ρ are those that validation chose for the model,
0 and 1 where strength and order say nothing. So is the d that stands for r_j^p of an item that a user came to and did
not like: 0, unless even that says what they will come to next. Nothing is trained per user, so a state is a pure
function of the events and the model, and can be computed again at any time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsvc.cache.versions import VersionAnnouncer
from recsvc.domain.arrays import Codes, Float32, Float64
from recsvc.domain.ids import TenantKey, UserKey
from recsvc.domain.recommendations import Source
from recsvc.domain.tenancy import ServingModel
from recsvc.storage.user_states import FoldInVectors, History, UserState, UserStateRepository
from recsvc.telemetry.metrics import Metrics
from recsvc.telemetry.spans import FOLD_IN
from recsvc.telemetry.stages import stage

# Storing holds the users' rows, and whoever records an event of one of them waits: with 200 the slowest of a hundred
# calls took a second under load, with 50 a fifth of that, at more calls a second.
_BATCH = 50
# What is left of signals that cancel out, or are thirty half-lives old, tells of neither liking nor dislike.
_NOTHING = 1e-9


@dataclass(frozen=True, slots=True)
class Touched:
    """Items that count in a history, newest first; all (n,). ages: 1 + the number of distinct times after each."""

    item_keys: Codes
    signals: Float64
    ages: Codes


def touched_items(history: History, limit: int, *, with_disliked: bool = False) -> Touched:
    """The newest items with a positive signal, or with any; what was done at one time has one age."""
    tells = np.abs(history.signals) if with_disliked else history.signals
    newest = np.flatnonzero(tells > _NOTHING)[:limit]
    times = history.times[newest]
    ages = 1 + np.cumsum(np.diff(times, prepend=times[:1]) != 0)
    return Touched(history.item_keys[newest], history.signals[newest], ages)


def fold_in(
    touched: Touched,
    found: FoldInVectors,
    recency: float = 1.0,
    signal_power: float = 0.0,
    disliked_strength: float = 0.0,
) -> Float32 | None:
    """The user's vector, (dimension,): the sum of the items' fold-in vectors times strength · recency^(age − 1).

    The strength is signal^power of a liked item, disliked_strength of another. None when no item has a vector.
    """
    is_known = np.isin(touched.item_keys, found.item_keys)
    if not is_known.any():
        return None
    signals = touched.signals[is_known]
    strengths = np.where(signals > 0, np.abs(signals) ** signal_power, disliked_strength)
    weights = (strengths * recency ** (touched.ages[is_known] - 1)).astype(np.float32)
    vector: Float32 = weights @ found.vectors[np.searchsorted(found.item_keys, touched.item_keys[is_known])]
    return vector


class FoldIn:
    """Computes and stores the states of users."""

    def __init__(
        self,
        states: UserStateRepository,
        announcer: VersionAnnouncer,
        metrics: Metrics,
        *,
        history_events: int,
        history_items: int,
    ) -> None:
        """How many of a user's events are read, and how many of the items in them tell of taste; newest first."""
        self._states = states
        self._announcer = announcer
        self._metrics = metrics
        self._history_events = history_events
        self._history_items = history_items

    @stage(FOLD_IN)
    async def refresh(
        self, tenant_key: TenantKey, model: ServingModel | None, user_keys: Sequence[UserKey], *, by: str
    ) -> None:
        """Bring the states of these users up to their events. by: who asked, for the metric."""
        for start in range(0, len(user_keys), _BATCH):
            batch = user_keys[start : start + _BATCH]
            histories = await self._states.histories(tenant_key, batch, self._history_events)
            states = await self._computed(tenant_key, model, histories)
            versions = {state.user_key: state.version for state in states}
            # Only once caches know the version may the state count as folded: whoever finds it dirty announces again.
            is_announced = await self._announcer.announce_users(tenant_key, versions)
            await self._states.store(tenant_key, model, states, is_announced=is_announced)
            self._metrics.folds.labels(by).inc(len(states))

    async def _computed(
        self, tenant_key: TenantKey, model: ServingModel | None, histories: Sequence[History]
    ) -> list[UserState]:
        disliked_strength = model.disliked_strength if model else 0.0
        touched = {
            history.user_key: touched_items(history, self._history_items, with_disliked=disliked_strength > 0)
            for history in histories
        }
        recency = model.recency.get(Source.COLLABORATIVE, 1.0) if model else 1.0
        signal_power = model.signal_power if model else 0.0
        needed = sorted({item for found in touched.values() for item in found.item_keys.tolist()})
        vectors = None
        if model is not None and needed:
            vectors = await self._states.fold_in_vectors(tenant_key, model, needed)

        def states() -> list[UserState]:
            return [
                UserState(
                    user_key=history.user_key,
                    version=history.version,
                    item_keys=touched[history.user_key].item_keys,
                    weights=touched[history.user_key].signals,
                    ages=touched[history.user_key].ages,
                    seen_keys=history.item_keys[history.seen],
                    vector=fold_in(touched[history.user_key], vectors, recency, signal_power, disliked_strength)
                    if vectors is not None
                    else None,
                )
                for history in histories
            ]

        # One user is a matter of microseconds; a batch would hold everybody else up.
        return states() if len(histories) == 1 else await asyncio.to_thread(states)
