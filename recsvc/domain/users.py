"""Users: known people, and the anonymous sessions that may become one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import TypeAlias

from recsvc.domain.ids import UserId


class UserKind(IntEnum):
    """Both kinds have history and state; a session becomes a user by MergeUsers. Ids of the two never collide."""

    USER = 0
    SESSION = 1


Identity: TypeAlias = tuple[UserKind, str]
"""A user or session as callers name them."""


@dataclass(frozen=True, slots=True)
class User:
    """One known user and what the caller says of them."""

    user_id: UserId
    attributes: Mapping[str, object] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    create_time: datetime | None = None
    update_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Erasure:
    """What DeleteUser removed, by kind of data."""

    events: int
    shown: int
    states: int
    users: int
