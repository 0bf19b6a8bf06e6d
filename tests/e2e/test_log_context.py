"""Lines that storage, cache and engine log while a call is being answered name the call, its tenant and its trace."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recsvc.app import Storage
from recsvc.domain.tenancy import Tenant
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from tests.api import Api
from tests.chaos.installation import ServerProcess
from tests.ports import free_port

_SOON_S = 20.0
_TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def without_redis(storage: Storage, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that logs a line whenever it asks Redis, and traces calls for a collector that is not there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RECSVC_")}
    environment = kept | {
        "RECSVC_DATABASE_URL": storage.urls.database_url,
        "RECSVC_REDIS_URL": f"redis://127.0.0.1:{free_port()}",
        "RECSVC_SERVER__START_WAIT_REDIS_S": "0",
        # Redis is asked again and again although it never answers.
        "RECSVC_CACHE__BREAKER_RESET_S": "0.05",
        "RECSVC_TRACING__ENABLED": "true",
        "RECSVC_TRACING__ENDPOINT": f"http://127.0.0.1:{free_port()}",
    }
    server = ServerProcess(environment, tmp_path / "log")
    server.start()
    yield server
    server.kill()


async def test_a_line_of_the_cache_names_the_call_that_it_was_asked_for(
    without_redis: ServerProcess, key: str, new_tenant: Tenant
) -> None:
    await without_redis.serves()
    async with Api.connected(without_redis.port, key) as api:
        metadata = (("x-request-id", "r-42"), ("traceparent", f"00-{_TRACE_ID}-00f067aa0ba902b7-01"))
        async with asyncio.timeout(_SOON_S):
            while b'"r-42"' not in without_redis.log.read_bytes():
                await api.recommendations.Recommend(pb.RecommendRequest(user_id="u", count=3), metadata=metadata)
                await asyncio.sleep(0.1)
    without_redis.stop()

    lines: list[Any] = [json.loads(line) for line in without_redis.log.read_text("utf-8").splitlines()]
    failures = [line for line in lines if line["event"] == "redis.failed"]
    of_call = [line for line in failures if line.get("request_id") == "r-42"]
    assert {(line["tenant"], line["trace_id"]) for line in of_call} == {(new_tenant.tenant_id, _TRACE_ID)}
    # What the server does by itself is nobody's call.
    assert [line for line in failures if "request_id" not in line and "trace_id" not in line]
