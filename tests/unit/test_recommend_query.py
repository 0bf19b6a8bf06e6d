"""What a request asks does not depend on what was asked before it."""

from __future__ import annotations

import pytest

from recsvc.domain.catalog import AttributeRule, AttributeType
from recsvc.domain.errors import InvalidFilter
from recsvc.domain.ids import TenantId, TenantKey
from recsvc.domain.tenancy import TenantProfile, TenantSettings
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from recsvc.rpc.convert.recommendations import recommend_query


def _profile(document: str = "{}", schema: tuple[AttributeRule, ...] = ()) -> TenantProfile:
    return TenantProfile(TenantKey(1), TenantId("t"), 1, TenantSettings(document), schema, None)


def test_the_same_question_about_another_user_is_about_that_user() -> None:
    asked = [recommend_query(pb.RecommendRequest(user_id=user, count=4), _profile()) for user in ("ann", "bob", "ann")]
    assert [(query.user_id, query.session_id, query.count) for query in asked] == [
        ("ann", None, 4),
        ("bob", None, 4),
        ("ann", None, 4),
    ]
    of_session = recommend_query(pb.RecommendRequest(session_id="s", count=4), _profile())
    assert (of_session.user_id, of_session.session_id) == (None, "s")


def test_a_question_means_what_the_tenants_settings_make_of_it_now() -> None:
    request = pb.RecommendRequest(user_id="ann")
    counts = [recommend_query(request, _profile(f'{{"defaults": {{"count": {count}}}}}')).count for count in (3, 7, 3)]
    assert counts == [3, 7, 3]


def test_a_filter_is_judged_by_the_schema_of_now() -> None:
    request = pb.RecommendRequest(user_id="ann", filter='attributes.color = "red"')
    known = AttributeRule("color", AttributeType.STRING)
    assert recommend_query(request, _profile(schema=(known,))).filter is not None
    with pytest.raises(InvalidFilter):
        recommend_query(request, _profile(schema=(AttributeRule("size", AttributeType.STRING),)))


def test_a_long_question_is_understood_too() -> None:
    excluded = [f"item-{number}" for number in range(200)]
    query = recommend_query(pb.RecommendRequest(user_id="ann", exclude_item_ids=excluded), _profile())
    assert list(query.exclude_item_ids) == excluded
