"""What is read for all who may need it belongs to none of them."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

from recsvc.domain.errors import StorageUnavailable
from recsvc.domain.ids import TenantId, TenantKey
from recsvc.domain.tenancy import TenantProfile, TenantSettings
from recsvc.engine.trending_memory import TrendingMemory

_CALLER: ContextVar[str] = ContextVar("caller", default="nobody")


class Away:
    """Candidates of a database that is away; notes who asked."""

    def __init__(self) -> None:
        self.asked_by: list[str] = []

    async def find(self, *_: Any) -> None:
        self.asked_by.append(_CALLER.get())
        raise StorageUnavailable


async def test_the_call_that_has_it_read_is_not_whom_it_is_read_for() -> None:
    candidates: Any = Away()
    profile = TenantProfile(TenantKey(1), TenantId("shop"), 1, TenantSettings(), (), None)
    _CALLER.set("a call")
    async with TrendingMemory(candidates, items=candidates) as memory:
        memory.keep_up(profile)
        await asyncio.sleep(0)
        assert candidates.asked_by == ["nobody"]
