"""JSON over plain HTTP: the calls of the contract, as Envoy turns them into gRPC and back."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from recsvc.rpc.server import FILES
from tests.envoy import Envoy, running_envoy
from tests.http_paths import bindings
from tests.upstream import listening_upstream

_GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "browsers.md").read_text(encoding="utf-8")


def lines(body: bytes) -> list[Any]:
    """The messages of a streamed answer."""
    return [json.loads(line) for line in body.splitlines()]


async def test_an_item_that_was_created_is_read_back(envoy: Envoy, key: str) -> None:
    created = await envoy.call("POST", "/v1/items", {"item_id": "1", "title": "Älien", "categories": ["Horror"]}, key)
    assert (created.status, created.headers["content-type"]) == (200, "application/json")
    read = await envoy.call("GET", "/v1/items/1", key=key)
    assert read.json() == created.json()
    assert read.json()["item"]["title"] == "Älien"


@pytest.mark.parametrize("item_id", ["a/b", "film:1", "film:similar", "100%", "ä ö?#&", "a%2Fb"])
async def test_an_id_in_a_path_may_hold_any_character_escaped(envoy: Envoy, key: str, item_id: str) -> None:
    await envoy.call("POST", "/v1/items", {"item_id": item_id}, key)
    read = await envoy.call("GET", f"/v1/items/{quote(item_id, safe='')}", key=key)
    assert read.json()["item"]["item_id"] == item_id


async def test_an_update_writes_what_the_mask_in_the_query_names(envoy: Envoy, key: str) -> None:
    await envoy.call("POST", "/v1/items", {"item_id": "1", "title": "old", "tags": ["t"]}, key)
    changed = {"title": "new", "tags": ["u"]}
    updated = await envoy.call("PATCH", "/v1/items/1?update_mask=title", changed, key)
    assert (updated.json()["item"]["title"], updated.json()["item"]["tags"]) == ("new", ["t"])


async def test_what_was_recorded_is_recommended(envoy: Envoy, key: str) -> None:
    await envoy.call("POST", "/v1/items", {"item_id": "1"}, key)
    recorded = await envoy.call("POST", "/v1/events", {"event_type": "view", "user_id": "u", "item_id": "1"}, key)
    assert recorded.json()["event_id"]
    asked = {"user_id": "other", "strategy": "STRATEGY_POPULAR", "count": 5}
    answer = (await envoy.call("POST", "/v1:recommend", asked, key)).json()
    assert [(item["item_id"], item["rank"]) for item in answer["items"]] == [("1", 1)]


async def test_a_list_is_filtered_and_read_page_by_page(envoy: Envoy, key: str) -> None:
    items = [{"item_id": str(number), "item_type": "film" if number % 2 else "book"} for number in range(10)]
    stored = await envoy.call("POST", "/v1/items:batchUpsert", {"items": items}, key)
    assert len(stored.json()["results"]) == 10
    found, token = [], ""
    for _ in range(3):
        query = urlencode({"page_size": 2, "filter": 'item_type = "film"', "page_token": token})
        page = (await envoy.call("GET", f"/v1/items?{query}", key=key)).json()
        found.append([item["item_id"] for item in page["items"]])
        token = page.get("next_page_token", "")
    assert (found, token) == ([["1", "3"], ["5", "7"], ["9"]], "")


async def test_a_stream_in_is_an_array_and_a_stream_out_is_lines(envoy: Envoy, key: str) -> None:
    chunks = [{"items": [{"item_id": "1"}]}, {"items": [{"item_id": "2"}, {"item_id": "3"}]}]
    imported = await envoy.call("POST", "/v1/items:import", chunks, key)
    assert [answer["created_count"] for answer in lines(imported.body)] == ["1", "2"]
    exported = await envoy.call("GET", "/v1/items:export?modified_after=2020-01-01T00:00:00Z", key=key)
    found = {item["item_id"] for answer in lines(exported.body) for item in answer.get("items", ())}
    assert found == {"1", "2", "3"}


async def test_an_answer_may_be_larger_than_a_request(envoy: Envoy, key: str) -> None:
    for first in range(0, 300, 100):
        items = [{"item_id": str(number), "description": "d" * 8000} for number in range(first, first + 100)]
        await envoy.call("POST", "/v1/items:batchUpsert", {"items": items}, key)
    listed = await envoy.call("GET", "/v1/items?page_size=1000", key=key)
    assert (listed.status, len(listed.json()["items"])) == (200, 300)
    assert len(listed.body) > 2 * 1024 * 1024


async def test_an_error_is_a_status_with_its_details(envoy: Envoy, key: str) -> None:
    failed = await envoy.call("POST", "/v1/items", {"item_id": "1", "title": "t" * 10_000}, key)
    assert failed.status == 400
    status = failed.json()
    details = {detail["@type"].rpartition(".")[2]: detail for detail in status["details"]}
    assert status["code"] == 3
    assert (details["ErrorInfo"]["reason"], details["ErrorInfo"]["domain"]) == ("INVALID_FIELD", "recsvc")
    assert [violation["field"] for violation in details["BadRequest"]["field_violations"]] == ["item.title"]


async def test_a_wrong_key_gets_401(envoy: Envoy) -> None:
    failed = await envoy.call("GET", "/v1/items", key="rk_aaaaaaaaaaaa_" + "b" * 43)
    assert (failed.status, failed.json()["code"]) == (401, 16)
    assert failed.json()["details"][0]["reason"] == "CREDENTIALS_INVALID"


async def test_a_taken_id_gets_409(envoy: Envoy, key: str) -> None:
    # Names in camelCase are taken too.
    assert (await envoy.call("POST", "/v1/items", {"itemId": "1", "itemType": "film"}, key)).status == 200
    failed = await envoy.call("POST", "/v1/items", {"item_id": "1"}, key)
    assert (failed.status, failed.json()["code"]) == (409, 6)


@pytest.mark.parametrize("path", ["/v1/nope", "/v2/items", "/", "/recsvc.v1.CatalogService/ListItems"])
async def test_an_unknown_path_gets_404_as_json(envoy: Envoy, key: str, path: str) -> None:
    failed = await envoy.call("POST", path, {}, key)
    assert (failed.status, failed.json()["code"]) == (404, 5)
    assert failed.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/v1:recommend", {"user_id": "u", "count": "many"}, "count"),
        ("/v1:recommend", b"{nonsense", "nonsense"),
        ("/v1/items:rank?nope=1", {}, "nope"),
        ("/v1/items:import", {"items": []}, "array"),
    ],
)
async def test_what_is_no_such_message_gets_400_and_says_where(
    envoy: Envoy, key: str, path: str, body: object, named: str
) -> None:
    failed = await envoy.call("POST", path, body, key)
    assert (failed.status, failed.json()["code"]) == (400, 3)
    assert named in failed.json()["message"]


async def test_a_request_beyond_1_mib_gets_413(envoy: Envoy, key: str) -> None:
    def body(size: int) -> bytes:
        return b'{"item_id": "1", "title": "' + b"t" * size + b'"}'

    failed = await envoy.call("POST", "/v1/items", body(1024 * 1024), key)
    assert (failed.status, failed.json()) == (
        413,
        {"code": 8, "message": "a request may have at most 1048576 bytes"},
    )
    arrived = await envoy.call("POST", "/v1/items", body(1024 * 1024 - 100), key)
    assert arrived.json()["details"][1]["field_violations"][0]["field"] == "item.title"


async def test_a_deadline_of_the_caller_holds(envoy: Envoy, key: str) -> None:
    failed = await envoy.call("GET", "/v1/items", key=key, headers={"grpc-timeout": "1n"})
    assert (failed.status, failed.json()["code"]) == (504, 4)


async def test_the_callers_request_id_comes_back(envoy: Envoy, key: str) -> None:
    answer = await envoy.call("GET", "/v1/items", key=key, headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"


async def test_an_answer_is_not_kept_by_caches_on_the_way(envoy: Envoy, key: str) -> None:
    answer = await envoy.call("GET", "/v1/items", key=key)
    assert answer.headers["cache-control"] == "no-store"


async def test_a_stream_that_fails_says_so_in_its_last_line(envoy: Envoy, key: str) -> None:
    answer = await envoy.call("GET", f"/v1/items:export?filter={quote('nope = 1')}", key=key)
    status = lines(answer.body)[-1]
    assert (answer.status, status["code"], status["details"][0]["reason"]) == (200, 3, "INVALID_FILTER")


@pytest.mark.parametrize("command", re.findall(r"^```sh\n(curl .*?)^```$", _GUIDE, re.MULTILINE | re.DOTALL))
async def test_a_command_of_the_guide_works(envoy: Envoy, key: str, command: str) -> None:
    await envoy.call("POST", "/v1/items", {"item_id": "1", "item_type": "film", "title": "Alien"}, key)
    await envoy.call("POST", "/v1/events", {"event_type": "view", "user_id": "u", "item_id": "1"}, key)
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", command, env={**os.environ, "ENVOY": envoy.url, "KEY": key}, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert "Alien" in out.decode()


async def test_every_path_leads_to_its_method() -> None:
    async with listening_upstream() as upstream, running_envoy(upstream.port) as envoy:
        for file in FILES:
            for service in file.services_by_name.values():
                for method in service.methods:
                    for verb, path, body in bindings(method):
                        sent = ([{}] if method.client_streaming else {}) if body else None
                        answer = await envoy.call(verb.upper(), re.sub(r"\{.+?\}", "x", path), sent)
                        assert (answer.status, answer.body.strip()) == (200, b"{}"), (verb, path)
                        assert upstream.heard[-1].method == f"/{service.full_name}/{method.name}"
