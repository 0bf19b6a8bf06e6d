"""gRPC-Web, in both of its encodings, through Envoy."""

from __future__ import annotations

import struct

import pytest

from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from recsvc.gen.v1 import recommendation_service_pb2 as recommendation_pb
from tests.api import Api
from tests.cinema import an_event, an_item
from tests.e2e.grpc_web import call_web
from tests.envoy import Envoy

each_encoding = pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])


@each_encoding
async def test_a_page_gets_its_recommendations(envoy: Envoy, api: Api, key: str, text: bool) -> None:
    await api.catalog.CreateItem(catalog_pb.CreateItemRequest(item=an_item("Horror", 1)))
    await api.ingestion.RecordEvent(ingestion_pb.RecordEventRequest(event=an_event("u", "Horror-1")))
    request = recommendation_pb.RecommendRequest(user_id="v", strategy=recommendation_pb.STRATEGY_POPULAR)
    answer = await call_web(envoy, "RecommendationService/Recommend", request, key, text=text)
    (message,) = answer.messages
    assert [item.item_id for item in recommendation_pb.RecommendResponse.FromString(message).items] == ["Horror-1"]
    assert answer.trailers["grpc-status"] == "0"


@each_encoding
async def test_an_error_comes_in_the_trailers_with_its_details(envoy: Envoy, key: str, text: bool) -> None:
    request = recommendation_pb.RecommendRequest(user_id="v", filter="nope = 1")
    answer = await call_web(envoy, "RecommendationService/Recommend", request, key, text=text)
    failed = answer.failure()
    assert (answer.http.status, answer.messages) == (200, [])
    assert (failed.code, failed.reason, set(failed.fields)) == ("3", "INVALID_FILTER", {"filter"})


@each_encoding
async def test_a_stream_of_the_server_comes_message_by_message(envoy: Envoy, api: Api, key: str, text: bool) -> None:
    items = [an_item("Drama", number, description="d" * 2000) for number in range(900)]
    await api.catalog.BatchUpsertItems(catalog_pb.BatchUpsertItemsRequest(items=items))
    await api.catalog.BatchUpsertItems(
        catalog_pb.BatchUpsertItemsRequest(items=[an_item("Horror", number) for number in range(900)])
    )
    answer = await call_web(envoy, "CatalogService/ExportItems", catalog_pb.ExportItemsRequest(), key, text=text)
    parts = [catalog_pb.ExportItemsResponse.FromString(message) for message in answer.messages]
    assert sum(len(part.items) for part in parts) == 1800
    assert len(parts) > 1
    assert answer.trailers["grpc-status"] == "0"


async def test_without_a_key_a_page_is_told_so(envoy: Envoy) -> None:
    answer = await call_web(envoy, "CatalogService/ListItems", catalog_pb.ListItemsRequest())
    assert (answer.failure().code, answer.failure().reason) == ("16", "CREDENTIALS_MISSING")


async def test_a_deadline_of_a_page_holds(envoy: Envoy, key: str) -> None:
    headers = {"grpc-timeout": "1n"}
    answer = await call_web(envoy, "CatalogService/ListItems", catalog_pb.ListItemsRequest(), key, **headers)
    assert answer.trailers["grpc-status"] == "4"


async def test_a_request_beyond_1_mib_gets_413(envoy: Envoy, key: str) -> None:
    body = struct.pack(">BI", 0, 1024 * 1024) + b"\0" * 1024 * 1024
    headers = {"content-type": "application/grpc-web+proto"}
    answer = await envoy.call("POST", "/recsvc.v1.CatalogService/CreateItem", body, key, headers)
    assert answer.status == 413
