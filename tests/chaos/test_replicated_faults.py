"""A replica, the primary or a worker fails under steady load: all lists are answered, no acknowledged event is lost.

The rows go on with the table of `test_faults.py`. These faults the service gets over by itself, so recovery counts from
their beginning: until a fresh list was answered in full. Callers have the service config that docs/guides/clients.md
recommends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import pytest

from recsvc_client.client import SERVICE_CONFIG
from tests.api import Api
from tests.chaos.replicated import REPLICATED_FAULTS, ReplicatedInstallation, replicated
from tests.chaos.steady_load import (
    AVAILABILITY,
    FAULT_S,
    Answers,
    Outcome,
    asked_for,
    make_known,
    normally,
    open_breakers,
    recording,
    recovery_s,
    stored,
)

pytestmark = pytest.mark.timeout(600)
_CALLERS = 8
_CHANNEL = (
    ("grpc.service_config", SERVICE_CONFIG),
    # A connection of its own for each caller, and no pause of up to two minutes between attempts to have one.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


@pytest.fixture(scope="module")
async def installation() -> AsyncIterator[ReplicatedInstallation]:
    """Two workers, a primary and a replica."""
    async with replicated(seed=1) as ready:
        yield ready


@pytest.fixture(scope="module")
async def apis(installation: ReplicatedInstallation) -> AsyncIterator[Sequence[Api]]:
    """Callers with connections of their own, which have asked for the lists of users before."""
    async with AsyncExitStack() as stack:
        callers = [
            await stack.enter_async_context(
                Api.connected(installation.server.port, installation.key, options=(*_CHANNEL, ("caller", number)))
            )
            for number in range(_CALLERS)
        ]
        await make_known(callers)
        yield callers


@pytest.fixture(scope="module")
async def normal(apis: Sequence[Api]) -> Answers:
    """What calls get while all is well."""
    return await normally(apis)


@pytest.mark.parametrize("name", REPLICATED_FAULTS)
async def test_lists_are_answered_and_events_are_kept_while_a_server_of_several_fails(
    installation: ReplicatedInstallation, apis: Sequence[Api], normal: Answers, name: str
) -> None:
    async with recording(apis) as recorded:
        async with REPLICATED_FAULTS[name](installation):
            recovering = asyncio.create_task(recovery_s(apis[0]))
            first = await asked_for(apis, FAULT_S / 2)
            opened = await asyncio.to_thread(open_breakers, installation)
            later = await asked_for(apis, FAULT_S / 2)
        recovered_s = await recovering
    found = await asyncio.to_thread(stored, installation)
    outcome = Outcome(normal, first, later, opened, recovered_s, recorded, found)
    print(outcome.row(name))
    assert outcome.whole.known_answered >= AVAILABILITY, outcome.whole.failures
    assert not outcome.whole.failures
    assert (outcome.lost, outcome.doubled) == (set(), set())
    if name != "primary failover":
        assert outcome.whole.levels.keys() == {"NONE"}
