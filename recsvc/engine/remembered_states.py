"""The states of those whose lists were asked for last, for the time when the database does not answer.

A state that is found here may be outdated, and nothing but a list that says so is made from it: the fresh ones read
states anew each time.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, replace

from recsvc.domain.ids import TenantKey
from recsvc.domain.users import UserKind
from recsvc.storage.snapshots import SubjectState

# Of the objects around the arrays.
_STATE_BYTES = 1000
_Who = tuple[TenantKey, UserKind, str]


@dataclass(frozen=True, slots=True)
class _Remembered:
    state: SubjectState
    read_s: float
    size_bytes: int


class RememberedStates:
    """A bounded memory; the state that was asked for least lately goes first."""

    def __init__(self, limit_bytes: int, life_s: float) -> None:
        """life_s: older states are not found any more."""
        self._limit_bytes = limit_bytes
        self._life_s = life_s
        self._states: OrderedDict[_Who, _Remembered] = OrderedDict()
        self._size_bytes = 0

    def remember(self, tenant_key: TenantKey, kind: UserKind, user_id: str, state: SubjectState) -> None:
        """Keep a state in place of the one before."""
        who = (tenant_key, kind, user_id)
        self._drop(who)
        # Arrays of its own: those of a state may be parts of one that holds the states of many.
        state = replace(
            state,
            item_keys=state.item_keys.copy(),
            weights=state.weights.copy(),
            ages=state.ages.copy(),
            seen_keys=state.seen_keys.copy(),
            vector=state.vector.copy() if state.vector is not None else None,
        )
        size_bytes = _size_bytes(state)
        if size_bytes > self._limit_bytes:
            return
        self._states[who] = _Remembered(state, time.monotonic(), size_bytes)
        self._size_bytes += size_bytes
        while self._size_bytes > self._limit_bytes:
            self._drop(next(iter(self._states)))

    def find(self, tenant_key: TenantKey, kind: UserKind, user_id: str) -> SubjectState | None:
        """The state as it was last; None for whoever was not asked for lately."""
        remembered = self._states.get((tenant_key, kind, user_id))
        if remembered is None or time.monotonic() - remembered.read_s > self._life_s:
            return None
        return remembered.state

    def _drop(self, who: _Who) -> None:
        dropped = self._states.pop(who, None)
        if dropped is not None:
            self._size_bytes -= dropped.size_bytes


def _size_bytes(state: SubjectState) -> int:
    arrays = (state.item_keys, state.weights, state.ages, state.seen_keys, state.vector)
    return _STATE_BYTES + sum(array.nbytes for array in arrays if array is not None)
