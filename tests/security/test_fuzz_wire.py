"""Any bytes at the port: the server goes on answering others, and keeps nothing of what it was sent."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

from recsvc.app import Service
from tests.api import Api
from tests.chaos.installation import ServerProcess
from tests.conftest import temporary_folder
from tests.security import wire
from tests.security.fuzzing import ROUNDS, Fuzzer

pytestmark = pytest.mark.timeout(1200)
_CONNECTIONS = 150 * ROUNDS
_AT_ONCE = 10
_ANSWER_S = 0.2
_HEALTH_S = 5.0
# The allocator's own share, which levels off (measured: 20 to 40 MiB); what were kept of each connection would pass it.
_GROWTH_MIB = 64
_HUGE_HEADER = wire.opening() + wire.a_call(extra=[(b"x-huge", b"h" * 200_000)])


@pytest.fixture(scope="module")
async def server(service: Service) -> AsyncIterator[ServerProcess]:
    """A server process of its own, whose memory is nobody else's."""
    home = temporary_folder()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RECSVC_")}
    process = ServerProcess(
        kept
        | {
            "RECSVC_DATABASE_URL": service.storage.urls.database_url,
            "RECSVC_REDIS_URL": service.storage.urls.redis_url,
            "RECSVC_SERVER__METRICS_PORT": "0",
        },
        home / "server.log",
    )
    process.start()
    try:
        await process.serves()
        yield process
    finally:
        process.kill()
        shutil.rmtree(home, ignore_errors=True)


def _resident_mib(server: ServerProcess) -> float:
    assert server.process is not None
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def _send(port: int, sent: bytes) -> bytes:
    """One connection: send it all, and read what comes until nothing comes for a while."""
    received = b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    # Most are cut off in the middle of what they send, which is as it should be.
    with suppress(ConnectionError, TimeoutError):
        writer.write(sent)
        async with asyncio.timeout(_ANSWER_S):
            await writer.drain()
            while part := await reader.read(65_536):
                received += part
    # close() would first wait until the other side has taken what it never will.
    writer.transport.abort()
    return received


async def _is_healthy(api: Api) -> bool:
    answer = await api.health.Check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_S)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def _attack(server: ServerProcess, api: Api, fuzzer: Fuzzer, connections: int) -> int:
    """Open so many connections, several at a time, with health checks of another client in between; bytes sent."""
    sent = 0
    for _ in range(connections // _AT_ONCE):
        attacks = [wire.hostile(fuzzer.dice) for _ in range(_AT_ONCE)]
        sent += sum(map(len, attacks))
        await asyncio.gather(*(_send(server.port, attack) for attack in attacks))
        assert await _is_healthy(api)
    return sent


async def test_a_valid_call_of_our_own_making_is_answered(server: ServerProcess) -> None:
    """Else the hostile ones would be refused for what is wrong with all of them."""
    answer = await _send(server.port, wire.opening() + wire.a_call())
    assert b"grpc-status" in answer
    assert b"\x08\x01" in answer, "the body of SERVING"


@pytest.mark.parametrize(
    "name", [b":path", b":authority", b"x-request-id", b"authorization", b"x-tenant-id", b"grpc-timeout"]
)
async def test_a_header_that_is_not_utf_8_stops_nobody(server: ServerProcess, name: bytes) -> None:
    """grpcio 1.84 and 1.85 end the whole server for such a path."""
    await _send(server.port, wire.opening() + wire.a_call(extra=[(name, b"/\xff/\xfe")]))
    async with Api.connected(server.port, "") as api:
        assert await _is_healthy(api)


async def test_whatever_bytes_come_the_server_answers_others_and_keeps_nothing(
    server: ServerProcess, fuzzer: Fuzzer, inputs: Counter[str]
) -> None:
    async with Api.connected(server.port, "") as api:
        # Pools and caches of the process fill once.
        await _attack(server, api, fuzzer, 100)
        before = _resident_mib(server)
        sent = await _attack(server, api, fuzzer, _CONNECTIONS)
        growth = _resident_mib(server) - before
    inputs["connections"] += 100 + _CONNECTIONS
    print(f"{_CONNECTIONS} connections sent {sent / 2**20:.1f} MiB; the server grew by {growth:.1f} MiB")
    assert server.is_alive
    assert growth < _GROWTH_MIB


async def test_refused_headers_are_not_held_until_the_garbage_collector_gets_round_to_it(server: ServerProcess) -> None:
    """A few objects each, so that no count of objects tells of the 200 KB that hang on them."""
    before = _resident_mib(server)
    for _ in range(25):
        await asyncio.gather(*(_send(server.port, _HUGE_HEADER) for _ in range(2 * _AT_ONCE)))
    growth = _resident_mib(server) - before
    print(f"{500 * len(_HUGE_HEADER) / 2**20:.0f} MiB of headers; the server grew by {growth:.1f} MiB")
    assert growth < _GROWTH_MIB
