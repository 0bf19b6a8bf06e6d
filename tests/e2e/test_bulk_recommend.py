"""BulkRecommend over a real socket: the answers of Recommend, in any order, without buffers and without loss."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from recsvc.app import Service
from recsvc.domain.errors import StorageUnavailable
from recsvc.domain.ids import TenantKey
from recsvc.domain.recommendations import RecommendQuery
from recsvc.domain.tenancy import TenantProfile
from recsvc.engine.shown_log import ShownLog
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from recsvc.rpc.convert import recommendations as convert
from recsvc.storage.shown import ShownList
from tests.alike import approximately, plainly
from tests.api import Api, failure, failure_of
from tests.cinema import open_cinema

_USERS = [f"u{number}" for number in range(40)]


def _element(user_id: str, **fields: object) -> pb.BulkRecommendRequest:
    return pb.BulkRecommendRequest(key=user_id, request=pb.RecommendRequest(user_id=user_id, **fields))


async def _answers(api: Api, *elements: pb.BulkRecommendRequest) -> dict[str, pb.BulkRecommendResponse]:
    async def requests() -> AsyncIterator[pb.BulkRecommendRequest]:
        for element in elements:
            yield element

    found = [answer async for answer in api.recommendations.BulkRecommend(requests())]
    assert len(found) == len(elements)
    return {answer.key: answer for answer in found}


@pytest.fixture
async def remembered_cinema(standing_cinema: Api, service: Service) -> Api:
    """The cinema, once the service has it in memory and answers sets of users out of that."""
    registry = service.storage.metrics.registry

    def questions() -> float:
        return registry.get_sample_value("recsvc_candidate_questions_total", {"by": "snapshot"}) or 0.0

    async with asyncio.timeout(30):
        before = questions()
        while questions() == before:
            await _answers(standing_cinema, _element("u1"))
            await asyncio.sleep(0.05)
    return standing_cinema


@pytest.fixture
def apart(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every element is one of those that cannot be answered together with others."""

    async def nothing(_tenant_key: object, queries: Sequence[object]) -> list[None]:
        return [None] * len(queries)

    monkeypatch.setattr(service.engine.recommender, "recommend_together", nothing)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"count": 12, "strategy": pb.STRATEGY_COLLABORATIVE},
        {"include_seen": True, "exclude_item_ids": ["Drama-1", "Horror-3"]},
        {"explain": True},
        {"item_mask": {"paths": ["title"]}},
        {"diversity": {"lambda": 0.5}},
        {"filter": 'categories:"Drama"'},
        {"strategy": pb.STRATEGY_TRENDING},
    ],
    ids=lambda fields: " ".join(fields) or "plain",
)
async def test_each_answer_is_that_of_recommend(remembered_cinema: Api, fields: dict[str, object]) -> None:
    users = [*_USERS, "nobody knows"]
    answers = await _answers(remembered_cinema, *(_element(user_id, **fields) for user_id in users))
    assert set(answers) == set(users)
    for user_id, answer in answers.items():
        request = pb.RecommendRequest(user_id=user_id, **fields)
        single = await remembered_cinema.recommendations.Recommend(request)
        assert answer.status.code == 0
        assert plainly(answer.response.items) == approximately(single.items)
        assert answer.response.model_id == single.model_id
        assert answer.response.recommendation_id != single.recommendation_id


async def test_one_bad_element_fails_alone(standing_cinema: Api) -> None:
    answers = await _answers(
        standing_cinema,
        _element("u1"),
        pb.BulkRecommendRequest(key="too many", request=pb.RecommendRequest(user_id="u1", count=9999)),
        pb.BulkRecommendRequest(key="bad filter", request=pb.RecommendRequest(user_id="u1", filter="(")),
        pb.BulkRecommendRequest(key="no request"),
        pb.BulkRecommendRequest(request=pb.RecommendRequest(user_id="u2")),
        pb.BulkRecommendRequest(key="no placement", request=pb.RecommendRequest(user_id="u1", placement="nope")),
        _element("u3"),
    )
    failed = {key: failure_of(answer.status, str(answer.status.code)) for key, answer in answers.items()}
    assert {key for key, answer in answers.items() if answer.status.code == 0} == {"u1", "u3"}
    assert not any(answers[key].HasField("response") for key in failed if key not in ("u1", "u3"))
    assert failed["too many"].reason == "INVALID_FIELD"
    assert "request.count" in failed["too many"].fields
    assert failed["bad filter"].reason == "INVALID_FILTER"
    assert failed["no request"].reason == "INVALID_FIELD"
    assert "key" in failed[""].fields
    assert failed["no placement"].reason == "PLACEMENT_NOT_FOUND"


