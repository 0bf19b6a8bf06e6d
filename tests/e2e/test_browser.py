"""A page in a real browser: Chromium, headless, which calls the service through Envoy from an origin of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from recsvc.app import Service
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from recsvc.gen.v1 import recommendation_service_pb2 as recommendation_pb
from tests.api import Api
from tests.cinema import an_event, an_item
from tests.conftest import temporary_folder
from tests.envoy import running_envoy

_CHROMIUM = shutil.which("chromium")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
_BROWSER_S = 90.0

pytestmark = pytest.mark.skipif(_CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")

# Tells its own server what it shows, since the browser tells nobody else.
_PAGE = """<!doctype html><title>Shop</title><p id="answer"></p><script>
%s
call().catch((error) => `blocked: ${error}`).then((text) => {
    document.getElementById("answer").textContent = text;
    return fetch("/seen", {method: "POST", body: document.getElementById("answer").textContent});
});
</script>"""
_GRPC_WEB = """
async function call() {
    const body = Uint8Array.from(%s);
    const response = await fetch("%s", {method: "POST", headers: %s, body});
    const text = new TextDecoder("latin1").decode(await response.arrayBuffer());
    return `${response.headers.get("x-request-id")} ${text}`;
}"""
_GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "browsers.md").read_text(encoding="utf-8")
_GUIDE_URL = "https://api.shop.example"


def json_script(url: str, key: str) -> str:
    """The example of the guide, calling Envoy here."""
    (example,) = re.findall(r"^```js\n(.*?)^```$", _GUIDE, re.MULTILINE | re.DOTALL)
    assert _GUIDE_URL in example
    return f"{example.replace(_GUIDE_URL, url)}\nconst call = async () => String(await recommend({key!r}, 'v'));"


def grpc_web_script(url: str, key: str) -> str:
    """The same question, framed by hand."""
    request = recommendation_pb.RecommendRequest(user_id="v", strategy=recommendation_pb.STRATEGY_POPULAR)
    body = struct.pack(">BI", 0, request.ByteSize()) + request.SerializeToString()
    headers = {
        "authorization": f"Bearer {key}",
        "content-type": "application/grpc-web+proto",
        "x-grpc-web": "1",
        "x-request-id": "from-the-page",
    }
    path = "/recsvc.v1.RecommendationService/Recommend"
    return _GRPC_WEB % (list(body), url + path, json.dumps(headers))


class Shop:
    """A web server on an origin of its own, with one page. seen: what the page showed."""

    def __init__(self) -> None:
        self.port = 0
        self.page = ""
        self.seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def origin(self) -> str:
        """As the browser names it."""
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        answer = self.page if head.startswith("GET / ") else ""
        if head.startswith("POST /seen "):
            size = int(head.lower().partition("content-length:")[2].split()[0])
            self.seen.set_result((await reader.readexactly(size)).decode())
        kind = b"content-type: text/html; charset=utf-8\r\nconnection: close\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\n" + kind + b"content-length: %d\r\n\r\n" % len(answer) + answer.encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def open_shop() -> AsyncIterator[Shop]:
    """A shop on a free port."""
    shop = Shop()
    async with await asyncio.start_server(shop.serve, "127.0.0.1", 0) as server:
        shop.port = server.sockets[0].getsockname()[1]
        yield shop


async def shown(shop: Shop, script: str) -> str:
    """What the shop's page shows, in a browser, once its call was answered or blocked."""
    shop.page = _PAGE % script
    async with open_browser(shop.origin):
        return await asyncio.wait_for(shop.seen, _BROWSER_S)


@asynccontextmanager
async def open_browser(url: str) -> AsyncIterator[None]:
    """A browser with a profile of its own that shows a page."""
    assert _CHROMIUM is not None
    profile = temporary_folder()
    # A group of its own: the browser is many processes, and some outlive the first.
    process = await asyncio.create_subprocess_exec(
        *(_CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", url),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture
async def film(api: Api) -> None:
    """One film that somebody saw."""
    await api.catalog.CreateItem(catalog_pb.CreateItemRequest(item=an_item("Horror", 1)))
    await api.ingestion.RecordEvent(ingestion_pb.RecordEventRequest(event=an_event("u", "Horror-1")))


async def test_a_page_of_an_allowed_origin_shows_recommendations_by_json(
    film: None, service: Service, key: str
) -> None:
    async with open_shop() as shop, running_envoy(service.port, cors_origins=(shop.origin,)) as envoy:
        assert await shown(shop, json_script(envoy.url, key)) == "Horror-1"


async def test_a_page_of_an_allowed_origin_shows_recommendations_by_grpc_web(
    film: None, service: Service, key: str
) -> None:
    async with open_shop() as shop, running_envoy(service.port, cors_origins=(shop.origin,)) as envoy:
        text = await shown(shop, grpc_web_script(envoy.url, key))
    assert text.startswith("from-the-page ")
    assert "Horror-1" in text


@pytest.mark.parametrize("script", [json_script, grpc_web_script])
async def test_the_browser_blocks_the_call_of_the_same_page_from_another_origin(
    film: None, service: Service, key: str, script: Callable[[str, str], str]
) -> None:
    async with (
        open_shop() as allowed,
        open_shop() as other,
        running_envoy(service.port, cors_origins=(allowed.origin,)) as envoy,
    ):
        text = await shown(other, script(envoy.url, key))
    assert text == "blocked: TypeError: Failed to fetch"
