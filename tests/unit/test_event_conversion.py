"""Events from messages: many at once are what each of them is alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from recsvc.domain.errors import DomainError, EventTimeOutOfRange, InvalidField
from recsvc.gen.v1 import ingestion_service_pb2 as pb
from recsvc.rpc.columns import Columns
from recsvc.rpc.convert.events import event, events

_NOW = datetime(2026, 5, 1, tzinfo=UTC)
_RETENTION = timedelta(days=30)


def _struct(key: str) -> Struct:
    struct = Struct()
    struct[key] = 1.5
    return struct


def _at(age: timedelta) -> Timestamp:
    sent = Timestamp()
    sent.FromDatetime(_NOW - age)
    return sent


_EVENTS = st.builds(
    pb.Event,
    event_id=st.text("ab", min_size=1, max_size=3),
    event_type=st.sampled_from(["view", "rate"]),
    user_id=st.sampled_from(["", "u", "v"]),
    session_id=st.sampled_from(["", "s"]),
    item_id=st.sampled_from(["i", "j"]),
    value=st.none() | st.sampled_from([0.0, 4.5]),
    event_time=st.none() | st.builds(_at, st.timedeltas(timedelta(days=-1), timedelta(days=40))),
    context=st.none() | st.builds(_struct, st.sampled_from(["k", "l"])),
    recommendation_id=st.sampled_from(["", "r"]),
    properties=st.none() | st.builds(_struct, st.just("p")),
)


def _alone(message: pb.Event) -> object:
    try:
        return event(message, "event", _NOW, _RETENTION)
    except DomainError as error:
        return error


@given(st.lists(_EVENTS, max_size=8))
def test_many_events_are_what_each_of_them_is_alone(messages: list[pb.Event]) -> None:
    alone = [_alone(message) for message in messages]
    if any(isinstance(one, DomainError) for one in alone):
        with pytest.raises((InvalidField, EventTimeOutOfRange)):
            events(Columns(messages), _NOW, _RETENTION)
    else:
        assert events(Columns(messages), _NOW, _RETENTION) == alone


def test_an_event_has_what_its_message_has() -> None:
    message = pb.Event(
        event_id="e", event_type="rate", user_id="u", session_id="s", item_id="i", value=0.0,
        event_time=_at(_RETENTION), context=_struct("k"), recommendation_id="r", properties=_struct("p"),
    )  # fmt: skip
    found = event(message, "event", _NOW, _RETENTION)
    assert found == ("e", "rate", "i", _NOW - _RETENTION, "u", "s", 0.0, {"k": 1.5}, "r", {"p": 1.5})


def test_what_is_not_set_is_none() -> None:
    (found,) = events(Columns([pb.Event(event_type="view", user_id="u", item_id="i")]), _NOW)
    assert (found.session_id, found.value, found.recommendation_id) == (None, None, None)
    assert (found.context, found.properties, found.event_time) == ({}, {}, _NOW)


def test_events_without_an_id_get_different_ones() -> None:
    bare = pb.Event(event_type="view", user_id="u", item_id="i")
    assert len({found.event_id for found in events(Columns([bare, bare]), _NOW)} - {""}) == 2


def test_an_event_of_nobody_is_refused_by_the_path_of_its_field() -> None:
    with pytest.raises(InvalidField, match=r"events\[3\]\.user_id"):
        event(pb.Event(event_type="view", item_id="i"), "events[3]", _NOW)
