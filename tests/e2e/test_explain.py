"""ExplainRecommendation over a real socket: the score that the list gives, in parts that add up to it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from recsvc.gen.v1 import user_service_pb2 as user_pb
from tests.alike import approximately, plainly
from tests.api import Api, failure
from tests.cinema import GENRES, PER_GENRE, an_event, an_item, open_cinema, train, watched_by

_FILMS = [f"{genre}-{number}" for genre in GENRES for number in range(PER_GENRE)]


async def _explained(api: Api, user_id: str, item_id: str) -> pb.ExplainRecommendationResponse:
    request = pb.ExplainRecommendationRequest(user_id=user_id, item_id=item_id)
    return await api.recommendations.ExplainRecommendation(request)


def _contributions(reasons: Iterable[pb.Reason]) -> list[float]:
    return [getattr(reason, reason.WhichOneof("kind")).contribution for reason in reasons]


@pytest.fixture
async def cinema(api: Api) -> Api:
    """A cinema of the test's own, without a model."""
    await open_cinema(api)
    return api


@pytest.mark.parametrize("user_id", ["u2", "u7"])
async def test_an_item_of_the_list_has_the_score_and_reasons_that_it_has_there(
    standing_cinema: Api, user_id: str
) -> None:
    request = pb.RecommendRequest(user_id=user_id, count=12, explain=True)
    listed = await standing_cinema.recommendations.Recommend(request)
    assert len(listed.items) == 12
    for item in listed.items:
        explained = await _explained(standing_cinema, user_id, item.item_id)
        assert explained.score == pytest.approx(item.score, rel=1e-6, abs=1e-7)
        assert plainly(explained.reasons) == approximately(item.reasons)
        assert explained.model_id == listed.model_id


async def test_the_score_is_that_of_rank_items_among_the_same_candidates(standing_cinema: Api) -> None:
    unseen = [film for film in _FILMS if film not in watched_by(2)]
    request = pb.RankItemsRequest(user_id="u2", item_ids=unseen, explain=True)
    ranked = {item.item_id: item for item in (await standing_cinema.recommendations.RankItems(request)).items}
    for film in unseen[::5]:
        explained = await _explained(standing_cinema, "u2", film)
        assert explained.score == pytest.approx(ranked[film].score, rel=1e-6, abs=1e-7)
        assert plainly(explained.reasons) == approximately(ranked[film].reasons)


async def test_the_parts_of_every_item_add_up(standing_cinema: Api) -> None:
    for film in _FILMS:
        explained = await _explained(standing_cinema, "u1", film)
        contributions = _contributions(explained.reasons)
        assert sum(contributions) == pytest.approx(explained.score, abs=1e-9)
        assert [abs(part) for part in contributions] == sorted(map(abs, contributions), reverse=True)


async def test_a_seen_item_is_explained_by_the_others(standing_cinema: Api) -> None:
    seen = watched_by(2)[0]
    explained = await _explained(standing_cinema, "u2", seen)
    assert explained.score > 0
    because = {
        reason.similar_to_interacted.item_id for reason in explained.reasons if reason.similar_to_interacted.item_id
    }
    assert because
    assert because <= set(watched_by(2))


async def test_the_last_event_counts(cinema: Api) -> None:
    await train(cinema)
    await cinema.ingestion.RecordEvent(ingestion_pb.RecordEventRequest(event=an_event("new", "Horror-1")))
    explained = await _explained(cinema, "new", "Horror-4")
    assert explained.reasons[0].similar_to_interacted.item_id == "Horror-1"


async def test_an_item_that_may_not_be_listed_is_explained_all_the_same(cinema: Api) -> None:
    await train(cinema)
    await cinema.catalog.UpdateItem(
        catalog_pb.UpdateItemRequest(
            item={"item_id": "Horror-1", "hidden": True, "available": False},
            update_mask={"paths": ["hidden", "available"]},
        )
    )
    assert (await _explained(cinema, "u2", "Horror-1")).score > 0


async def test_without_a_model_the_item_stands_for_what_it_is_to_all(cinema: Api) -> None:
    explained = await _explained(cinema, "u2", "Drama-1")
    assert explained.model_id == ""
    assert {reason.WhichOneof("kind") for reason in explained.reasons} == {"trending", "popular_in_category"}
    assert sum(_contributions(explained.reasons)) == pytest.approx(explained.score)


async def test_a_user_of_whom_nothing_is_known_gets_what_trends(standing_cinema: Api) -> None:
    await standing_cinema.users.UpdateUser(user_pb.UpdateUserRequest(user={"user_id": "silent"}, allow_missing=True))
    explained = await _explained(standing_cinema, "silent", "Drama-1")
    assert explained.model_id == ""
    assert explained.score > 0


async def test_unknown_users_and_items_are_not_found(standing_cinema: Api) -> None:
    failed = await failure(_explained(standing_cinema, "nobody", "Drama-1"))
    assert (failed.code, failed.reason) == ("NOT_FOUND", "USER_NOT_FOUND")
    failed = await failure(_explained(standing_cinema, "u1", "nothing"))
    assert (failed.code, failed.reason) == ("NOT_FOUND", "ITEM_NOT_FOUND")
    assert (await failure(_explained(standing_cinema, "", "Drama-1"))).reason == "INVALID_FIELD"


async def test_reasons_of_content_name_what_matches(cinema: Api) -> None:
    new = an_item("Drama", 99, tags=["slow", "french"])
    liked = an_item("Drama", 98, tags=["slow"])
    await cinema.catalog.BatchUpsertItems(catalog_pb.BatchUpsertItemsRequest(items=[new, liked]))
    await cinema.ingestion.RecordEvent(ingestion_pb.RecordEventRequest(event=an_event("u0", "Drama-98")))
    request = pb.RecommendRequest(user_id="u0", strategy=pb.STRATEGY_CONTENT, explain=True, count=50)
    items = {item.item_id: item for item in (await cinema.recommendations.Recommend(request)).items}
    assert list(items["Drama-99"].reasons[0].matches_attributes.keys) == ["Drama", "slow"]


async def test_reasons_of_similar_items_name_what_the_two_share(api: Api) -> None:
    items = [an_item("Drama", 1, tags=["slow", "french"]), an_item("Drama", 2, tags=["slow", "loud"])]
    await api.catalog.BatchUpsertItems(catalog_pb.BatchUpsertItemsRequest(items=items))
    request = pb.SimilarItemsRequest(item_id="Drama-1", by=pb.SIMILARITY_BASIS_CONTENT, explain=True)
    (item,) = (await api.recommendations.SimilarItems(request)).items
    assert list(item.reasons[0].matches_attributes.keys) == ["Drama", "slow"]
    assert item.reasons[0].matches_attributes.contribution == item.score
