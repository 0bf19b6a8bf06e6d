"""Any bytes to any method of a running service: it answers with a canonical error that a caller can act on.

INTERNAL and UNKNOWN would be ours to mend, whoever caused them; no message tells of SQL, hosts, paths or code.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from recsvc.app import Service
from recsvc.domain.models import TrainingState
from tests.api import Api
from tests.security.calling import Outcome, outcomes
from tests.security.fuzzing import ROUNDS, Fuzzer
from tests.security.scenarios import METHODS, requests_of
from tests.security.tenants import Party, a_party

pytestmark = pytest.mark.timeout(1200)
_CONCURRENCY = 8
_OURS_TO_MEND = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS", "UNAVAILABLE"})
_INTERNALS = re.compile(
    r"Traceback|\.py\b|psycopg|\bSELECT\b|\bINSERT\b|\bUPDATE\b|recsvc_app|tenant_key|/root/|/usr/|/tmp/|127\.0\.0\.1|localhost"
    r"|\.sock|[a-z]Error\b|Exception|at 0x[0-9a-f]+"
)
# They change how all other calls of the tenant are treated.
_LAST = ("AdminService/UpdateTenant", "CatalogService/UpdateAttributeSchema")
_IN_TURN = sorted(METHODS, key=lambda path: (path.endswith(_LAST), path))


@pytest.fixture(scope="module")
async def party(service: Service) -> AsyncIterator[Party]:
    """Who calls: a tenant with data, in which a training run is under way, so that no other one begins."""
    async with a_party(service, "fuzzed") as made:
        yield made


def _statuses(message: Any) -> Iterator[status_pb2.Status]:
    """All statuses within a response: what became of the elements of a batch."""
    if isinstance(message, status_pb2.Status):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for child in value if field.is_repeated else [value]:
            yield from _statuses(child)


def _faults(outcome: Outcome) -> list[str]:
    """What is wrong with how a call ended."""
    faults = [outcome.code] if outcome.code in _OURS_TO_MEND else []
    if outcome.code != "OK" and not _reason(outcome.status):
        faults.append(f"{outcome.code} without a reason: {outcome.status.message[:200]}")
    statuses = [outcome.status, *(status for response in outcome.responses for status in _statuses(response))]
    faults += [code_pb2.Code.Name(status.code) for status in statuses if status.code in (2, 13, 14, 15)]
    return faults + [found.group() for status in statuses if (found := _INTERNALS.search(str(status)))]


def _reason(status: status_pb2.Status) -> str:
    info = error_details_pb2.ErrorInfo()
    return next((info.reason for detail in status.details if detail.Unpack(info)), "")


async def _hostile_calls(party: Party, service: Service, fuzzer: Fuzzer, path: str, count: int) -> list[str]:
    method = METHODS[path]
    seeds = requests_of(path, party.names)
    room = asyncio.Semaphore(_CONCURRENCY)
    found: list[str] = []

    def request() -> Message | bytes:
        seed = fuzzer.dice.choice(seeds)
        match fuzzer.dice.randint(0, 3):
            case 0:
                return fuzzer.mutated(seed.SerializeToString())
            case 1:
                return fuzzer.message(method.input_type)
        return fuzzer.disturbed(seed)

    async def call(sent: Any) -> None:
        async with room:
            for outcome in await outcomes(party.api.channel, path, [sent]):
                found.extend(f"{path}: {fault} for {sent!r:.2000}" for fault in _faults(outcome))

    run = await service.storage.training_runs.start(party.tenant.tenant_key, {})
    try:
        await asyncio.gather(*(call(request()) for _ in range(count)))
    finally:
        await service.storage.training_runs.finish(party.tenant.tenant_key, run.training_run_id, TrainingState.FAILED)
    return found


@pytest.mark.parametrize("path", _IN_TURN)
async def test_a_hostile_call_is_answered_and_never_by_internal(
    party: Party, service: Service, fuzzer: Fuzzer, inputs: Counter[str], path: str
) -> None:
    count = 30 * ROUNDS
    found = await _hostile_calls(party, service, fuzzer, path, count)
    inputs["calls"] += count
    assert found == []


async def test_a_mutated_key_opens_nothing(
    party: Party, service: Service, fuzzer: Fuzzer, inputs: Counter[str]
) -> None:
    path = "/recsvc.v1.AdminService/GetServiceInfo"
    count = 100 * ROUNDS
    printable = re.compile(r"[^ -~]")
    for number in range(count):
        text = printable.sub("", fuzzer.mutated_text(f"Bearer {party.secret}", ("rk_", "_", "-", " ", "Bearer", "a")))
        name = ("authorization", "x_api_key")[number % 2]
        async with Api.connected(service.port, "", **{name: text if name == "authorization" else text[7:]}) as api:
            (outcome,) = await outcomes(api.channel, path, requests_of(path, party.names))
        assert (outcome.code == "OK") <= (party.secret in text), text
        assert _faults(outcome) == [], text
    inputs["keys"] += count
