"""Asks the questions of an evaluation as a caller would: the recommender in this process, or a server through gRPC.

Both send the very same request, so that their lists can be compared: whom it is for, the items of the running session,
and how many items are wanted. Caches are passed by, and an answer that calls itself degraded is counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Protocol

import grpc
from google.protobuf.duration_pb2 import Duration
from pydantic import SecretStr

from recsvc.app import Storage, running_service
from recsvc.cli.answers import AnswerSheet
from recsvc.domain.ids import ItemId, ItemKey, SessionId, TenantKey, UserId
from recsvc.domain.recommendations import DegradationLevel, RecommendQuery, Strategy
from recsvc.engine.recommender import Recommender
from recsvc.gen.v1 import recommendation_service_pb2 as pb
from recsvc.gen.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from recsvc.settings import Settings, TlsSettings
from recsvc.storage.candidates import CandidateQuestion, CandidateRepository
from recsvc.training.challengers import Advance
from recsvc.training.protocols import Task

_CONCURRENCY = 4
_MOST_SESSION_ITEMS = 100
_MOST_EXCLUDED = 1000
_KEYS_AT_ONCE = 2000
_STREAM_TIMEOUT_S = 24 * 3600.0
_DEADLINE_S = 120.0
"""Of each question: a busy machine must not end an evaluation of an hour."""

_UNDEGRADED = (pb.Degradation.LEVEL_UNSPECIFIED, pb.Degradation.LEVEL_NONE)


class AnswerFailed(Exception):
    """Occurs when a server answers a question with an error; figures without it would be those of other questions."""


class Asker(Protocol):
    """Has questions answered."""

    async def ask(
        self, task: Task, rows: Sequence[int], strategy: Strategy, k: int, sheet: AnswerSheet, advance: Advance
    ) -> None:
        """Note the lists of k items for some questions on the sheet, with the time that it took."""
        ...


def query_for(task: Task, row: int, strategy: Strategy, k: int) -> RecommendQuery:
    """The request for one question."""
    table, questions = task.table, task.questions
    subject = table.subjects[questions.subjects[row]]
    session = [ItemId(table.item_ids[item]) for item in questions.sessions[row]]
    return RecommendQuery(
        user_id=None if subject.is_session else UserId(subject.id),
        session_id=SessionId(subject.id) if subject.is_session else None,
        session_item_ids=tuple(session[-_MOST_SESSION_ITEMS:]),
        exclude_item_ids=tuple(session[:-_MOST_SESSION_ITEMS][-_MOST_EXCLUDED:]),
        count=k,
        strategy=strategy,
    )


class InProcess:
    """Asks the recommender itself, which must have been built without a cache."""

    def __init__(self, recommender: Recommender, tenant_key: TenantKey) -> None:
        self._recommender = recommender
        self._tenant_key = tenant_key

    async def ask(
        self, task: Task, rows: Sequence[int], strategy: Strategy, k: int, sheet: AnswerSheet, advance: Advance
    ) -> None:
        """A few at once."""
        start = time.perf_counter()
        waiting = iter(rows)

        async def work() -> None:
            for row in waiting:
                found = await self._recommender.recommend(self._tenant_key, query_for(task, row, strategy, k))
                sheet.write(
                    row,
                    [item.item_id for item in found.items],
                    [item.score for item in found.items],
                    degraded=found.degradation.level is not DegradationLevel.NONE,
                )
                advance(1)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_CONCURRENCY, len(rows))):
                group.create_task(work())
        sheet.seconds += time.perf_counter() - start


class OverGrpc:
    """Asks a server by BulkRecommend."""

    def __init__(self, channel: grpc.aio.Channel, api_key: str) -> None:
        self._stub = RecommendationServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {api_key}"),)

    async def ask(
        self, task: Task, rows: Sequence[int], strategy: Strategy, k: int, sheet: AnswerSheet, advance: Advance
    ) -> None:
        """All in one stream. Raises AnswerFailed when the server refuses one."""
        start = time.perf_counter()

        async def requests() -> AsyncIterator[pb.BulkRecommendRequest]:
            for row in rows:
                yield pb.BulkRecommendRequest(key=str(row), request=_proto(query_for(task, row, strategy, k)))

        async for answer in self._stub.BulkRecommend(requests(), metadata=self._metadata, timeout=_STREAM_TIMEOUT_S):
            row, items = int(answer.key), answer.response.items
            if answer.status.code:
                subject = task.table.subjects[task.questions.subjects[row]]
                raise AnswerFailed(f"the server refused the question about {subject.id!r}: {answer.status.message}")
            sheet.write(
                row,
                [item.item_id for item in items],
                [item.score for item in items],
                degraded=answer.response.degradation.level not in _UNDEGRADED,
            )
            advance(1)
        sheet.seconds += time.perf_counter() - start


@asynccontextmanager
async def server_on(storage: Storage, settings: Settings, address: str | None, api_key: str) -> AsyncIterator[OverGrpc]:
    """A server on the database behind `storage`: that at the address, or one that is started here."""
    unlimited = [("grpc.max_receive_message_length", -1)]
    async with (
        _address(storage, settings, address) as place,
        grpc.aio.insecure_channel(place, unlimited) as channel,
    ):
        yield OverGrpc(channel, api_key)


@asynccontextmanager
async def _address(storage: Storage, settings: Settings, address: str | None) -> AsyncIterator[str]:
    if address is not None:
        yield address
        return
    # The servers that `storage` found or started; ports of its own, whatever else is running.
    own = settings.model_copy(
        update={
            "database_url": SecretStr(storage.urls.database_url),
            "redis_url": SecretStr(storage.urls.redis_url),
            # Nobody else is to reach it.
            "tls": TlsSettings(),
            # As in the process, so that the two can be compared.
            "engine": settings.engine.model_copy(update={"counters_life_s": 0.0}),
            "server": settings.server.model_copy(
                update={"host": "127.0.0.1", "port": 0, "metrics_port": 0, "default_deadline_s": _DEADLINE_S}
            ),
        }
    )
    async with running_service(own) as service:
        yield f"127.0.0.1:{service.port}"


async def item_keys(
    candidates: CandidateRepository, tenant_key: TenantKey, item_ids: Sequence[str]
) -> dict[ItemKey, str]:
    """The keys that a tenant's models know these items by."""
    found: dict[ItemKey, str] = {}
    for start in range(0, len(item_ids), _KEYS_AT_ONCE):
        given = tuple(ItemId(item_id) for item_id in item_ids[start : start + _KEYS_AT_ONCE])
        block = await candidates.find(tenant_key, None, CandidateQuestion(given=given), datetime.now(UTC))
        found.update(zip(block.item_keys, block.item_ids, strict=True))
    return found


def _proto(query: RecommendQuery) -> pb.RecommendRequest:
    return pb.RecommendRequest(
        user_id=query.user_id or "",
        session_id=query.session_id or "",
        session_item_ids=query.session_item_ids,
        count=query.count,
        strategy=pb.Strategy.Value(f"STRATEGY_{query.strategy.value}"),
        exclude_item_ids=query.exclude_item_ids,
        max_staleness=Duration(),
    )
