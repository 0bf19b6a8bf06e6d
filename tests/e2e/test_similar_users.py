"""SimilarUsers over a real socket: cosine of folded-in vectors, for known users, as of the last event."""

from __future__ import annotations

import asyncio

import pytest

from recsvc.app import Service
from recsvc.domain.tenancy import Tenant
from recsvc.gen.v1 import admin_service_pb2 as admin_pb
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from recsvc.gen.v1 import user_service_pb2 as user_pb
from tests.api import Api, failure
from tests.cinema import PER_GENRE, an_event, open_cinema, train, watched_by


async def _alike(api: Api, user_id: str, **fields: object) -> list[str]:
    response = await api.recommendations.SimilarUsers(pb.SimilarUsersRequest(user_id=user_id, **fields))
    return [user.user_id for user in response.users]


async def _everybody_counts(api: Api) -> None:
    """Wait until the projector has carried all users over to the active model."""
    async with asyncio.timeout(20):
        while True:
            response = await api.recommendations.SimilarUsers(pb.SimilarUsersRequest(user_id="u0"))
            if response.degradation.level == pb.Degradation.LEVEL_NONE:
                return
            assert response.degradation.level == pb.Degradation.LEVEL_PARTIAL
            await asyncio.sleep(0.1)


async def _record(api: Api, *events: ingestion_pb.Event) -> None:
    response = await api.ingestion.BatchRecordEvents(ingestion_pb.BatchRecordEventsRequest(events=events))
    assert all(result.status.code == 0 for result in response.results)


@pytest.fixture
async def trained(api: Api) -> Api:
    """A trained cinema of the test's own."""
    await open_cinema(api)
    await train(api)
    await _everybody_counts(api)
    return api


async def test_users_of_one_taste_are_alike(standing_cinema: Api) -> None:
    await _everybody_counts(standing_cinema)
    request = pb.SimilarUsersRequest(user_id="u2", count=5)
    response = await standing_cinema.recommendations.SimilarUsers(request)
    assert {int(user.user_id[1:]) % 4 for user in response.users} == {2}
    similarities = [user.similarity for user in response.users]
    assert similarities == sorted(similarities, reverse=True)
    assert all(-1.0 <= similarity <= 1.0 for similarity in similarities)
    assert response.model_id


async def test_users_with_the_same_items_are_the_most_alike(standing_cinema: Api) -> None:
    # u0 and u16 saw the same eight films: 16 is a multiple of both the genres and the films of one.
    assert watched_by(0) == watched_by(16) == watched_by(32)
    await _everybody_counts(standing_cinema)
    response = await standing_cinema.recommendations.SimilarUsers(pb.SimilarUsersRequest(user_id="u0", count=3))
    assert [user.user_id for user in response.users[:2]] == ["u16", "u32"]
    assert [user.similarity for user in response.users[:2]] == pytest.approx([1.0, 1.0])
    assert response.users[2].similarity < 0.999


async def test_the_user_is_not_among_them_and_count_bounds_them(standing_cinema: Api) -> None:
    await _everybody_counts(standing_cinema)
    assert len(await _alike(standing_cinema, "u1")) == 10
    everybody = await _alike(standing_cinema, "u1", count=500)
    assert sorted(everybody) == sorted(f"u{number}" for number in range(40) if number != 1)


async def test_the_last_event_counts(trained: Api) -> None:
    films = [f"Western-{number}" for number in range(PER_GENRE)]
    await _record(trained, *(an_event("newcomer", film) for film in films[:8]))
    assert {int(user_id[1:]) % 4 for user_id in await _alike(trained, "newcomer", count=5)} == {3}
    # Having changed their mind, loudly.
    await _record(trained, *(an_event("newcomer", film, "dislike") for film in films[:8]))
    await _record(trained, *(an_event("newcomer", f"Drama-{number}") for number in range(8)))
    assert {int(user_id[1:]) % 4 for user_id in await _alike(trained, "newcomer", count=5)} == {0}


async def test_sessions_are_nobody(standing_cinema: Api) -> None:
    await _everybody_counts(standing_cinema)
    await _record(standing_cinema, ingestion_pb.Event(event_type="view", session_id="s1", item_id="Drama-1"))
    await standing_cinema.recommendations.Recommend(pb.RecommendRequest(session_id="s1"))
    assert "s1" not in await _alike(standing_cinema, "u0", count=500)
    failed = await failure(_alike(standing_cinema, "s1"))
    assert (failed.code, failed.reason) == ("NOT_FOUND", "USER_NOT_FOUND")


async def test_the_filter_is_over_users(standing_cinema: Api) -> None:
    await _everybody_counts(standing_cinema)
    for user_id, city in (("u4", "Graz"), ("u8", "Linz"), ("u5", "Graz")):
        await standing_cinema.users.UpdateUser(
            user_pb.UpdateUserRequest(
                user={"user_id": user_id, "attributes": {"city": city}, "labels": ["member"]}, allow_missing=True
            )
        )
    assert set(await _alike(standing_cinema, "u0", filter='attributes.city = "Graz"')) == {"u4", "u5"}
    assert (await _alike(standing_cinema, "u0", filter='labels:"member" AND NOT attributes.city = "Graz"')) == ["u8"]
    failed = await failure(_alike(standing_cinema, "u0", filter='categories:"Drama"'))
    assert (failed.code, failed.reason) == ("INVALID_ARGUMENT", "INVALID_FILTER")


async def test_an_unknown_user_is_not_found(standing_cinema: Api) -> None:
    failed = await failure(_alike(standing_cinema, "nobody"))
    assert (failed.code, failed.reason) == ("NOT_FOUND", "USER_NOT_FOUND")


async def test_a_user_of_whom_nothing_is_known_has_nobody_alike(standing_cinema: Api) -> None:
    await _everybody_counts(standing_cinema)
    await standing_cinema.users.UpdateUser(user_pb.UpdateUserRequest(user={"user_id": "silent"}, allow_missing=True))
    response = await standing_cinema.recommendations.SimilarUsers(pb.SimilarUsersRequest(user_id="silent"))
    assert not response.users
    assert response.model_id
    assert "silent" not in await _alike(standing_cinema, "u0", count=500)


async def test_without_a_model_the_precondition_fails(api: Api) -> None:
    await open_cinema(api)
    failed = await failure(_alike(api, "u0"))
    assert (failed.code, failed.reason) == ("FAILED_PRECONDITION", "NO_MODEL")


async def test_everybody_is_carried_over_to_a_new_model(trained: Api, service: Service, new_tenant: Tenant) -> None:
    assert len(await _alike(trained, "u0", count=500)) == 39
    started = await trained.admin.StartTraining(admin_pb.StartTrainingRequest(dimension=4, force_activation=True))
    request = admin_pb.WatchTrainingRunRequest(training_run_id=started.training_run.training_run_id)
    async for _ in trained.admin.WatchTrainingRun(request):
        pass
    await _everybody_counts(trained)
    assert len(await _alike(trained, "u0", count=500)) == 39
    assert {int(user_id[1:]) % 4 for user_id in await _alike(trained, "u0", count=5)} == {0}
    # Nothing is left to carry over, and nobody is carried over again and again.
    outdated = await service.storage.states.states_of_other_models(1000)
    assert new_tenant.tenant_key not in outdated
