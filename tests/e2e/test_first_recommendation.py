"""The main path over a real socket: items and events in, a model trained, recommendations out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from threadpoolctl import threadpool_info

from recsvc.app import Service
from recsvc.gen.v1 import admin_service_pb2 as admin_pb
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from tests.api import Api, failure
from tests.cinema import PER_GENRE, an_event, an_item, open_cinema, train


@pytest.fixture
async def cinema(api: Api) -> Api:
    """A catalogue of four genres and forty users, each with a taste for one of them; no model yet."""
    await open_cinema(api)
    return api


@pytest.fixture
async def trained(cinema: Api) -> Api:
    """The same with a trained model, for tests that change something."""
    await train(cinema)
    return cinema


async def _recommend(api: Api, **fields: object) -> pb.RecommendResponse:
    return await api.recommendations.Recommend(pb.RecommendRequest(**fields))


def _genres(response: pb.RecommendResponse) -> list[str]:
    return [item.item_id.split("-")[0] for item in response.items]


async def test_a_user_gets_unseen_items_of_their_taste(standing_cinema: Api) -> None:
    response = await _recommend(standing_cinema, user_id="u2", count=5)
    seen = {f"Horror-{(2 + step * 3) % PER_GENRE}" for step in range(8)}
    assert response.strategy == pb.STRATEGY_AUTO
    assert response.model_id
    assert response.degradation.level == pb.Degradation.LEVEL_NONE
    assert set(_genres(response)) == {"Horror"}
    assert not seen & {item.item_id for item in response.items}
    assert [item.rank for item in response.items] == [1, 2, 3, 4, 5]
    assert [item.score for item in response.items] == sorted((item.score for item in response.items), reverse=True)


async def test_an_acknowledged_event_changes_the_very_next_list(trained: Api) -> None:
    before = await _recommend(trained, user_id="u1", count=5)
    first = before.items[0].item_id
    await trained.ingestion.RecordEvent(ingestion_pb.RecordEventRequest(event=an_event("u1", first)))
    after = await _recommend(trained, user_id="u1", count=5)
    assert first not in {item.item_id for item in after.items}


async def test_one_thread_computes_a_list(service: Service) -> None:
    assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}


async def test_a_repeated_request_is_answered_from_the_cache(standing_cinema: Api) -> None:
    first = await _recommend(standing_cinema, user_id="u3")
    again = await _recommend(standing_cinema, user_id="u3")
    assert again.generate_time == first.generate_time
    assert again.recommendation_id != first.recommendation_id


async def test_max_staleness_zero_computes_anew(standing_cinema: Api) -> None:
    first = await _recommend(standing_cinema, user_id="u3")
    request = pb.RecommendRequest(user_id="u3")
    request.max_staleness.seconds = 0
    again = await standing_cinema.recommendations.Recommend(request)
    assert again.generate_time.ToNanoseconds() > first.generate_time.ToNanoseconds()


async def test_a_hidden_item_leaves_every_list_at_once(trained: Api) -> None:
    before = await _recommend(trained, user_id="u2", count=5)
    gone = before.items[0].item_id
    await trained.catalog.UpdateItem(
        catalog_pb.UpdateItemRequest(item=catalog_pb.Item(item_id=gone, hidden=True), update_mask={"paths": ["hidden"]})
    )
    after = await _recommend(trained, user_id="u2", count=5)
    assert gone not in {item.item_id for item in after.items}


async def test_an_unavailable_or_expired_item_is_never_recommended(trained: Api) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    response = await _recommend(trained, user_id="u2", count=7)
    unavailable, expired = response.items[0].item_id, response.items[1].item_id
    updates = [catalog_pb.Item(item_id=unavailable, available=False), catalog_pb.Item(item_id=expired)]
    updates[1].expire_time.FromDatetime(yesterday)
    for item in updates:
        await trained.catalog.UpdateItem(catalog_pb.UpdateItemRequest(item=item))
    for strategy in (pb.STRATEGY_AUTO, pb.STRATEGY_POPULAR, pb.STRATEGY_NEW, pb.STRATEGY_CONTENT):
        after = await _recommend(trained, user_id="u2", count=60, strategy=strategy)
        assert not {unavailable, expired} & {item.item_id for item in after.items}


async def test_seen_items_come_again_only_when_asked(standing_cinema: Api) -> None:
    response = await _recommend(standing_cinema, user_id="u0", count=60, include_seen=True)
    assert "Drama-0" in {item.item_id for item in response.items}


async def test_a_new_user_gets_trending_items(standing_cinema: Api) -> None:
    response = await _recommend(standing_cinema, user_id="never-seen", count=5)
    assert response.strategy == pb.STRATEGY_TRENDING
    assert response.degradation.level == pb.Degradation.LEVEL_NONE
    assert len(response.items) == 5


async def test_a_session_gets_neighbours_of_its_items(standing_cinema: Api) -> None:
    response = await _recommend(standing_cinema, session_item_ids=["Western-1", "Western-4"], count=5)
    assert set(_genres(response)) == {"Western"}
    assert not {"Western-1", "Western-4"} & {item.item_id for item in response.items}


async def test_an_anonymous_session_is_known_by_its_events(trained: Api) -> None:
    event = ingestion_pb.Event(event_type="view", session_id="s1", item_id="Comedy-3")
    await trained.ingestion.RecordEvent(ingestion_pb.RecordEventRequest(event=event))
    response = await _recommend(trained, session_id="s1", count=5)
    assert set(_genres(response)) == {"Comedy"}


async def test_without_a_model_the_answer_is_a_fallback_and_says_so(cinema: Api) -> None:
    response = await _recommend(cinema, user_id="u1", count=5)
    assert response.strategy == pb.STRATEGY_TRENDING
    assert response.degradation.level == pb.Degradation.LEVEL_FALLBACK
    assert response.degradation.reason
    assert len(response.items) == 5


async def test_the_filter_bounds_the_list(standing_cinema: Api) -> None:
    response = await _recommend(standing_cinema, user_id="u2", count=5, filter='categories:"Drama"')
    assert set(_genres(response)) == {"Drama"}


async def test_a_wrong_filter_tells_the_column(standing_cinema: Api) -> None:
    failed = await failure(_recommend(standing_cinema, user_id="u2", filter="colour = 3"))
    assert (failed.code, failed.reason) == ("INVALID_ARGUMENT", "INVALID_FILTER")
    assert failed.metadata["column"] == "1"
    assert "filter" in failed.fields


async def test_the_item_mask_brings_the_fields_that_it_names(standing_cinema: Api) -> None:
    response = await _recommend(standing_cinema, user_id="u2", count=2, item_mask={"paths": ["title", "categories"]})
    item = response.items[0].item
    assert item.title.startswith("Horror No.")
    assert list(item.categories) == ["Horror"]
    assert item.item_type == ""


async def test_a_boost_raises_what_it_matches(standing_cinema: Api) -> None:
    assert set(_genres(await _recommend(standing_cinema, user_id="u2", count=5))) == {"Horror"}
    response = await _recommend(
        standing_cinema,
        user_id="u2",
        count=5,
        boosts=[{"filter": 'categories:"Comedy"', "factor": 1000.0}],
        explain=True,
    )
    assert "Comedy" in _genres(response)


async def test_reasons_add_up_to_the_score(standing_cinema: Api) -> None:
    response = await _recommend(standing_cinema, user_id="u2", count=PER_GENRE - 8, explain=True)
    for item in response.items:
        parts = [getattr(reason, reason.WhichOneof("kind")).contribution for reason in item.reasons]
        assert sum(parts) == pytest.approx(item.score, abs=1e-6)
        assert item.reasons[0].similar_to_interacted.item_id.startswith("Horror")


async def test_max_per_category_is_kept(standing_cinema: Api) -> None:
    response = await _recommend(
        standing_cinema, user_id="u2", count=8, diversity={"max_per_category": 2}, strategy=pb.STRATEGY_AUTO
    )
    counts = {genre: _genres(response).count(genre) for genre in set(_genres(response))}
    assert max(counts.values()) <= 2


async def test_excluded_items_stay_out(standing_cinema: Api) -> None:
    first = (await _recommend(standing_cinema, user_id="u2")).items[0].item_id
    response = await _recommend(standing_cinema, user_id="u2", exclude_item_ids=[first])
    assert first not in {item.item_id for item in response.items}


async def test_recently_viewed_is_newest_first(standing_cinema: Api) -> None:
    response = await _recommend(standing_cinema, user_id="u2", strategy=pb.STRATEGY_RECENTLY_VIEWED, count=3)
    assert [item.item_id for item in response.items] == [f"Horror-{(2 + step * 3) % PER_GENRE}" for step in range(3)]


async def test_similar_items_share_users(standing_cinema: Api) -> None:
    response = await standing_cinema.recommendations.SimilarItems(pb.SimilarItemsRequest(item_id="Drama-3", count=5))
    assert response.by == pb.SIMILARITY_BASIS_BEHAVIOR
    assert {item.item_id.split("-")[0] for item in response.items} == {"Drama"}


async def test_similar_items_by_content_share_categories(standing_cinema: Api) -> None:
    request = pb.SimilarItemsRequest(item_id="Drama-3", count=5, by=pb.SIMILARITY_BASIS_CONTENT)
    response = await standing_cinema.recommendations.SimilarItems(request)
    assert len(response.items) == 5
    assert {item.item_id.split("-")[0] for item in response.items} == {"Drama"}


async def test_items_of_the_same_baskets_are_bought_together(trained: Api) -> None:
    events = [an_event(f"buyer{buyer}", item, "purchase") for buyer in range(4) for item in ("Drama-1", "Comedy-1")]
    await trained.ingestion.BatchRecordEvents(ingestion_pb.BatchRecordEventsRequest(events=events))
    request = pb.SimilarItemsRequest(item_id="Drama-1", by=pb.SIMILARITY_BASIS_BOUGHT_TOGETHER)
    response = await trained.recommendations.SimilarItems(request)
    assert response.items[0].item_id == "Comedy-1"


async def test_similar_items_of_an_unknown_item_is_not_found(standing_cinema: Api) -> None:
    failed = await failure(standing_cinema.recommendations.SimilarItems(pb.SimilarItemsRequest(item_id="nope")))
    assert (failed.code, failed.reason) == ("NOT_FOUND", "ITEM_NOT_FOUND")


async def test_popular_items_are_ordered_by_use(cinema: Api) -> None:
    events = [an_event(f"fan{fan}", "Western-7") for fan in range(30)]
    await cinema.ingestion.BatchRecordEvents(ingestion_pb.BatchRecordEventsRequest(events=events))
    response = await cinema.recommendations.PopularItems(pb.PopularItemsRequest(count=3))
    assert response.items[0].item_id == "Western-7"


async def test_trending_items_favour_what_is_recent(cinema: Api) -> None:
    old, new = [an_event(f"a{n}", "Drama-9") for n in range(20)], [an_event(f"b{n}", "Drama-10") for n in range(10)]
    for event in old:
        event.event_time.FromDatetime(datetime.now(UTC) - timedelta(days=30))
    await cinema.ingestion.BatchRecordEvents(ingestion_pb.BatchRecordEventsRequest(events=[*old, *new]))
    response = await cinema.recommendations.TrendingItems(pb.TrendingItemsRequest(count=50))
    ranked = [item.item_id for item in response.items]
    assert ranked.index("Drama-10") < ranked.index("Drama-9")


async def test_rank_items_orders_the_callers_candidates(standing_cinema: Api) -> None:
    request = pb.RankItemsRequest(user_id="u2", item_ids=["Drama-1", "Horror-1", "nope", "Comedy-1"])
    response = await standing_cinema.recommendations.RankItems(request)
    assert response.items[0].item_id == "Horror-1"
    assert {item.item_id for item in response.items} == {"Drama-1", "Horror-1", "Comedy-1"}
    assert list(response.unknown_item_ids) == ["nope"]


async def test_one_bad_request_of_a_batch_fails_alone(standing_cinema: Api) -> None:
    request = pb.BatchRecommendRequest(
        requests=[
            pb.RecommendRequest(user_id="u1", count=3),
            pb.RecommendRequest(user_id="u1", count=9999),
            pb.RecommendRequest(user_id="u1", filter="("),
            pb.RecommendRequest(user_id="u2", count=4),
        ]
    )
    response = await standing_cinema.recommendations.BatchRecommend(request)
    assert [result.status.code for result in response.results] == [0, 3, 3, 0]
    assert [len(result.response.items) for result in response.results] == [3, 0, 0, 4]


async def test_a_placement_sets_what_the_request_leaves_open(trained: Api) -> None:
    own = (await trained.admin.GetTenant(admin_pb.GetTenantRequest())).tenant
    own.settings.placements["drama-row"].filter = 'categories:"Drama"'
    own.settings.placements["drama-row"].count = 3
    await trained.admin.UpdateTenant(admin_pb.UpdateTenantRequest(tenant=own, update_mask={"paths": ["settings"]}))
    await asyncio.sleep(1.1)  # profiles are trusted for a second
    response = await _recommend(trained, user_id="u2", placement="drama-row")
    assert len(response.items) == 3
    assert set(_genres(response)) == {"Drama"}
    failed = await failure(_recommend(trained, user_id="u2", placement="nope"))
    assert (failed.code, failed.reason) == ("NOT_FOUND", "PLACEMENT_NOT_FOUND")


async def test_models_roll_forward_and_back(trained: Api) -> None:
    (first,) = (await trained.admin.ListModels(admin_pb.ListModelsRequest())).models
    started = await trained.admin.StartTraining(admin_pb.StartTrainingRequest(dimension=4, force_activation=True))
    request = admin_pb.WatchTrainingRunRequest(training_run_id=started.training_run.training_run_id)
    async for _ in trained.admin.WatchTrainingRun(request):
        pass
    second, _ = (await trained.admin.ListModels(admin_pb.ListModelsRequest())).models
    assert second.state == admin_pb.MODEL_STATE_ACTIVE
    assert second.dimension == 4
    failed = await failure(trained.admin.DeleteModel(admin_pb.DeleteModelRequest(model_id=second.model_id)))
    assert (failed.code, failed.reason) == ("FAILED_PRECONDITION", "MODEL_ACTIVE")
    await trained.admin.ActivateModel(admin_pb.ActivateModelRequest(model_id=first.model_id))
    await asyncio.sleep(1.1)  # profiles are trusted for a second
    response = await _recommend(trained, user_id="u2", count=5)
    assert response.model_id == first.model_id
    assert set(_genres(response)) == {"Horror"}
    await trained.admin.DeleteModel(admin_pb.DeleteModelRequest(model_id=second.model_id))


async def test_methods_of_later_versions_say_so(standing_cinema: Api) -> None:
    request = pb.RecommendRequest(user_id="u1", experiment={"experiment_id": "e", "variant": "a"})
    failed = await failure(standing_cinema.recommendations.Recommend(request))
    assert (failed.code, failed.reason) == ("UNIMPLEMENTED", "NOT_IMPLEMENTED")


async def test_imports_of_any_size_are_answered_chunk_by_chunk(api: Api) -> None:
    async def chunks() -> AsyncIterator[catalog_pb.ImportItemsRequest]:
        for start in range(0, 6000, 3000):
            yield catalog_pb.ImportItemsRequest(items=[an_item("Bulk", start + number) for number in range(3000)])
        yield catalog_pb.ImportItemsRequest(items=[an_item("Bulk", 0), catalog_pb.Item(item_id="")])

    answers = [answer async for answer in api.catalog.ImportItems(chunks())]
    assert [answer.created_count for answer in answers] == [3000, 3000, 0]
    assert [answer.updated_count for answer in answers] == [0, 0, 1]
    assert answers[2].failed_count == 1
    assert answers[2].failures[0].index == 1
