"""RecommendationService: ranked items, once, for many, or as they change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from functools import partial
from typing import NamedTuple

from google.rpc.status_pb2 import Status

from recsvc.domain.errors import DeadlinePassed, DomainError, FieldViolation, InvalidField, InvalidPageToken
from recsvc.domain.ids import ItemId, TenantKey
from recsvc.domain.paging import PageTokens
from recsvc.domain.recommendations import Recommendations, RecommendQuery
from recsvc.domain.tenancy import TenantProfile
from recsvc.engine.profiles import TenantProfiles
from recsvc.engine.recommender import Recommender
from recsvc.engine.similar_items import SimilarItemFinder
from recsvc.engine.similar_users import SimilarUserFinder
from recsvc.engine.watch_hub import WatchHub
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from recsvc.gen.v1.recommendation_service_pb2_grpc import RecommendationServiceServicer
from recsvc.rpc import calls
from recsvc.rpc.calls import Context
from recsvc.rpc.convert import recommendations as convert
from recsvc.rpc.convert.values import duration, timestamp
from recsvc.rpc.errors import OK, status_of, unforeseen, violations_status
from recsvc.rpc.together import answered_together
from recsvc.rpc.validation import RequestValidator
from recsvc.settings import ServerSettings

# More would only queue for the database's connections and keep other callers from them.
_BATCH_CONCURRENCY = 4
_WATCH_INTERVAL_S = 0.1
# Of the time that a caller gives, the rest is for the list that comes instead of a fresh one.
_FRESH_SHARE = 0.7


class _Element(NamedTuple):
    """An element of a bulk stream: what it asks, and what was found, or why nothing can be; None as long as neither."""

    key: str
    query: RecommendQuery | None
    found: Recommendations | Status | None


class RecommendationServicer(RecommendationServiceServicer):
    """Answers with ranked items."""

    def __init__(
        self,
        recommender: Recommender,
        similar_items: SimilarItemFinder,
        similar_users: SimilarUserFinder,
        profiles: TenantProfiles,
        watches: WatchHub,
        tokens: PageTokens,
        validator: RequestValidator,
        settings: ServerSettings,
    ) -> None:
        self._recommender = recommender
        self._similar_items = similar_items
        self._similar_users = similar_users
        self._profiles = profiles
        self._watches = watches
        self._tokens = tokens
        self._validator = validator
        self._settings = settings

    async def Recommend(self, request: pb.RecommendRequest, context: Context) -> pb.RecommendResponse:
        left_s = context.time_remaining()
        budget_s = _FRESH_SHARE * left_s if left_s is not None else None
        return await self._recommend(request, await self._profiles.get(calls.tenant()), budget_s)

    async def BatchRecommend(self, request: pb.BatchRecommendRequest, context: Context) -> pb.BatchRecommendResponse:
        profile = await self._profiles.get(calls.tenant())
        violations = calls.current().element_violations
        slots = asyncio.Semaphore(_BATCH_CONCURRENCY)

        async def answer(element: pb.RecommendRequest, wrong: list[FieldViolation] | None) -> pb.RecommendResult:
            if wrong:
                return pb.RecommendResult(status=violations_status(wrong))
            async with slots:
                return await _result(self._recommend(element, profile))

        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(answer(element, violations.get(index)))
                for index, element in enumerate(request.requests)
            ]
        return pb.BatchRecommendResponse(results=[task.result() for task in tasks])

    async def SimilarItems(self, request: pb.SimilarItemsRequest, context: Context) -> pb.SimilarItemsResponse:
        tenant_key = calls.tenant()
        query = convert.similar_query(request, await self._profiles.get(tenant_key))
        return convert.similar_response(await self._similar_items.find(tenant_key, query), query.item_fields)

    async def TrendingItems(self, request: pb.TrendingItemsRequest, context: Context) -> pb.TrendingItemsResponse:
        tenant_key = calls.tenant()
        query = convert.trending_query(request, await self._profiles.get(tenant_key))
        found = await self._recommender.recommend(tenant_key, query)
        response = pb.TrendingItemsResponse(
            recommendation_id=found.recommendation_id,
            window=duration(query.trend_half_life),
            degradation=convert.degradation_proto(found.degradation),
            generate_time=timestamp(found.generate_time),
        )
        convert.add_items(response.items, found.items, query.item_fields)
        return response

    async def PopularItems(self, request: pb.PopularItemsRequest, context: Context) -> pb.PopularItemsResponse:
        tenant_key = calls.tenant()
        query = convert.popular_query(request, await self._profiles.get(tenant_key))
        found = await self._recommender.recommend(tenant_key, query)
        response = pb.PopularItemsResponse(
            recommendation_id=found.recommendation_id,
            degradation=convert.degradation_proto(found.degradation),
            generate_time=timestamp(found.generate_time),
        )
        convert.add_items(response.items, found.items, query.item_fields)
        return response

    async def RankItems(self, request: pb.RankItemsRequest, context: Context) -> pb.RankItemsResponse:
        tenant_key = calls.tenant()
        query = convert.rank_query(request, await self._profiles.get(tenant_key))
        ranked = await self._recommender.rank_items(tenant_key, query)
        found = ranked.recommendations
        response = pb.RankItemsResponse(
            recommendation_id=found.recommendation_id,
            unknown_item_ids=ranked.unknown_item_ids,
            model_id=found.model_id,
            degradation=convert.degradation_proto(found.degradation),
            generate_time=timestamp(found.generate_time),
        )
        convert.add_items(response.items, found.items, ())
        return response

    async def BulkRecommend(
        self, request_iterator: AsyncIterator[pb.BulkRecommendRequest], context: Context
    ) -> AsyncIterator[pb.BulkRecommendResponse]:
        tenant_key = calls.tenant()
        elements = self._understood(tenant_key, request_iterator)
        together, alone = partial(self._answer_together, tenant_key), partial(self._answer_alone, tenant_key)
        async for element in answered_together(elements, together, alone, self._settings.bulk_in_flight):
            # Made into messages here and not before, so that other calls come between two of many.
            yield _bulk_response(element)

    async def SimilarUsers(self, request: pb.SimilarUsersRequest, context: Context) -> pb.SimilarUsersResponse:
        query = convert.similar_users_query(request)
        return convert.similar_users_response(await self._similar_users.find(calls.tenant(), query))

    async def ExplainRecommendation(
        self, request: pb.ExplainRecommendationRequest, context: Context
    ) -> pb.ExplainRecommendationResponse:
        tenant_key = calls.tenant()
        query = convert.explain_query(request, await self._profiles.get(tenant_key))
        return convert.explain_response(await self._recommender.explain(tenant_key, query, ItemId(request.item_id)))

    async def WatchRecommendations(
        self, request: pb.WatchRecommendationsRequest, context: Context
    ) -> AsyncIterator[pb.WatchRecommendationsResponse]:
        tenant_key = calls.tenant()
        query = convert.recommend_query(request.request, await self._profiles.get(tenant_key))
        interval_s = (
            request.min_interval.ToTimedelta().total_seconds()
            if request.HasField("min_interval")
            else _WATCH_INTERVAL_S
        )
        # A token of another question tells nothing about this one.
        name = f"{tenant_key}/watch/{query.fingerprint()}"
        try:
            resumed = self._tokens.decode(name, request.resume_token)
        except InvalidPageToken as error:
            raise InvalidField("resume_token", "is not a token that a watch of this request returned") from error
        known = str(resumed[0]) if resumed else ""
        async for update in self._watches.updates(tenant_key, query, min_interval_s=interval_s, known=known):
            response = pb.WatchRecommendationsResponse(resume_token=self._tokens.encode(name, [update.digest]))
            if update.found is None:
                response.heartbeat.GetCurrentTime()
            else:
                convert.write_response(response.recommendation, update.found, query.item_fields)
            yield response

    async def _understood(
        self, tenant_key: TenantKey, requests: AsyncIterator[pb.BulkRecommendRequest]
    ) -> AsyncIterator[_Element]:
        async for request in requests:
            yield await self._element(tenant_key, request)

    async def _element(self, tenant_key: TenantKey, request: pb.BulkRecommendRequest) -> _Element:
        try:
            self._validator.check(request)
            # A stream may last for hours, and settings may change.
            query = convert.recommend_query(request.request, await self._profiles.get(tenant_key))
        except Exception as error:
            return _Element(request.key, None, _status(error))
        return _Element(request.key, query, None)

    async def _answer_together(self, tenant_key: TenantKey, elements: Sequence[_Element]) -> Sequence[_Element | None]:
        queries = [element.query for element in elements if element.query is not None]
        try:
            async with asyncio.timeout(self._settings.default_deadline_s):
                found = iter(await self._recommender.recommend_together(tenant_key, queries))
        except (DomainError, TimeoutError) as error:
            return [element if element.found else element._replace(found=_status(error)) for element in elements]
        except Exception as error:
            _status(error)
            # Whose fault it was shows when each is answered alone.
            found = iter([None] * len(queries))
        answers = [element.found or next(found) for element in elements]
        return [
            _Element(element.key, element.query, answer) if answer is not None else None
            for element, answer in zip(elements, answers, strict=True)
        ]

    async def _answer_alone(self, tenant_key: TenantKey, element: _Element) -> _Element:
        if element.query is None:
            return element
        try:
            async with asyncio.timeout(self._settings.default_deadline_s):
                found = await self._recommender.recommend(tenant_key, element.query, in_bulk=True)
        except Exception as error:
            return element._replace(found=_status(error))
        return element._replace(found=found)

    async def _recommend(
        self, request: pb.RecommendRequest, profile: TenantProfile, budget_s: float | None = None
    ) -> pb.RecommendResponse:
        query = convert.recommend_query(request, profile)
        found = await self._recommender.recommend(profile.tenant_key, query, budget_s=budget_s)
        return convert.recommend_response(found, query.item_fields)


def _bulk_response(element: _Element) -> pb.BulkRecommendResponse:
    if not isinstance(element.found, Recommendations):
        return pb.BulkRecommendResponse(key=element.key, status=element.found)
    response = pb.BulkRecommendResponse(key=element.key, status=OK)
    item_fields = element.query.item_fields if element.query is not None else ()
    convert.write_response(response.response, element.found, item_fields)
    return response


async def _result(answer: Awaitable[pb.RecommendResponse]) -> pb.RecommendResult:
    """One element's outcome: whatever goes wrong with it is its own."""
    try:
        return pb.RecommendResult(status=OK, response=await answer)
    except Exception as error:
        return pb.RecommendResult(status=_status(error))


def _status(error: Exception) -> Status:
    """What to tell of an error that is being handled."""
    if isinstance(error, TimeoutError):
        error = DeadlinePassed()
    return status_of(error if isinstance(error, DomainError) else unforeseen(calls.current()))
