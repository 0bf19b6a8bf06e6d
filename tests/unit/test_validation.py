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


# Messages that are wrong all over: telling of every violation took minutes, in which the server answered nobody.


def _batch_of(element: catalog_service_pb2.Item, count: int) -> catalog_service_pb2.BatchUpsertItemsRequest:
    return catalog_service_pb2.BatchUpsertItemsRequest(items=[element] * count)


@pytest.mark.timeout(20)
def test_a_batch_of_millions_is_refused_without_a_look_at_its_elements() -> None:
    events = [ingestion_service_pb2.Event()] * 2_000_000
    with pytest.raises(InvalidFields) as raised:
        _VALIDATOR.check(ingestion_service_pb2.BatchRecordEventsRequest(events=events))
    assert [violation.field for violation in raised.value.fields] == ["events"]


@pytest.mark.timeout(20)
def test_a_list_of_wrong_ids_that_is_too_long_is_told_of_its_length_only() -> None:
    request = recommendation_service_pb2.RecommendRequest(exclude_item_ids=[""] * 500_000)
    with pytest.raises(InvalidFields) as raised:
        _VALIDATOR.check(request)
    assert [(violation.field, violation.description) for violation in raised.value.fields] == [
        ("exclude_item_ids", "must contain no more than 1000 item(s)")
    ]


@pytest.mark.timeout(20)
def test_every_element_of_a_batch_that_is_wrong_all_over_is_told_something() -> None:
    element = catalog_service_pb2.Item(categories=[""] * 100, tags=[""] * 100)
    found = _VALIDATOR.check(_batch_of(element, 1000))
    assert sorted(found) == list(range(1000))
    assert all(found.values())
    assert sum(len(wrong) for wrong in found.values()) < 3000


@pytest.mark.timeout(20)
def test_an_element_with_too_long_a_list_never_fails_its_neighbours() -> None:
    batch = _batch_of(catalog_service_pb2.Item(item_id="a", categories=[""] * 4000), 900)
    batch.items[3].ClearField("categories")
    found = _VALIDATOR.check(batch)
    assert len(found) == 899
    assert [violation.field for violation in found[0]] == ["items[0].categories"]


def test_what_is_wrong_beside_the_elements_is_told_too() -> None:
    request = ingestion_service_pb2.StreamEventsRequest(sequence=-1, events=[ingestion_service_pb2.Event()])
    with pytest.raises(InvalidFields) as raised:
        _VALIDATOR.check(request)
    assert [violation.field for violation in raised.value.fields] == ["sequence"]


def test_a_struct_with_too_many_keys_is_told_so() -> None:
    item = catalog_service_pb2.Item(item_id="a")
    item.attributes.update({str(number): number for number in range(65)})
    found = _VALIDATOR.check(_batch_of(item, 1))
    assert [violation.field for violation in found[0]] == ["items[0].attributes"]
