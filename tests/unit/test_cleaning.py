"""Which rule each field follows, and the bounds that hold for what is stored."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from recsvc.domain import cleaning
from recsvc.domain.catalog import AttributeRule, AttributeType, Item
from recsvc.domain.cleaning import (
    are_plain,
    check_settings,
    clean_display_name,
    clean_event,
    clean_item,
    clean_rule,
    clean_user,
)
from recsvc.domain.errors import InvalidField
from recsvc.domain.events import Event
from recsvc.domain.ids import EventId, ItemId, UserId
from recsvc.domain.markup import HtmlPolicy, MarkupPolicies
from recsvc.domain.users import User
from recsvc.gen.buf.validate import validate_pb2
from recsvc.gen.v1 import admin_service_pb2, catalog_service_pb2, options_pb2, user_service_pb2

_DEFAULT = MarkupPolicies()


def _item(**fields: object) -> Item:
    return Item(ItemId("a"), **fields)  # type: ignore[arg-type]


def _event(**fields: object) -> Event:
    given = {"event_id": EventId("e"), "event_type": "view", "item_id": ItemId("i"), "user_id": UserId("u")}
    return Event(**{**given, "event_time": datetime.now(UTC), **fields})  # type: ignore[arg-type]


def test_what_is_clean_is_the_very_same_object():
    item = _item(title="Solaris", description="1\n2", categories=("Films",), attributes={"deep": {"list": ["é", 1]}})
    user = User(UserId("u"), {"city": "Zürich"}, ("vip",))
    event = _event(context={"device": "phone"}, properties={"page": 2})
    assert clean_item(item, _DEFAULT, "item") is item
    assert clean_user(user, "user") is user
    assert clean_event(event) is event


def test_strings_of_attributes_are_cleaned_at_any_depth_and_the_given_ones_stay():
    attributes = {"a": {"b": ["x", "caf\u202ee\u0301"]}, "n": 1, "none": None}
    cleaned = clean_item(_item(attributes=attributes), _DEFAULT, "item")
    assert cleaned.attributes == {"a": {"b": ["x", "café"]}, "n": 1, "none": None}
    assert attributes["a"] == {"b": ["x", "caf\u202ee\u0301"]}


def test_titles_are_stripped_of_markup_and_values_with_markup_are_refused_by_default():
    cleaned = clean_item(_item(title="<b>Solaris</b>\n1972", description="<p>one</p><p>two</p>"), _DEFAULT, "item")
    assert (cleaned.title, cleaned.description) == ("Solaris 1972", "one\ntwo")
    for fields, path in (
        ({"item_type": "<b>film"}, "items[2].item_type"),
        ({"categories": ("ok", "<i>x</i>")}, "items[2].categories[1]"),
        ({"tags": ("</p>",)}, "items[2].tags[0]"),
        ({"attributes": {"blurb": ["<img src=x>"]}}, "items[2].attributes.blurb[0]"),
    ):
        with pytest.raises(InvalidField) as caught:
            clean_item(_item(**fields), _DEFAULT, "items[2]")
        assert [violation.field for violation in caught.value.fields] == [path]


def test_no_policy_touches_an_id():
    item = Item(ItemId("<b>&"))
    for policy in HtmlPolicy:
        assert clean_item(item, MarkupPolicies(policy, policy), "item").item_id == "<b>&"


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"title": "t" * 1001}, "item.title"),
        ({"description": "d" * 20_001}, "item.description"),
        ({"item_type": "t" * 129}, "item.item_type"),
        ({"categories": ("c",) * 101}, "item.categories"),
        ({"tags": ("t",) * 201}, "item.tags"),
        ({"tags": ("ok", "\u200b")}, "item.tags[1]"),
        ({"categories": ("one\ntwo",)}, "item.categories[0]"),
        ({"attributes": {f"k{number}": 1 for number in range(65)}}, "item.attributes"),
        ({"attributes": {"a": {"b": {"c": {}}}}}, "item.attributes.a.b.c"),
        ({"attributes": {"a": [[[["x"]]]]}}, "item.attributes.a[0][0][0]"),
        ({"attributes": {"a": "x" * 9000, "b": "x" * 9000}}, "item.attributes"),
        ({"attributes": {"": 1}}, "item.attributes."),
        ({"attributes": {"a": {"b\u200b": 1}}}, "item.attributes.a.b\\u200b"),
        ({"attributes": {"cafe\u0301": 1}}, "item.attributes.cafe\\u0301"),
        ({"attributes": {"a": "\ud800"}}, "item.attributes.a"),
    ],
)
def test_a_field_that_cannot_be_stored_is_named(fields: dict[str, object], path: str):
    with pytest.raises(InvalidField) as caught:
        clean_item(_item(**fields), _DEFAULT, "item")
    assert [violation.field for violation in caught.value.fields] == [path]


def test_a_text_that_escaping_makes_too_long_is_refused():
    with pytest.raises(InvalidField, match=r"item\.title"):
        clean_item(_item(title="&" * 500), MarkupPolicies(texts=HtmlPolicy.ESCAPE), "item")


@pytest.mark.parametrize("field", ["event_id", "event_type", "item_id", "user_id", "session_id", "recommendation_id"])
def test_every_name_of_an_event_is_checked(field: str):
    for name in ("a\u200bb", "cafe\u0301", "a\nb", "x" * 129):
        with pytest.raises(InvalidField) as caught:
            clean_event(_event(**{field: name}))
        assert [violation.field for violation in caught.value.fields] == [field]


_NAMES = st.sampled_from(("u", "view", "x" * 128, "", "x" * 129, "a\nb", "é", "a\u200bb", "cafe\u0301"))
_STRUCTS = st.sampled_from(({}, {}, {"a": 1}, {"city": "Zu\u0308rich"}))
_ANY_EVENT = st.builds(
    _event,
    event_id=_NAMES,
    item_id=_NAMES,
    user_id=st.none() | _NAMES,
    session_id=st.none() | _NAMES,
    recommendation_id=st.none() | _NAMES,
    context=_STRUCTS,
    properties=_STRUCTS,
)


@given(st.lists(_ANY_EVENT, max_size=4))
def test_events_that_are_plain_stay_as_they_are(events: list[Event]):
    if are_plain(events):
        assert all(clean_event(event) is event for event in events)


@given(st.lists(st.builds(_event, event_id=st.text("ab-_.~ ", min_size=1, max_size=128), session_id=st.none())))
def test_events_of_printable_ascii_are_plain(events: list[Event]):
    assert are_plain(events)


def test_contexts_and_properties_of_events_are_cleaned():
    cleaned = clean_event(_event(context={"city": "Zu\u0308rich"}, properties={"q": ["a\u202eb", "<b>"]}))
    assert (cleaned.context, cleaned.properties) == ({"city": "Zürich"}, {"q": ["ab", "<b>"]})


def test_labels_and_attributes_of_users_are_cleaned():
    cleaned = clean_user(User(UserId("u"), {"city": "Zu\u0308rich"}, ("vip\u200b",)), "user")
    assert (cleaned.attributes, cleaned.labels) == ({"city": "Zürich"}, ("vip",))
    with pytest.raises(InvalidField, match=r"user\.user_id"):
        clean_user(User(UserId("u\u202e")), "user")


def test_display_names_schema_lines_and_placements_follow_the_rules():
    assert clean_display_name("Cafe\u0301\u200b", "tenant.display_name") == "Café"
    rule = clean_rule(AttributeRule("price", AttributeType.NUMBER, description="e\u0301"), "schema.attributes[0]")
    assert rule.description == "é"
    with pytest.raises(InvalidField, match=r"schema\.attributes\[0\]\.key"):
        clean_rule(AttributeRule("pri\u200bce", AttributeType.NUMBER), "schema.attributes[0]")
    check_settings('{"placements": {"home page": {}}}', "tenant.settings")
    with pytest.raises(InvalidField, match=r"tenant\.settings\.placements\[home\\u202e\]"):
        check_settings('{"placements": {"home\\u202e": {}}}', "tenant.settings")


def test_the_bounds_are_those_of_the_contract():
    item = catalog_service_pb2.Item.DESCRIPTOR.fields_by_name
    user = user_service_pb2.User.DESCRIPTOR.fields_by_name
    tenant = admin_service_pb2.Tenant.DESCRIPTOR.fields_by_name
    struct = item["attributes"].GetOptions().Extensions[options_pb2.struct_limits]
    assert {
        cleaning.MAX_TITLE: _rules(item["title"]).string.max_len,
        cleaning.MAX_DESCRIPTION: _rules(item["description"]).string.max_len,
        cleaning.MAX_LABEL: _rules(item["tags"]).repeated.items.string.max_len,
        cleaning.MAX_CATEGORIES: _rules(item["categories"]).repeated.max_items,
        cleaning.MAX_TAGS: _rules(item["tags"]).repeated.max_items,
        cleaning.MAX_USER_LABELS: _rules(user["labels"]).repeated.max_items,
        cleaning.MAX_DISPLAY_NAME: _rules(tenant["display_name"]).string.max_len,
        cleaning.MAX_STRUCT_KEYS: struct.max_keys,
        cleaning.MAX_STRUCT_DEPTH: struct.max_depth,
        cleaning.MAX_STRUCT_BYTES: struct.max_bytes,
    } == {bound: bound for bound in (1000, 20_000, 128, 100, 200, 256, 64, 3, 16_384)}


def _rules(field: FieldDescriptor) -> validate_pb2.FieldRules:
    return field.GetOptions().Extensions[validate_pb2.field]
