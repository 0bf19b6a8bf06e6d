"""What is called plainly valid is valid by the rules of the protos, whatever the message."""

from __future__ import annotations

import random
from typing import Any

import protovalidate
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from recsvc.gen.v1 import ingestion_service_pb2, recommendation_service_pb2, user_service_pb2
from recsvc.rpc.convert.values import struct
from recsvc.rpc.plain_messages import is_plainly_valid
from tests.security.fuzzing import Fuzzer
from tests.security.scenarios import METHODS, requests_of
from tests.security.tenants import Names

_RULES = protovalidate.Validator()
_Event = ingestion_service_pb2.Event
_RecommendRequest = recommendation_service_pb2.RecommendRequest


def _with_properties(properties: dict[str, object]) -> Message:
    event = _Event(event_type="view", user_id="u", item_id="i", properties=struct(properties))
    return ingestion_service_pb2.RecordEventRequest(event=event)


def _events() -> list[ingestion_service_pb2.Event]:
    """As they come in batches."""
    return [
        _Event(event_id="1", event_type="view", user_id="u", item_id="i"),
        _Event(event_type="rate", session_id="s", item_id="j", value=4.5, event_time={"seconds": 1}),
        _Event(event_type="click", user_id="u", item_id="i", recommendation_id="r"),
    ]


@pytest.mark.parametrize("path", METHODS)
@given(seed=st.integers(0, 2**32))
def test_what_is_plainly_valid_breaks_no_rule(path: str, seed: int) -> None:
    fuzzer = Fuzzer(random.Random(seed))
    requests = requests_of(path, Names.of_nobody())
    for message in (
        fuzzer.message(METHODS[path].input_type),
        *(each for request in requests for each in (request, fuzzer.disturbed(request))),
    ):
        if is_plainly_valid(message):
            assert _RULES.collect_violations(message) == []


@pytest.mark.parametrize(
    "message",
    [
        _RecommendRequest(user_id="u1", count=10),
        _RecommendRequest(session_id="s", session_item_ids=["a", "b"], novelty=-1.0, filter='category = "x"'),
        ingestion_service_pb2.RecordEventRequest(event=_Event(event_type="view", user_id="u", item_id="i")),
        user_service_pb2.GetUserRequest(user_id="u"),
        _with_properties({"page": "home", "position": 3, "tags": ["a", "b"]}),
    ],
)
def test_what_most_callers_send_is_plainly_valid(message: Message) -> None:
    assert is_plainly_valid(message)


@pytest.mark.parametrize(
    "message",
    [
        _RecommendRequest(user_id="u" * 129),
        _RecommendRequest(user_id="a\nb"),
        _RecommendRequest(user_id="a\x7fb"),
        _RecommendRequest(count=0),
        _RecommendRequest(count=501),
        _RecommendRequest(novelty=float("nan")),
        _RecommendRequest(exploration=1.5),
        _RecommendRequest(session_item_ids=["a"] * 101),
        _RecommendRequest(session_item_ids=["a", ""]),
        ingestion_service_pb2.RecordEventRequest(),
        ingestion_service_pb2.RecordEventRequest(event=_Event(user_id="u", item_id="i")),
        ingestion_service_pb2.RecordEventRequest(event=_Event(event_type="view", item_id="i", value=float("inf"))),
        ingestion_service_pb2.BatchRecordEventsRequest(),
        ingestion_service_pb2.BatchRecordEventsRequest(events=_events() * 334),
        ingestion_service_pb2.StreamEventsRequest(sequence=0, events=_events()),
        ingestion_service_pb2.StreamEventsRequest(sequence=1, events=[_Event(event_type="view")] * 2),
        *(
            ingestion_service_pb2.StreamEventsRequest(sequence=1, events=[*_events(), _Event(**wrong)])
            for wrong in (
                {"event_type": "view"},
                {"event_type": "view", "item_id": "i" * 129},
                {"event_type": "view", "item_id": "i", "user_id": "a\x7fb"},
                {"event_type": "view", "item_id": "i", "value": float("nan")},
            )
        ),
    ],
)
def test_what_breaks_a_rule_is_not_plainly_valid(message: Message) -> None:
    assert _RULES.collect_violations(message)
    assert not is_plainly_valid(message)


@pytest.mark.parametrize(
    "properties",
    [
        {"": 1},
        {"a": "b\x00"},
        {"a": float("nan")},
        {"a": {"b": {"c": {"d": 1}}}},
        {f"k{number}": 1 for number in range(65)},
        {"a": "b" * 16_384},
    ],
)
def test_a_struct_beyond_its_limits_is_not_plainly_valid(properties: dict[str, object]) -> None:
    assert not is_plainly_valid(_with_properties(properties))


def _unknown_enum() -> Any:
    return _RecommendRequest.FromString(b"\x28\x63")


def test_an_enum_value_that_nobody_defined_is_not_plainly_valid() -> None:
    assert _RULES.collect_violations(_unknown_enum())
    assert not is_plainly_valid(_unknown_enum())
