"""Limits as the protos state them, checked without a server."""

from __future__ import annotations

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from recsvc.domain.errors import InvalidFields, Reason
from recsvc.gen.v1 import catalog_service_pb2, errors_pb2, ingestion_service_pb2, recommendation_service_pb2
from recsvc.rpc.convert.values import plain, struct
from recsvc.rpc.validation import RequestValidator

_VALIDATOR = RequestValidator()
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text() | st.floats(-1e300, 1e300),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(min_size=1), children, max_size=3),
    max_leaves=10,
)


def test_reasons_are_the_same_in_the_domain_and_in_the_contract() -> None:
    in_contract = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name} - {
        "UNSPECIFIED"
    }
    assert in_contract == {reason.value for reason in Reason}


def test_a_valid_request_passes() -> None:
    assert _VALIDATOR.check(recommendation_service_pb2.RecommendRequest(user_id="u", count=10)) == {}


def test_all_wrong_fields_are_told_at_once() -> None:
    with pytest.raises(InvalidFields) as raised:
        _VALIDATOR.check(recommendation_service_pb2.RecommendRequest(user_id="x" * 129, count=0, novelty=3))
    assert {violation.field for violation in raised.value.fields} == {"user_id", "count", "novelty"}


def test_wrong_elements_are_told_one_by_one() -> None:
    events = [ingestion_service_pb2.Event(event_type="view", item_id="a") for _ in range(3)]
    events[1].item_id = ""
    events[2].properties.update({"bad": float("nan")})
    found = _VALIDATOR.check(ingestion_service_pb2.BatchRecordEventsRequest(events=events))
    assert {index: [violation.field for violation in wrong] for index, wrong in found.items()} == {
        1: ["events[1].item_id"],
        2: ["events[2].properties.bad"],
    }


def test_an_empty_batch_is_wrong_as_a_whole() -> None:
    with pytest.raises(InvalidFields):
        _VALIDATOR.check(catalog_service_pb2.BatchUpsertItemsRequest())


@pytest.mark.parametrize(("depth", "is_valid"), [(1, True), (3, True), (4, False), (20, False)])
def test_structs_nest_three_levels(depth: int, is_valid: bool) -> None:
    value: dict[str, object] = {"leaf": 1}
    for _ in range(depth - 1):
        value = {"level": value}
    item = catalog_service_pb2.Item(item_id="a", attributes=struct(value))
    assert (_VALIDATOR.examine(item).violations == []) is is_valid


def test_lists_of_lists_nest_as_objects_do() -> None:
    item = catalog_service_pb2.Item(item_id="a", attributes=struct({"a": [[[[1]]]]}))
    assert _VALIDATOR.examine(item).violations


@given(st.dictionaries(st.text(min_size=1), _json, max_size=4))
def test_a_struct_and_its_plain_value_are_the_same(document: dict[str, object]) -> None:
    assert plain(struct(document)) == document


@given(st.binary(max_size=200))
def test_no_bytes_break_the_validator(data: bytes) -> None:
    message = Struct()
    try:
        message.ParseFromString(data)
    except Exception:
        return
    _VALIDATOR.examine(catalog_service_pb2.Item(item_id="a", attributes=message))
