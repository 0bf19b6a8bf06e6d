"""Which pages a browser lets call the service, by what Envoy answers to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.envoy import Answer, Envoy, running_envoy
from tests.upstream import Upstream, listening_upstream

SHOP = "https://shop.example"
KEY = "rk_aaaaaaaaaaaa_" + "s" * 43
ALLOW_ORIGIN = "access-control-allow-origin"


@pytest.fixture(scope="module")
async def upstream() -> AsyncIterator[Upstream]:
    """What stands behind Envoy."""
    async with listening_upstream() as listening:
        yield listening


@pytest.fixture(scope="module")
async def open_to_shop(upstream: Upstream) -> AsyncIterator[Envoy]:
    """An Envoy that pages of the shop and of its staging server may call."""
    origins = (SHOP, "http://staging.example:8000")
    async with running_envoy(upstream.port, cors_origins=origins) as envoy:
        yield envoy


@pytest.fixture(scope="module")
async def closed(upstream: Upstream) -> AsyncIterator[Envoy]:
    """An Envoy as it is unless told otherwise."""
    async with running_envoy(upstream.port) as envoy:
        yield envoy


async def preflight(envoy: Envoy, origin: str, path: str = "/v1:recommend") -> Answer:
    """What a browser asks before a call with a key."""
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    return await envoy.call("OPTIONS", path, headers=asked)


def cors_headers(answer: Answer) -> dict[str, str]:
    """Everything that a browser could take for a permission."""
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


@pytest.mark.parametrize("origin", [SHOP, "http://staging.example:8000"])
@pytest.mark.parametrize("path", ["/v1:recommend", "/recsvc.v1.RecommendationService/Recommend"])
async def test_a_page_of_an_allowed_origin_may_call(open_to_shop: Envoy, origin: str, path: str) -> None:
    allowed = cors_headers(await preflight(open_to_shop, origin, path))
    assert allowed[ALLOW_ORIGIN] == origin
    assert "POST" in allowed["access-control-allow-methods"]
    assert {
        "authorization",
        "content-type",
        "x-grpc-web",
        "grpc-timeout",
        "x-consistency",
        "x-consistency-token",
    } <= set(allowed["access-control-allow-headers"].split(", "))


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://shop.example",
        "https://shop.example:444",
        "https://shop.example.evil.example",
        "https://evil-shop.example",
        "https://shopXexample",
        "HTTPS://SHOP.EXAMPLE",
        "null",
        "*",
    ],
)
async def test_a_page_of_another_origin_gets_no_permission(open_to_shop: Envoy, origin: str) -> None:
    assert cors_headers(await preflight(open_to_shop, origin)) == {}
    called = await open_to_shop.call("POST", "/v1:recommend", {}, KEY, {"origin": origin})
    assert cors_headers(called) == {}


async def test_without_configured_origins_no_page_gets_permission(closed: Envoy) -> None:
    assert cors_headers(await preflight(closed, SHOP)) == {}
    assert cors_headers(await closed.call("POST", "/v1:recommend", {}, KEY, {"origin": SHOP})) == {}


async def test_a_permission_never_covers_cookies_nor_all_origins(open_to_shop: Envoy) -> None:
    for answer in (
        await preflight(open_to_shop, SHOP),
        await open_to_shop.call("POST", "/v1:recommend", {}, KEY, {"origin": SHOP}),
    ):
        assert "access-control-allow-credentials" not in answer.headers
        assert "*" not in "".join(cors_headers(answer).values())


async def test_a_page_may_read_the_status_the_request_id_and_the_limits(open_to_shop: Envoy) -> None:
    answer = await open_to_shop.call("POST", "/v1:recommend", {}, KEY, {"origin": SHOP})
    assert set(answer.headers["access-control-expose-headers"].split(", ")) == {
        *("grpc-status", "grpc-message", "grpc-status-details-bin", "x-request-id", "x-consistency-token"),
        *("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
    }
