"""Tenant profiles in process: one caller at a time loads, and an absent database is waited for once."""

from __future__ import annotations

import asyncio

import pytest

from recsvc.domain.errors import StorageUnavailable
from recsvc.domain.ids import TenantKey
from recsvc.engine.profiles import TenantProfiles
from recsvc.telemetry.metrics import Metrics

_TENANT = TenantKey(1)


class Tenants:
    """Counts loads; each takes a moment, and fails while the database is away."""

    def __init__(self) -> None:
        self.loads = 0
        self.is_away = False
        self.is_slow = False

    async def profile(self, _tenant_key: TenantKey) -> object:
        self.loads += 1
        await asyncio.sleep(0.01)
        if self.is_away:
            raise StorageUnavailable
        return _Profile(self.loads)


class _Profile:
    def __init__(self, version: int) -> None:
        self.version = version


@pytest.fixture
def tenants() -> Tenants:
    return Tenants()


@pytest.fixture
def profiles(tenants: Tenants) -> TenantProfiles:
    return TenantProfiles(tenants, None, Metrics(), lambda: tenants.is_slow)  # type: ignore[arg-type]


async def test_many_callers_load_once(tenants: Tenants, profiles: TenantProfiles) -> None:
    await asyncio.gather(*(profiles.get(_TENANT) for _ in range(10)))
    assert tenants.loads == 1


async def test_an_absent_database_is_waited_for_once(tenants: Tenants, profiles: TenantProfiles) -> None:
    before = await profiles.get(_TENANT)
    tenants.is_away = True
    found = await asyncio.gather(*(profiles.get(_TENANT, at_least=2) for _ in range(10)))
    assert set(found) == {before}
    assert tenants.loads == 2


async def test_without_an_old_profile_all_are_told_at_once(tenants: Tenants, profiles: TenantProfiles) -> None:
    tenants.is_away = True
    told = await asyncio.gather(*(profiles.get(_TENANT) for _ in range(10)), return_exceptions=True)
    assert {type(error) for error in told} == {StorageUnavailable}
    assert tenants.loads == 1


async def test_a_database_that_is_back_is_asked_again(
    tenants: Tenants, profiles: TenantProfiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    await profiles.get(_TENANT)
    tenants.is_away = True
    await profiles.get(_TENANT, at_least=2)
    tenants.is_away = False
    monkeypatch.setattr("recsvc.engine.profiles._LIFE_S", 0.0)
    assert (await profiles.get(_TENANT, at_least=3)).version == 3


@pytest.fixture
def no_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every profile is too old to be answered without a look."""
    monkeypatch.setattr("recsvc.engine.profiles._LIFE_S", 0.0)


@pytest.mark.usefixtures("no_life")
async def test_a_slow_database_is_not_waited_for_and_its_answer_is_there_for_the_next(
    tenants: Tenants, profiles: TenantProfiles
) -> None:
    await profiles.get(_TENANT)
    tenants.is_slow = True
    assert [(await profiles.get(_TENANT)).version for _ in range(5)] == [1] * 5
    await asyncio.sleep(0.05)
    assert (await profiles.get(_TENANT)).version == 2


@pytest.mark.usefixtures("no_life")
async def test_a_version_that_is_known_to_exist_is_waited_for_even_then(
    tenants: Tenants, profiles: TenantProfiles
) -> None:
    await profiles.get(_TENANT)
    tenants.is_slow = True
    assert (await profiles.get(_TENANT, at_least=2)).version == 2
