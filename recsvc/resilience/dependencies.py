"""How the servers that the service depends on are doing, looked at now and then in the background.

One slow answer does not count: a condition changes only after it was found some times in a row. Looks are jittered, so
that many processes do not ask in the same moment, and none takes longer than its time-out.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Self, TypeAlias

import structlog

from recsvc.domain.errors import DeadlinePassed
from recsvc.resilience.background import Background
from recsvc.resilience.in_time import in_time

_log = structlog.get_logger(__name__)
_TIMEOUT_S = 2.0
_JITTER = 0.25
_BAD_LOOKS, _GOOD_LOOKS = 3, 2


class Condition(Enum):
    """WELL: it answers. AWAY: it does not, or too late. UNFIT: it answers, and is not what this version needs."""

    WELL = "well"
    AWAY = "away"
    UNFIT = "unfit"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look found; detail: for the log, what is wrong."""

    condition: Condition
    detail: str = ""


Look: TypeAlias = Callable[[], Awaitable[Finding]]
OnChange: TypeAlias = Callable[[str, Condition], None]
"""Told the name of a dependency and its condition, first after the first look."""


@dataclass(slots=True)
class Steady:
    """A condition that gives way to another once that was found often enough in a row: 3 times, 2 for WELL."""

    condition: Condition
    _other: Condition | None = field(default=None, init=False)
    _times: int = field(default=0, init=False)

    def saw(self, found: Condition) -> bool:
        """Take one more finding into account; returns whether the condition has changed."""
        if found is self.condition:
            self._other = None
            return False
        self._times = self._times + 1 if found is self._other else 1
        self._other = found
        if self._times < (_GOOD_LOOKS if found is Condition.WELL else _BAD_LOOKS):
            return False
        self.condition, self._other = found, None
        return True


class DependencyWatch:
    """An async context manager around the looks at each dependency."""

    def __init__(self, looks: Mapping[str, Look], on_change: OnChange, *, every_s: float) -> None:
        """looks: by name of the dependency. every_s: time between two looks at one, give or take a quarter."""
        self._looks = looks
        self._on_change = on_change
        self._every_s = every_s
        self._background = Background()

    async def __aenter__(self) -> Self:
        """Look at each once, which takes two seconds at most, and go on with it in the background."""
        found = await asyncio.gather(*(_look(look) for look in self._looks.values()))
        for name, first in zip(self._looks, found, strict=True):
            self._tell(name, first)
            self._background.begin([self._follow(name, Steady(first.condition))])
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Look no more."""
        await self._background.end()

    async def _follow(self, name: str, steady: Steady) -> None:
        while not self._background.is_ending:
            await self._background.rest(self._every_s * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311  (jitter)
            found = await _look(self._looks[name])
            if steady.saw(found.condition):
                self._tell(name, found)

    def _tell(self, name: str, found: Finding) -> None:
        level = logging.INFO if found.condition is Condition.WELL else logging.WARNING
        _log.log(level, "dependency", dependency=name, condition=found.condition.value, detail=found.detail)
        self._on_change(name, found.condition)


async def _look(look: Look) -> Finding:
    async def begun() -> Finding:
        return await look()

    try:
        return await in_time(begun(), _TIMEOUT_S)
    except DeadlinePassed:
        return Finding(Condition.AWAY, "no answer in time")
    except Exception as error:
        # A look that fails in a way nobody thought of must not end the looks.
        _log.exception("dependency.look_failed")
        return Finding(Condition.AWAY, type(error).__name__)
