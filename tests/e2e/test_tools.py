"""What people debug with: grpcurl and `recsvc call`, over reflection, with no proto files."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys

import pytest

from recsvc.app import Service
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.resilience.dependencies import Condition
from tests.api import Api

_METHOD = "recsvc.v1.CatalogService/CreateItem"


async def _run(*command: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


async def _call(service: Service, *arguments: str) -> tuple[int, str, str]:
    return await _run(sys.executable, "-m", "recsvc.cli.main", "call", f"127.0.0.1:{service.port}", *arguments)


async def test_call_lists_and_describes(service: Service) -> None:
    code, out, _ = await _call(service, "list")
    assert code == 0
    assert {"recsvc.v1.CatalogService", "grpc.reflection.v1.ServerReflection"} <= set(out.split())
    code, out, _ = await _call(service, "describe", "recsvc.v1.Item")
    assert code == 0
    assert "expire_time" in out
    code, _, _ = await _call(service, "describe", "recsvc.v1.Nope")
    assert code == 64


async def test_call_calls_a_method(service: Service, key: str) -> None:
    code, out, _ = await _call(service, _METHOD, "--key", key, "-d", '{"item": {"item_id": "a", "title": "Ä"}}')
    assert code == 0
    assert json.loads(out)["item"]["title"] == "Ä"


@pytest.mark.parametrize("mask", ['"title,itemType"', '{"paths": ["title", "item_type"]}'])
async def test_call_takes_a_mask_as_protobuf_writes_it_and_as_grpcurl_does(
    service: Service, key: str, api: Api, mask: str
) -> None:
    item = {"item_id": "a", "title": "t", "item_type": "film", "tags": ["x"]}
    await api.catalog.CreateItem(catalog_pb.CreateItemRequest(item=item))
    asked = f'{{"key": "1", "request": {{"strategy": "STRATEGY_NEW", "item_mask": {mask}}}}}'
    code, out, err = await _call(service, "recsvc.v1.RecommendationService/BulkRecommend", "--key", key, "-d", asked)
    assert code == 0, err
    (listed,) = json.loads(out)["response"]["items"]
    assert (listed["item"]["title"], listed["item"]["item_type"]) == ("t", "film")
    assert "tags" not in listed["item"]


@pytest.mark.parametrize("mask", ['{"path": "title"}', '{"paths": 5}', '["title"]', '"item_type"'])
async def test_call_tells_of_a_mask_that_is_none(service: Service, key: str, mask: str) -> None:
    asked = f'{{"user_id": "u", "item_mask": {mask}}}'
    code, _, err = await _call(service, "recsvc.v1.RecommendationService/Recommend", "--key", key, "-d", asked)
    assert code == 64
    assert err.startswith("the request is no recsvc.v1.RecommendRequest: ")


async def test_call_streams_both_ways(service: Service, key: str, api: Api) -> None:
    documents = '{"items": [{"item_id": "1"}]} {"items": [{"item_id": "2"}, {"item_id": "3"}]}'
    code, out, err = await _call(
        service, "recsvc.v1.CatalogService/ImportItems", "--key", key, "--compact", "-d", documents
    )
    assert code == 0, err
    assert [json.loads(line)["created_count"] for line in out.splitlines()] == ["1", "2"]


async def test_call_shows_what_is_wrong_with_one_element_of_a_stream(service: Service, key: str) -> None:
    documents = (
        '{"key": "a", "request": {"user_id": "u"}} '
        '{"key": "b", "request": {"user_id": "u", "count": 0}} {"key": "c", "request": {"filter": "nope = 1"}}'
    )
    code, out, err = await _call(
        service, "recsvc.v1.RecommendationService/BulkRecommend", "--key", key, "--compact", "-d", documents
    )
    assert code == 0, err
    answers = {answer["key"]: answer for answer in map(json.loads, out.splitlines())}
    assert answers["a"]["response"]["strategy"] == "STRATEGY_TRENDING"
    assert answers["b"]["status"]["code"] == 3
    details = {detail["@type"].rpartition(".")[2]: detail for detail in answers["c"]["status"]["details"]}
    assert details["ErrorInfo"]["reason"] == "INVALID_FILTER"
    assert details["BadRequest"]["field_violations"][0]["field"] == "filter"


async def test_call_tells_the_details_of_an_error(service: Service, key: str) -> None:
    code, _, err = await _call(service, _METHOD, "--key", key, "-d", '{"item": {"item_id": ""}}')
    assert code == 1
    assert "INVALID_ARGUMENT" in err
    assert "item.item_id" in err
    code, _, err = await _call(service, _METHOD, "--key", key, "-d", "{nonsense")
    assert code == 64


_HEALTH = (sys.executable, "-m", "recsvc.cli.main", "health")


@pytest.mark.parametrize("name", ["", "readiness", "recsvc.v1.IngestionService"])
async def test_health_is_0_for_what_is_served(service: Service, name: str) -> None:
    assert await _run(*_HEALTH, f"127.0.0.1:{service.port}", "--service", name) == (0, "SERVING\n", "")


async def test_health_is_1_for_what_is_not_served(service: Service) -> None:
    service.health.dependency_changed("postgresql", Condition.AWAY)
    try:
        code, out, _ = await _run(*_HEALTH, f"127.0.0.1:{service.port}", "--service", "recsvc.v1.IngestionService")
    finally:
        service.health.dependency_changed("postgresql", Condition.WELL)
    assert (code, out) == (1, "NOT_SERVING\n")


async def test_health_says_that_nobody_answers_or_that_there_is_no_such_name(service: Service) -> None:
    code, out, err = await _run(*_HEALTH, "127.0.0.1:1", "--timeout", "1")
    assert (code, out) == (1, "")
    assert err.startswith("127.0.0.1:1: UNAVAILABLE: ")
    code, out, err = await _run(*_HEALTH, f"127.0.0.1:{service.port}", "--service", "nope")
    assert (code, out) == (1, "")
    assert "NOT_FOUND: there is no service of the name 'nope'" in err


async def test_health_watches_until_it_is_stopped(service: Service) -> None:
    process = await asyncio.create_subprocess_exec(
        *_HEALTH,
        f"127.0.0.1:{service.port}",
        "--service",
        "recsvc.v1.UserService",
        "--watch",
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"SERVING\n"
            service.health.dependency_changed("postgresql", Condition.AWAY)
            assert await process.stdout.readline() == b"NOT_SERVING\n"
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 1
    finally:
        service.health.dependency_changed("postgresql", Condition.WELL)
        if process.returncode is None:
            process.kill()


async def test_grpcurl_needs_no_proto_files(service: Service, key: str) -> None:
    grpcurl = shutil.which("grpcurl")
    if grpcurl is None:
        pytest.skip("grpcurl is not installed (go install github.com/fullstorydev/grpcurl/cmd/grpcurl@latest)")
    address = f"127.0.0.1:{service.port}"
    code, out, _ = await _run(grpcurl, "-plaintext", address, "list")
    assert code == 0
    assert "recsvc.v1.RecommendationService" in out
    code, out, err = await _run(
        grpcurl,
        "-plaintext",
        "-H",
        f"authorization: Bearer {key}",
        "-d",
        '{"item": {"item_id": "a"}}',
        address,
        _METHOD,
    )
    assert code == 0, err
    assert json.loads(out)["item"]["itemId"] == "a"