async def test_a_fault_of_the_service_is_one_elements_own(
    standing_cinema: Api, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommend, together = service.engine.recommender.recommend, service.engine.recommender.recommend_together

    async def faulty(tenant_key: object, query: object, **options: object) -> object:
        if query.user_id == "u5":  # type: ignore[attr-defined]
            raise ZeroDivisionError("secret")
        return await recommend(tenant_key, query, **options)  # type: ignore[arg-type]

    async def faulty_together(tenant_key: object, queries: Sequence[object]) -> object:
        if any(query.user_id == "u5" for query in queries):  # type: ignore[attr-defined]
            raise ZeroDivisionError("secret")
        return await together(tenant_key, queries)  # type: ignore[arg-type]

    monkeypatch.setattr(service.engine.recommender, "recommend", faulty)
    monkeypatch.setattr(service.engine.recommender, "recommend_together", faulty_together)
    answers = await _answers(standing_cinema, *map(_element, _USERS))
    assert [key for key, answer in answers.items() if answer.status.code] == ["u5"]
    assert answers["u5"].status.code == 13
    assert "secret" not in str(answers["u5"].status)


async def test_every_element_has_a_deadline_of_its_own(
    standing_cinema: Api, service: Service, apart: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommend = service.engine.recommender.recommend

    async def slow(tenant_key: object, query: object, **options: object) -> object:
        if query.user_id == "u5":  # type: ignore[attr-defined]
            raise TimeoutError
        return await recommend(tenant_key, query, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(service.engine.recommender, "recommend", slow)
    answers = await _answers(standing_cinema, _element("u4"), _element("u5"))
    assert {key: answer.status.code for key, answer in answers.items()} == {"u4": 0, "u5": 4}


async def test_a_set_that_is_late_or_finds_no_database_fails_by_element(
    standing_cinema: Api, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_tenant_key: object, queries: Sequence[object]) -> object:
        raise StorageUnavailable if any(query.user_id == "u5" for query in queries) else TimeoutError  # type: ignore[attr-defined]

    monkeypatch.setattr(service.engine.recommender, "recommend_together", away)
    call = standing_cinema.recommendations.BulkRecommend()
    codes = []
    for user_id in ("u4", "u5"):
        await call.write(_element(user_id))
        codes.append((await call.read()).status.code)
    await call.done_writing()
    assert codes == [4, 14]


async def test_a_list_that_cannot_be_noted_as_shown_fails_alone(
    remembered_cinema: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = ShownLog.add_patiently

    async def full(log: ShownLog, tenant_key: TenantKey, shown: ShownList) -> None:
        if shown.user_id == "u5":
            raise StorageUnavailable
        await add(log, tenant_key, shown)

    monkeypatch.setattr(ShownLog, "add_patiently", full)
    answers = await _answers(remembered_cinema, *map(_element, _USERS))
    assert {key: answer.status.code for key, answer in answers.items() if answer.status.code} == {"u5": 14}


async def test_what_is_sent_before_the_half_close_is_answered(standing_cinema: Api) -> None:
    call = standing_cinema.recommendations.BulkRecommend()
    for user_id in _USERS[:6]:
        await call.write(_element(user_id))
    await call.done_writing()
    keys = [answer.key async for answer in call]
    assert sorted(keys) == sorted(_USERS[:6])


async def test_answers_come_while_the_stream_is_open(standing_cinema: Api) -> None:
    call = standing_cinema.recommendations.BulkRecommend()
    for user_id in _USERS[:3]:
        await call.write(_element(user_id))
        assert (await call.read()).key == user_id
    await call.done_writing()
    assert [answer async for answer in call] == []


async def test_no_more_is_read_than_is_in_flight(
    standing_cinema: Api, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, gate = 0, asyncio.Event()
    understand, together = convert.recommend_query, service.engine.recommender.recommend_together

    def counted(request: pb.RecommendRequest, profile: TenantProfile) -> RecommendQuery:
        nonlocal read
        read += 1
        return understand(request, profile)

    async def held(tenant_key: object, queries: Sequence[object]) -> object:
        await gate.wait()
        return await together(tenant_key, queries)  # type: ignore[arg-type]

    monkeypatch.setattr(convert, "recommend_query", counted)
    monkeypatch.setattr(service.engine.recommender, "recommend_together", held)
    in_flight = service.storage.settings.server.bulk_in_flight
    elements = [
        pb.BulkRecommendRequest(key=str(number), request=pb.RecommendRequest(user_id=_USERS[number % 40]))
        for number in range(2 * in_flight)
    ]
    answering = asyncio.create_task(_answers(standing_cinema, *elements))
    async with asyncio.timeout(10):
        while read < in_flight:  # noqa: ASYNC110  (what is waited for is in the service)
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    assert read == in_flight
    gate.set()
    assert len(await answering) == len(elements)


async def test_a_caller_that_takes_no_answers_is_sent_no_more(
    standing_cinema: Api, service: Service, apart: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0
    recommend = service.engine.recommender.recommend

    async def counted(tenant_key: object, query: object, **options: object) -> object:
        nonlocal taken
        taken += 1
        return await recommend(tenant_key, query, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(service.engine.recommender, "recommend", counted)
    total = 3000

    async def endless() -> AsyncIterator[pb.BulkRecommendRequest]:
        for number in range(total):
            element = _element(_USERS[number % 40], count=50, item_mask={"paths": ["*"]}, explain=True)
            element.key = str(number)
            yield element

    call = standing_cinema.recommendations.BulkRecommend(endless(), timeout=100)
    await call.read()
    before = -1
    async with asyncio.timeout(60):
        while before != taken:
            before = taken
            await asyncio.sleep(0.5)
    # What the flow-control windows of the connection hold, and no more.
    assert taken < total / 2
    call.cancel()


async def test_a_cancelled_stream_stops_its_work(
    standing_cinema: Api, service: Service, apart: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, stopped = asyncio.Event(), asyncio.Event()

    async def endless(_tenant_key: object, _query: object, **_options: object) -> object:
        under_way.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.set()
            raise
        raise AssertionError("not cancelled")

    monkeypatch.setattr(service.engine.recommender, "recommend", endless)
    call = standing_cinema.recommendations.BulkRecommend()
    await call.write(_element("u1"))
    await asyncio.wait_for(under_way.wait(), 5)
    call.cancel()
    await asyncio.wait_for(stopped.wait(), 5)


async def test_every_list_is_noted_as_shown(api: Api, service: Service) -> None:
    await open_cinema(api)
    lists = 300
    answers = await _answers(
        api,
        *(
            pb.BulkRecommendRequest(key=str(number), request=pb.RecommendRequest(user_id=_USERS[number % 40]))
            for number in range(lists)
        ),
    )
    ids = [answer.response.recommendation_id for answer in answers.values()]
    async with asyncio.timeout(10):
        while (noted := await _noted(service, ids)) < lists:  # noqa: ASYNC110  (written behind the answers)
            await asyncio.sleep(0.05)
    assert noted == len(set(ids)) == lists


async def _noted(service: Service, recommendation_ids: list[str]) -> int:
    async with service.storage.database.service_transaction() as connection:
        cursor = await connection.execute(
            b"SELECT count(*) AS noted FROM shown WHERE recommendation_id = ANY (%s)", [recommendation_ids]
        )
        row = await cursor.fetchone()
    assert row is not None
    return int(row["noted"])


async def test_a_stream_needs_a_key(service: Service) -> None:
    async with Api.connected(service.port, "") as stranger:
        failed = await failure(_answers(stranger, _element("u1")))
    assert failed.code == "UNAUTHENTICATED"
