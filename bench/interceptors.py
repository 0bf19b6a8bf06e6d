"""What each stage around a call costs, against a bare grpc.aio echo in the same process.

One server process listens on a port for each row: the bare echo, then the same echo with one stage more each time.
The rows are called in turn, in another order each round, so that whatever else the machine does meets all of them
alike: a few calls of one caller, one after the other as a busy server has them, then some callers at once, for the CPU
time of the server. Medians are told.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import uvloop
from rich.table import Table

from recsvc.cache.permits import Permits
from recsvc.cache.redis_client import RedisClient
from recsvc.domain.consistency import ConsistencyTokens
from recsvc.domain.ids import TenantId, TenantKey
from recsvc.domain.tenancy import ApiKey, Scope, TenantProfile, TenantSettings
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from recsvc.rpc.authentication import Authenticator
from recsvc.rpc.interceptors.access_log import AccessLog
from recsvc.rpc.interceptors.audit import Auditing
from recsvc.rpc.interceptors.auth import Authentication, required_scopes
from recsvc.rpc.interceptors.consistency import ReadYourWrites
from recsvc.rpc.interceptors.limits import Limits
from recsvc.rpc.interceptors.observation import Observation
from recsvc.rpc.interceptors.request_id import HEADER
from recsvc.rpc.key_hasher import KeyHasher
from recsvc.rpc.methods import policies
from recsvc.rpc.pipeline import Pipeline, Stage
from recsvc.rpc.server import FILES
from recsvc.rpc.tenant_limits import TenantLimitSource
from recsvc.rpc.validation import RequestValidator
from recsvc.settings import AccessLogSettings, AuthSettings, CacheSettings, LimitSettings, ServerSettings
from recsvc.storage.api_keys import StoredKey
from recsvc.telemetry.metrics import Metrics

_SERVICE, _METHOD = "recsvc.v1.RecommendationService", "Recommend"
_ROWS = (
    "bare echo",
    "+ parsing the request",
    "+ the request id in the initial metadata",
    "+ pipeline, request id, errors",
    "+ access log, nothing told of",
    "+ observation",
    "+ auth, key cached",
    "+ validation",
    "+ limits, none set",
    "+ read-your-writes, not asked for",
    "the same with a rate limit set",
)
_ANSWER_BYTES = 600
_CALLERS = 8
_CALLS_OF_A_CALLER = 15
_SINGLE_CALLS = 20
_CALLS_BEFORE = 3


@dataclass(frozen=True, slots=True)
class StageCosts:
    """Microseconds a call by row: as one caller sees it, and CPU time of the server under a load."""

    wall_us: Sequence[float]
    cpu_us: Sequence[float]

    def table(self) -> Table:
        """The rows, what each adds, and how much all up to it add to the bare echo."""
        table = Table("", "µs a call", "adds", "to echo", "CPU µs", "adds", "to echo", title="stages around a call")
        for index, name in enumerate(_ROWS):
            cells = []
            for costs in (self.wall_us, self.cpu_us):
                # The last row stands beside the one before it, not on top of it.
                before = costs[index - 1] if index else costs[0]
                cells += [f"{costs[index]:.0f}", f"{costs[index] - before:+.0f}", f"{costs[index] / costs[0] - 1:+.0%}"]
            table.add_row(name, *cells)
        return table

    def figures(self) -> dict[str, float]:
        """The same by name."""
        return {
            f"{name}: {kind} µs": costs[index]
            for index, name in enumerate(_ROWS)
            for kind, costs in (("wall", self.wall_us), ("CPU", self.cpu_us))
        }


async def measure(redis_url: str, rounds: int) -> StageCosts:
    """Start the server and call all rows in turn, so many rounds."""
    server = subprocess.Popen(  # noqa: ASYNC220  (before anything is measured)
        [sys.executable, "-m", "bench.interceptors", redis_url], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        key, *ports = server.stdout.readline().split()
        async with AsyncExitStack() as stack:
            channels = [
                await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}")) for port in ports
            ]
            stubs = [channel.unary_unary(f"/{_SERVICE}/{_METHOD}") for channel in channels]
            bodies = itertools.cycle(
                pb.RecommendRequest(user_id=f"u{number}", count=10).SerializeToString() for number in range(50)
            )

            async def called(stub: Callable[..., Any], times: int) -> None:
                for _ in range(times):
                    await stub(next(bodies), metadata=(("authorization", f"Bearer {key}"),), timeout=30)

            return await _measured(stubs, called, server.pid, rounds)
    finally:
        server.terminate()
        server.wait(30)


async def _measured(stubs: Sequence[Any], called: Callable[..., Any], pid: int, rounds: int) -> StageCosts:
    wall: list[list[float]] = [[] for _ in stubs]
    cpu: list[list[float]] = [[] for _ in stubs]
    for stub in stubs:
        await called(stub, 50)
    rows = list(enumerate(stubs))
    rng = random.Random(0)
    for _ in range(rounds):
        rng.shuffle(rows)
        for index, stub in rows:
            # Whatever the row before left running is over, and this one's code is in the processor's caches.
            await called(stub, _CALLS_BEFORE)
            for _ in range(_SINGLE_CALLS):
                start = time.perf_counter()
                await called(stub, 1)
                wall[index].append((time.perf_counter() - start) * 1e6)
            start = cpu_us(pid)
            await asyncio.gather(*(called(stub, _CALLS_OF_A_CALLER) for _ in range(_CALLERS)))
            cpu[index].append((cpu_us(pid) - start) / (_CALLERS * _CALLS_OF_A_CALLER))
    return StageCosts([statistics.median(row) for row in wall], [statistics.median(row) for row in cpu])


def cpu_us(pid: int) -> float:
    """CPU time of all threads of a process; /proc/<pid>/stat knows it to ten milliseconds only."""
    nanoseconds = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        nanoseconds += int(path.read_text(encoding="ascii").split()[0])
    return nanoseconds / 1000


class _Keys:
    """The one key of this bench, as the repository would find it."""

    def __init__(self, key_id: str, secret_hash: str) -> None:
        api_key = ApiKey(key_id, "", frozenset(Scope), datetime.now(UTC))
        self._stored = StoredKey(api_key, TenantKey(1), TenantId("bench"), secret_hash, None, None)

    async def find(self, _key_id: str) -> StoredKey:
        return self._stored

    async def note_use(self, _key_id: str, _at_most_every: timedelta) -> None:
        pass


class _Profiles:
    """The one tenant, without settings of its own."""

    async def get(self, tenant_key: TenantKey) -> TenantProfile:
        return TenantProfile(tenant_key, TenantId("bench"), 1, TenantSettings(), (), None)


class _NoValidator:
    def check(self, _message: Any) -> dict[int, Any]:
        return {}


async def _serve(redis_url: str) -> None:
    answer = b"x" * _ANSWER_BYTES

    async def echo(_request: Any, _context: Any) -> bytes:
        return answer

    async def echo_with_header(_request: Any, context: Any) -> bytes:
        await context.send_initial_metadata(((HEADER, "0123456789abcdef" * 2),))
        return answer

    auth_settings = AuthSettings(argon2_time_cost=1, argon2_memory_kib=64)
    hasher = KeyHasher(auth_settings)
    fresh = await hasher.make()
    keys: Any = _Keys(fresh.key_id, fresh.secret_hash)
    authenticator = Authenticator(keys, hasher, lambda: True, auth_settings, Metrics())
    tenants: Any = None
    audit_log: Any = None
    replicas: Any = None
    redis = RedisClient(redis_url, CacheSettings(), Metrics())

    def limits(settings: LimitSettings) -> Limits:
        return Limits(TenantLimitSource(_Profiles(), settings), Permits(redis))  # type: ignore[arg-type]

    logged = (AccessLog(AccessLogSettings()),)
    observed = (*logged, Observation(Metrics(), are_traced=False))
    scopes = required_scopes(FILES)
    known = (*observed, Auditing(audit_log, scopes), Authentication(authenticator, tenants, scopes, {}))
    unlimited = (*known, limits(LimitSettings()))
    read_your_writes = ReadYourWrites(replicas, ConsistencyTokens(bytes(32)))
    limited = (*known, limits(LimitSettings(reads_per_second=20_000, key_share=0.5)), read_your_writes)
    settings = ServerSettings()
    ports, servers = [], []
    parse = pb.RecommendRequest.FromString

    def pipeline(stages: Sequence[Stage], validator: Any) -> Pipeline:
        return Pipeline(stages, validator, policies(FILES, settings), settings)

    for answered, deserializer, around in (
        (echo, None, None),
        (echo, parse, None),
        (echo_with_header, parse, None),
        (echo, parse, pipeline((), _NoValidator())),
        (echo, parse, pipeline(logged, _NoValidator())),
        (echo, parse, pipeline(observed, _NoValidator())),
        (echo, parse, pipeline(known, _NoValidator())),
        (echo, parse, pipeline(known, RequestValidator())),
        (echo, parse, pipeline(unlimited, RequestValidator())),
        (echo, parse, pipeline((*unlimited, read_your_writes), RequestValidator())),
        (echo, parse, pipeline(limited, RequestValidator())),
    ):
        handler = grpc.unary_unary_rpc_method_handler(answered, request_deserializer=deserializer)
        server = grpc.aio.server()
        if around is None:
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),))
        else:
            around.add_registered_method_handlers(_SERVICE, {_METHOD: handler})
            server.add_generic_rpc_handlers((around,))
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        servers.append(server)
    print(fresh.text, *ports, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
