"""The memory of states is bounded in size and time, and the least asked for goes first."""

from __future__ import annotations

import numpy as np

from recsvc.domain.ids import TenantKey, UserKey
from recsvc.domain.users import UserKind
from recsvc.engine.remembered_states import RememberedStates
from recsvc.storage.snapshots import SubjectState

_TENANT = TenantKey(1)


def a_state(user: int, items: int = 30) -> SubjectState:
    keys = np.arange(items)
    return SubjectState(UserKey(user), 1, 1, None, items, keys, np.ones(items), np.ones(items), keys, None)


def remembered(memory: RememberedStates, users: int) -> list[int]:
    return [user for user in range(users) if memory.find(_TENANT, UserKind.USER, f"u{user}") is not None]


def remember(memory: RememberedStates, user: int, items: int = 30) -> None:
    memory.remember(_TENANT, UserKind.USER, f"u{user}", a_state(user, items))


def test_a_state_is_found_under_its_tenant_its_kind_and_its_id_alone() -> None:
    memory = RememberedStates(limit_bytes=10**6, life_s=60)
    remember(memory, 0)
    assert memory.find(_TENANT, UserKind.USER, "u0") is not None
    assert memory.find(TenantKey(2), UserKind.USER, "u0") is None
    assert memory.find(_TENANT, UserKind.SESSION, "u0") is None


def test_when_there_is_no_room_who_was_asked_for_least_lately_is_forgotten() -> None:
    memory = RememberedStates(limit_bytes=10_000, life_s=60)
    for user in (0, 1, 2, 3, 0, 4, 5):
        remember(memory, user)
    assert remembered(memory, 6) == [0, 2, 3, 4, 5]


def test_a_state_that_is_larger_than_the_memory_puts_nobody_out() -> None:
    memory = RememberedStates(limit_bytes=10_000, life_s=60)
    remember(memory, 0)
    remember(memory, 1, items=1000)
    assert remembered(memory, 2) == [0]


def test_a_state_that_is_remembered_again_takes_the_place_of_the_one_before() -> None:
    memory = RememberedStates(limit_bytes=10_000, life_s=60)
    for _ in range(100):
        remember(memory, 0)
    remember(memory, 1)
    assert remembered(memory, 2) == [0, 1]


def test_an_old_state_is_not_found() -> None:
    memory = RememberedStates(limit_bytes=10**6, life_s=0.0)
    remember(memory, 0)
    assert remembered(memory, 1) == []
