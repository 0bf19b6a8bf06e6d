"""What Envoy lets in, passes on, keeps out and keeps to itself."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest

from recsvc.app import Service
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from tests.api import Api, failure
from tests.conftest import temporary_folder
from tests.envoy import Envoy, running_envoy
from tests.upstream import Upstream, listening_upstream

KEY = "rk_aaaaaaaaaaaa_" + "s" * 43


@pytest.fixture(scope="module")
async def upstream() -> AsyncIterator[Upstream]:
    """What stands behind Envoy."""
    async with listening_upstream() as listening:
        yield listening


@pytest.fixture(scope="module")
async def closed(upstream: Upstream) -> AsyncIterator[Envoy]:
    """An Envoy as it is unless told otherwise."""
    async with running_envoy(upstream.port) as envoy:
        yield envoy


@dataclass(frozen=True)
class Certificate:
    """Files of a certificate for 127.0.0.1 that signed itself."""

    certificate: Path
    private_key: Path


@pytest.fixture(scope="module")
def certificate() -> Iterator[Certificate]:
    """Made anew for each run."""
    folder = temporary_folder()
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    names = ["-subj", "/CN=recsvc", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [*command, *names, "-keyout", made.private_key, "-out", made.certificate],
        check=True,
        timeout=60,
        capture_output=True,
    )
    yield made
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
async def before_service(service: Service) -> AsyncIterator[Envoy]:
    """An Envoy in front of the real service, which has reflection and health."""
    async with running_envoy(service.port) as envoy:
        yield envoy


async def test_key_request_id_and_deadline_reach_the_service(closed: Envoy, upstream: Upstream) -> None:
    await closed.call("GET", "/v1/items", key=KEY, headers={"x-request-id": "mine", "grpc-timeout": "5S"})
    heard = upstream.heard[-1]
    assert (heard.metadata["authorization"], heard.metadata["x-request-id"]) == (f"Bearer {KEY}", "mine")
    assert heard.time_remaining_s == pytest.approx(5, abs=2)


async def test_what_a_caller_says_of_addresses_is_not_believed(closed: Envoy, upstream: Upstream) -> None:
    forged = {
        "x-forwarded-for": "10.0.0.1",
        "x-real-ip": "10.0.0.1",
        "forwarded": "for=10.0.0.1",
        "x-forwarded-host": "evil.example",
        "x-forwarded-client-cert": "By=evil",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-retry-on": "5xx",
        "x-envoy-original-path": "/evil",
    }
    await closed.call("GET", "/v1/items", key=KEY, headers=forged)
    metadata = upstream.heard[-1].metadata
    assert {name for name in forged if name in metadata} == {"x-forwarded-for"}
    assert "10.0.0.1" not in metadata["x-forwarded-for"]


async def test_a_call_for_another_tenant_is_refused_unless_allowed(closed: Envoy, upstream: Upstream) -> None:
    before = len(upstream.heard)
    other = {"x-tenant-id": "other"}
    refused = await closed.call("GET", "/v1/items", key=KEY, headers=other)
    assert (refused.status, refused.json()) == (403, {"code": 7, "message": "x-tenant-id is not accepted here"})
    assert len(upstream.heard) == before
    async with running_envoy(upstream.port, forward_tenant_header=True) as forwarding:
        await forwarding.call("GET", "/v1/items", key=KEY, headers=other)
    assert upstream.heard[-1].metadata["x-tenant-id"] == "other"


@pytest.mark.parametrize(
    "path",
    [
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.health.v1.Health/Check",
        "/recsvc.v1.CatalogService/../../grpc.health.v1.Health/Check",
        "/metrics",
    ],
)
async def test_nothing_but_the_contract_is_reached(before_service: Envoy, path: str) -> None:
    as_json = await before_service.call("POST", path, {})
    assert (as_json.status, as_json.json()["code"]) == (404, 5)
    for content_type, body in (
        ("application/grpc-web+proto", b"\0\0\0\0\0"),
        ("application/grpc-web-text", b"AAAAAAA="),
    ):
        as_web = await before_service.call("POST", path, body, headers={"content-type": content_type})
        assert (as_web.status, as_web.body) == (404, b"")


async def test_native_grpc_does_not_come_in_this_way(closed: Envoy) -> None:
    async with Api.connected(closed.port, KEY) as api:
        assert (await failure(api.catalog.ListItems(catalog_pb.ListItemsRequest()))).code == "UNIMPLEMENTED"


async def test_the_log_holds_neither_keys_nor_ids(closed: Envoy) -> None:
    await closed.call("GET", "/v1/users/user-42?page_token=t0ken", key=KEY, headers={"x-api-key": KEY})
    await closed.call("GET", "/v1/users/user-42", headers={"x-api-key": KEY, "x-request-id": "the-last"})
    async with asyncio.timeout(10):
        while "the-last" not in (log := closed.log_path.read_text(encoding="utf-8")):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    for secret in (KEY, KEY[:16], "user-42", "t0ken"):
        assert secret not in log
    last = next(json.loads(line) for line in log.splitlines() if "the-last" in line)
    assert (last["method"], last["http_status"]) == ("/recsvc.v1.UserService/GetUser", 200)


async def test_headers_beyond_the_limit_are_refused(closed: Envoy) -> None:
    refused = await closed.call("GET", "/v1/items", key=KEY, headers={"x-large": "x" * 33 * 1024})
    assert refused.status == 431
    assert (await closed.call("GET", "/v1/items", key=KEY, headers={"x-large": "x" * 8 * 1024})).status == 200


async def test_too_many_headers_are_refused(closed: Envoy) -> None:
    refused = await closed.call("GET", "/v1/items", key=KEY, headers={f"x-{number}": "" for number in range(70)})
    assert refused.status == 431


async def test_a_unary_call_does_not_wait_for_ever(upstream: Upstream) -> None:
    async with running_envoy(upstream.port, answer_timeout_s=0.5) as envoy:
        upstream.may_answer.clear()
        try:
            answer = await asyncio.wait_for(envoy.call("GET", "/v1/items", key=KEY), 10)
        finally:
            upstream.may_answer.set()
    assert (answer.status, answer.json()) == (504, {"code": 4, "message": "the answer took too long"})


async def test_a_caller_has_no_say_in_how_envoy_itself_works(closed: Envoy, upstream: Upstream) -> None:
    upstream.may_answer.clear()
    hurried = {"x-envoy-upstream-rq-timeout-ms": "1", "x-envoy-expected-rq-timeout-ms": "1"}
    called = asyncio.create_task(closed.call("GET", "/v1/items", key=KEY, headers=hurried))
    await asyncio.sleep(0.5)
    upstream.may_answer.set()
    assert (await called).status == 200


async def test_a_stream_may_wait_longer_than_a_unary_call(upstream: Upstream) -> None:
    async with running_envoy(upstream.port, answer_timeout_s=0.3) as envoy:
        upstream.may_answer.clear()
        called = asyncio.create_task(envoy.call("GET", "/v1/users/u:export", key=KEY))
        await asyncio.sleep(1)
        upstream.may_answer.set()
        assert (await called).status == 200


async def test_a_stream_on_which_nothing_moves_is_ended(upstream: Upstream) -> None:
    async with running_envoy(upstream.port, stream_idle_s=0.5) as envoy:
        upstream.may_answer.clear()
        try:
            answer = await asyncio.wait_for(envoy.call("GET", "/v1/users/u:export", key=KEY), 10)
        finally:
            upstream.may_answer.set()
    assert answer.status == 504


async def test_a_stream_does_not_live_for_ever(upstream: Upstream) -> None:
    async with running_envoy(upstream.port, stream_max_s=0.5) as envoy:
        upstream.may_answer.clear()
        try:
            answer = await asyncio.wait_for(envoy.call("GET", "/v1/users/u:export", key=KEY), 10)
        finally:
            upstream.may_answer.set()
    assert answer.status == 504


async def test_a_request_that_never_arrives_is_given_up(upstream: Upstream) -> None:
    async with running_envoy(upstream.port, request_timeout_s=0.5) as envoy:
        reader, writer = await asyncio.open_connection("127.0.0.1", envoy.port)
        writer.write(b"POST /v1/items HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{")
        answer = await asyncio.wait_for(reader.readline(), 10)
        writer.close()
    assert answer.split()[1] == b"408"


async def test_calls_beyond_the_limit_are_refused_at_once(upstream: Upstream) -> None:
    async with running_envoy(upstream.port, max_calls=2) as envoy:
        upstream.may_answer.clear()
        before = len(upstream.heard)
        held = [asyncio.create_task(envoy.call("GET", "/v1/items", key=KEY)) for _ in range(2)]
        async with asyncio.timeout(10):
            while len(upstream.heard) < before + 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        refused = await envoy.call("GET", "/v1/items", key=KEY)
        upstream.may_answer.set()
        assert [answer.status for answer in await asyncio.gather(*held)] == [200, 200]
    assert (refused.status, refused.json()["code"]) == (503, 14)


async def test_a_service_that_is_away_is_told_without_a_word_on_how() -> None:
    async with AsyncExitStack() as stack:
        async with listening_upstream() as upstream:
            envoy = await stack.enter_async_context(running_envoy(upstream.port))
        answer = await envoy.call("GET", "/v1/items", key=KEY)
        assert (answer.status, answer.json()) == (
            503,
            {"code": 14, "message": "the service is not available at present"},
        )
        async with asyncio.timeout(20):
            while (await envoy.call("GET", "/healthz")).status != 503:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_callers_speak_tls_1_2_or_later(upstream: Upstream, certificate: Certificate) -> None:
    trusting = ssl.create_default_context(cafile=certificate.certificate)
    own = {"tls_certificate_file": certificate.certificate, "tls_private_key_file": certificate.private_key}
    async with running_envoy(upstream.port, trusting, **own) as envoy:
        answer = await envoy.call("GET", "/v1/items", key=KEY)
        assert (answer.status, "strict-transport-security" in answer.headers) == (200, True)
        old = ssl.create_default_context(cafile=certificate.certificate)
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises(ssl.SSLError):
            await replace(envoy, tls=old).call("GET", "/v1/items", key=KEY)
        with pytest.raises((http.client.HTTPException, OSError)):
            await replace(envoy, tls=None).call("GET", "/v1/items", key=KEY)


async def test_the_service_is_asked_for_its_certificate_and_shown_one(certificate: Certificate) -> None:
    pem, private_key = certificate.certificate.read_bytes(), certificate.private_key.read_bytes()
    demanding = grpc.ssl_server_credentials([(private_key, pem)], pem, require_client_auth=True)
    own = {
        "upstream_certificate_file": certificate.certificate,
        "upstream_private_key_file": certificate.private_key,
    }
    async with listening_upstream(demanding) as upstream:
        async with running_envoy(upstream.port, upstream_ca_file=certificate.certificate, **own) as envoy:
            assert (await envoy.call("GET", "/v1/items", key=KEY)).status == 200
        for other in (
            {"upstream_ca_file": certificate.certificate},
            {"upstream_ca_file": certificate.certificate, "upstream_host": "localhost", **own},
        ):
            async with running_envoy(upstream.port, healthy=False, **other) as envoy:
                assert (await envoy.call("GET", "/v1/items", key=KEY)).status == 503
