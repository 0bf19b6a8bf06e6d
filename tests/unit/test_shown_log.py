"""The log of shown lists under pressure: who waits loses nothing, who does not wait is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from recsvc.domain.errors import StorageUnavailable
from recsvc.domain.ids import TenantKey
from recsvc.domain.users import UserKind
from recsvc.engine import shown_log
from recsvc.engine.shown_log import ShownLog
from recsvc.storage.shown import ShownList
from recsvc.telemetry.metrics import Metrics

_TENANT = TenantKey(1)


def _list(number: int) -> ShownList:
    return ShownList(str(number), UserKind.USER, None, "AUTO", "", "", (), datetime.now(UTC))


class Log:
    """Takes lists as the repository does, or fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.ids: list[str] = []
        self.written = asyncio.Event()

    async def insert(self, _tenant_key: TenantKey, lists: Sequence[ShownList]) -> None:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise StorageUnavailable
        self.ids += [shown.recommendation_id for shown in lists]
        self.written.set()


def _dropped(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("recsvc_shown_dropped_total") or 0.0


async def test_lists_beyond_the_queue_wait_and_are_all_written() -> None:
    log, metrics = Log(), Metrics()
    async with ShownLog(log, metrics, capacity=3) as shown:  # type: ignore[arg-type]
        for number in range(20):
            await shown.add_patiently(_TENANT, _list(number))
    assert log.ids == [str(number) for number in range(20)]
    assert _dropped(metrics) == 0


async def test_lists_outlive_a_database_that_is_away_for_a_while() -> None:
    log, metrics = Log(failures=2), Metrics()
    async with ShownLog(log, metrics, capacity=10) as shown:  # type: ignore[arg-type]
        for number in range(5):
            shown.add(_TENANT, _list(number))
        await asyncio.wait_for(log.written.wait(), 10)
    assert log.ids == [str(number) for number in range(5)]
    assert _dropped(metrics) == 0


async def test_who_waits_in_vain_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown_log, "_ROOM_TIMEOUT_S", 0.05)
    log, metrics = Log(failures=1000), Metrics()
    async with ShownLog(log, metrics, capacity=2) as shown:  # type: ignore[arg-type]
        for number in range(2):
            await shown.add_patiently(_TENANT, _list(number))
        with pytest.raises(StorageUnavailable):
            await shown.add_patiently(_TENANT, _list(2))
    assert _dropped(metrics) == 2


async def test_who_does_not_wait_is_counted() -> None:
    log, metrics = Log(), Metrics()
    async with ShownLog(log, metrics, capacity=2) as shown:  # type: ignore[arg-type]
        for number in range(5):
            shown.add(_TENANT, _list(number))
    assert log.ids == ["0", "1"]
    assert _dropped(metrics) == 3


async def test_an_error_that_nobody_foresaw_costs_its_own_lists_and_no_later_ones() -> None:
    log, metrics = Log(), Metrics()
    bad = TenantKey(2)

    class Broken(Log):
        async def insert(self, tenant_key: TenantKey, lists: Sequence[ShownList]) -> None:
            if tenant_key == bad:
                raise RuntimeError
            await log.insert(tenant_key, lists)

    async with ShownLog(Broken(), metrics, capacity=10) as shown:  # type: ignore[arg-type]
        shown.add(bad, _list(0))
        shown.add(_TENANT, _list(1))
        async with asyncio.timeout(10):
            await log.written.wait()
        shown.add(_TENANT, _list(2))
    assert log.ids == ["1", "2"]
    assert _dropped(metrics) == 1
