"""What a user's state must be, computed from the events alone: an oracle that shares no code with the service.

Written from the formula u = Σ r_j^p ρ^(a_j − 1) s_j v_j and the documented meaning of events, in double precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

# A sum of signals that is no more than this is rounding residue or long ago.
_NOTHING = 1e-9


@dataclass(frozen=True)
class Told:
    """One event with what its type means."""

    item_key: int
    event_type: str
    weight: float
    half_life_s: float | None
    counts_as_seen: bool
    value: float | None
    time: datetime

    def signal(self, now: datetime) -> float:
        """What it says about taste at a moment; an event of the future has no age yet."""
        weight = float(np.float32(self.weight))
        if self.event_type == "rate" and self.value is not None:
            weight *= float(np.clip((self.value - 2.5) / 2.5, -1.0, 1.0))
        if self.half_life_s is None:
            return weight
        return weight * 2.0 ** -float(np.clip((now - self.time).total_seconds() / self.half_life_s, 0.0, 60.0))


@dataclass(frozen=True)
class Formula:
    """What the active model says of histories; vectors: by item, already multiplied by the fold-in scale."""

    vectors: Mapping[int, NDArray[np.float64]]
    recency: float
    signal_power: float
    disliked_strength: float
    history_items: int


@dataclass(frozen=True)
class State:
    """A user's state."""

    item_keys: list[int]
    weights: list[float]
    ages: list[int]
    seen_keys: set[int]
    vector: NDArray[np.float64] | None


def newest(events: Sequence[Told], count: int) -> list[Told]:
    """So many events, newest first, and all of the same time as the last of them."""
    times = sorted((event.time for event in events), reverse=True)[:count]
    return [event for event in events if event.time >= times[-1]]


def signals(events: Iterable[Told], now: datetime) -> dict[int, float]:
    """The signal of each item at a moment."""
    found: dict[int, float] = {}
    for event in events:
        found[event.item_key] = found.get(event.item_key, 0.0) + event.signal(now)
    return found


def state(events: Sequence[Told], formula: Formula, now: datetime) -> State:
    """The state that these events add up to, in whatever order they came."""
    by_item = signals(events, now)
    last = {item: max(event.time for event in events if event.item_key == item) for item in by_item}
    newest_first = sorted(by_item, key=lambda item: (-last[item].timestamp(), item))
    kept = [
        item
        for item in newest_first
        if by_item[item] > _NOTHING or (formula.disliked_strength and by_item[item] < -_NOTHING)
    ]
    kept = kept[: formula.history_items]
    times = [last[item] for item in kept]
    ages = [1 + len({time for time in times if time > own}) for own in times]
    parts = [
        (by_item[item] ** formula.signal_power if by_item[item] > 0 else formula.disliked_strength)
        * formula.recency ** (age - 1)
        * formula.vectors[item]
        for item, age in zip(kept, ages, strict=True)
        if item in formula.vectors
    ]
    return State(
        kept,
        [by_item[item] for item in kept],
        ages,
        {event.item_key for event in events if event.counts_as_seen},
        np.sum(parts, axis=0) if parts else None,
    )


def assert_same(found: State, wanted: State, tolerance: float = 1e-5) -> None:
    """Two states are the same, numbers to a tolerance (relative to the largest of a vector)."""
    assert found.item_keys == wanted.item_keys, f"{found} is not {wanted}"
    assert found.ages == wanted.ages, f"{found} is not {wanted}"
    assert found.seen_keys == wanted.seen_keys
    np.testing.assert_allclose(found.weights, wanted.weights, rtol=tolerance, atol=tolerance)
    assert (found.vector is None) == (wanted.vector is None)
    if found.vector is not None and wanted.vector is not None:
        scale = max(1.0, float(np.abs(wanted.vector).max()))
        np.testing.assert_allclose(found.vector, wanted.vector, rtol=0, atol=tolerance * scale)


_EVENTS = b"""
SELECT e.user_key, e.item_key, t.event_type, t.weight, t.half_life_s, t.counts_as_seen, e.value, e.event_time
FROM events e JOIN event_types t USING (tenant_key, event_type_key) WHERE e.tenant_key = %s
"""
_STATES = b"""
SELECT user_key, item_keys, weights, ages, seen_keys, vector::text, fold_time
FROM user_state WHERE tenant_key = %s ORDER BY user_key
"""
_MODEL = b"""
SELECT m.model_key, m.shard, m.recency, m.signal_power, m.disliked_strength
FROM tenants t JOIN models m ON m.tenant_key = t.tenant_key AND m.model_key = t.active_model_key
WHERE t.tenant_key = %s
"""
_VECTORS = b"SELECT item_key, fold_in_scale, vector::vector::text FROM item_factors WHERE shard = %s AND model_key = %s"


def read_formula(connection: psycopg.Connection[Any], tenant_key: int, history_items: int) -> Formula:
    """The formula of the tenant's active model."""
    model = connection.execute(_MODEL, [tenant_key]).fetchone()
    assert model is not None, "the tenant has no active model"
    model_key, shard, recency, signal_power, disliked_strength = model
    vectors = {
        item: scale * _numbers(vector) for item, scale, vector in connection.execute(_VECTORS, [shard, model_key])
    }
    return Formula(vectors, recency.get("collaborative", 1.0), signal_power, disliked_strength, history_items)


def read_events(connection: psycopg.Connection[Any], tenant_key: int) -> dict[int, list[Told]]:
    """All events of a tenant, by user."""
    found: dict[int, list[Told]] = {}
    for user_key, *fields in connection.execute(_EVENTS, [tenant_key]):
        found.setdefault(user_key, []).append(Told(*fields))
    return found


def read_states(connection: psycopg.Connection[Any], tenant_key: int) -> dict[int, tuple[State, datetime]]:
    """All states of a tenant as they are stored, by user, and when each was folded."""
    return {
        user_key: (
            State(items, weights, ages, set(seen), _numbers(vector) if vector is not None else None),
            fold_time,
        )
        for user_key, items, weights, ages, seen, vector, fold_time in connection.execute(_STATES, [tenant_key])
    }


def _numbers(text: str) -> NDArray[np.float64]:
    return np.fromstring(text.strip("[]"), sep=",")
