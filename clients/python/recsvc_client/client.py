"""The client: one channel, one key, the calls that most callers need; the raw stubs stand beside them."""

from __future__ import annotations

import uuid
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Any, Self, TypeAlias, TypeVar

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from recsvc_client import streaming, watching
from recsvc_client.consistency import Level, Session
from recsvc_client.errors import explained
from recsvc_client.gen.v1 import catalog_service_pb2, ingestion_service_pb2, recommendation_service_pb2
from recsvc_client.gen.v1.admin_service_pb2_grpc import AdminServiceStub
from recsvc_client.gen.v1.catalog_service_pb2_grpc import CatalogServiceStub
from recsvc_client.gen.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from recsvc_client.gen.v1.recommendation_service_pb2_grpc import RecommendationServiceStub
from recsvc_client.gen.v1.user_service_pb2_grpc import UserServiceStub
from recsvc_client.repeating import Repeating
from recsvc_client.service_config import SERVICE_CONFIG
from recsvc_client.tracing import trace_metadata

_Response = TypeVar("_Response")
_Element = TypeVar("_Element")
BulkElement: TypeAlias = str | tuple[str, Mapping[str, Any]]
"""A user id, or a key with the fields of RecommendRequest."""
EventElement: TypeAlias = Mapping[str, Any] | ingestion_service_pb2.Event
"""The fields of Event, or the message."""
_IMPORT_CHUNK = 1000


class Client:
    """An async context manager around one channel.

    >>> async with Client("localhost:50051", api_key="rk_…") as client:  # doctest: +SKIP
    ...     found = await client.recommend(user_id="42", fields=["title"])
    ...     for item in found.items:
    ...         print(item.rank, item.item.title)
    """

    def __init__(
        self,
        target: str,
        api_key: str = "",
        *,
        timeout_s: float = 5.0,
        tls: bool | grpc.ChannelCredentials = False,
        consistency: Level = "strong",
    ) -> None:
        """timeout_s: of every call that is not a stream, attempts and pauses included. tls: True for the authorities
        that gRPC brings along, or `grpc.ssl_channel_credentials(…)` with others or a certificate of the client's own,
        which may stand for a key. consistency: of reads of items and events: "strong" asks the primary, "session" a
        replica that has what this client wrote, "eventual" any replica.
        """
        self.session = Session(consistency)
        self._own_metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        self._timeout_s = timeout_s
        self._repeating = Repeating()
        options = [
            ("grpc.service_config", SERVICE_CONFIG),
            ("grpc.max_receive_message_length", -1),
            ("grpc.keepalive_time_ms", 30_000),
        ]
        if tls:
            credentials = grpc.ssl_channel_credentials() if tls is True else tls
            self._channel = grpc.aio.secure_channel(target, credentials, options)
        else:
            self._channel = grpc.aio.insecure_channel(target, options)
        self.catalog = CatalogServiceStub(self._channel)
        self.users = UserServiceStub(self._channel)
        self.ingestion = IngestionServiceStub(self._channel)
        self.recommendations = RecommendationServiceStub(self._channel)
        self.admin = AdminServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        """The channel connects by itself with the first call."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the channel."""
        await self._channel.close(None)

    async def recommend(
        self,
        *,
        user_id: str = "",
        session_id: str = "",
        session_item_ids: Sequence[str] = (),
        count: int = 10,
        filter: str = "",  # noqa: A002  (the contract's own name)
        fields: Sequence[str] = (),
        **options: Any,
    ) -> recommendation_service_pb2.RecommendResponse:
        """What this user or session should see next. fields: of the items; options: any other of RecommendRequest."""
        request = _recommend_request(
            fields,
            user_id=user_id,
            session_id=session_id,
            session_item_ids=session_item_ids,
            count=count,
            filter=filter,
            **options,
        )
        return await self._call(self.recommendations.Recommend, request)

    async def bulk_recommend(
        self,
        elements: Iterable[BulkElement] | AsyncIterable[BulkElement],
        *,
        count: int = 10,
        fields: Sequence[str] = (),
        **options: Any,
    ) -> AsyncIterator[recommendation_service_pb2.BulkRecommendResponse]:
        """Lists for any number of users, in any order, as fast as both sides can.

        elements: user ids, which are then the keys of the answers; or pairs of a key of your own and the fields of its
        RecommendRequest, which win over count, fields and options. `answer.status.code` is 0, or tells why this one
        failed while the others go on. Elements are taken as the service has room for them.
        """
        shared: dict[str, Any] = {"count": count, **options}
        if fields:
            shared["item_mask"] = FieldMask(paths=fields)

        async def requests() -> AsyncIterator[recommendation_service_pb2.BulkRecommendRequest]:
            async for element in _each(elements):
                key, own = (element, {"user_id": element}) if isinstance(element, str) else element
                request = recommendation_service_pb2.RecommendRequest(**(shared | dict(own)))
                yield recommendation_service_pb2.BulkRecommendRequest(key=key, request=request)

        with explained():
            async for answer in self.recommendations.BulkRecommend(requests(), metadata=self._metadata()):
                yield answer

    def watch(
        self,
        *,
        user_id: str = "",
        session_id: str = "",
        count: int = 10,
        filter: str = "",  # noqa: A002  (the contract's own name)
        fields: Sequence[str] = (),
        min_interval_s: float = 0.1,
        give_up_after_s: float = 300.0,
        **options: Any,
    ) -> AsyncGenerator[recommendation_service_pb2.RecommendResponse]:
        """The present list of a user or session, then each one that differs from the one before, without end.

        A broken connection, or a server that stops, is no end: the watch goes on at the next server that answers, and
        the list comes again only if it has changed meanwhile. Raises RecsvcError for what trying again does not help,
        and when nothing was reached for give_up_after_s. min_interval_s: least time between two lists. The stream at
        the service ends with the generator: leave it by `contextlib.aclosing` to end both at once.
        """
        request = recommendation_service_pb2.WatchRecommendationsRequest(
            request=_recommend_request(
                fields, user_id=user_id, session_id=session_id, count=count, filter=filter, **options
            ),
        )
        request.min_interval.FromTimedelta(timedelta(seconds=min_interval_s))

        def open_stream(token: str) -> Any:
            request.resume_token = token
            return self.recommendations.WatchRecommendations(request, metadata=self._metadata())

        return watching.lists(open_stream, give_up_after_s=give_up_after_s)

    async def similar_users(
        self,
        user_id: str,
        *,
        count: int = 10,
        filter: str = "",  # noqa: A002  (the contract's own name)
    ) -> recommendation_service_pb2.SimilarUsersResponse:
        """Users of like taste."""
        request = recommendation_service_pb2.SimilarUsersRequest(user_id=user_id, count=count, filter=filter)
        return await self._call(self.recommendations.SimilarUsers, request)

    async def explain(self, user_id: str, item_id: str) -> recommendation_service_pb2.ExplainRecommendationResponse:
        """An item's score for a user, in parts that add up to it."""
        request = recommendation_service_pb2.ExplainRecommendationRequest(user_id=user_id, item_id=item_id)
        return await self._call(self.recommendations.ExplainRecommendation, request)

    async def similar_items(
        self, item_id: str, *, count: int = 10, fields: Sequence[str] = (), **options: Any
    ) -> recommendation_service_pb2.SimilarItemsResponse:
        """Items like a given one."""
        request = recommendation_service_pb2.SimilarItemsRequest(
            item_id=item_id, count=count, item_mask=FieldMask(paths=fields) if fields else None, **options
        )
        return await self._call(self.recommendations.SimilarItems, request)

    async def record_event(
        self,
        event_type: str,
        item_id: str,
        *,
        user_id: str = "",
        session_id: str = "",
        value: float | None = None,
        event_id: str = "",
        event_time: datetime | None = None,
        recommendation_id: str = "",
    ) -> ingestion_service_pb2.RecordEventResponse:
        """Store one event; when this returns, it is on disk. Without an id it gets one, so that it may be retried."""
        event = ingestion_service_pb2.Event(
            event_id=event_id or uuid.uuid4().hex,
            event_type=event_type,
            item_id=item_id,
            user_id=user_id,
            session_id=session_id,
            value=value,
            recommendation_id=recommendation_id,
        )
        if event_time is not None:
            event.event_time.FromDatetime(event_time)
        return await self._write(self.ingestion.RecordEvent, ingestion_service_pb2.RecordEventRequest(event=event))

    async def stream_events(
        self,
        events: Iterable[EventElement] | AsyncIterable[EventElement],
        *,
        give_up_after_s: float = 300.0,
    ) -> AsyncGenerator[ingestion_service_pb2.StreamEventsResponse]:
        """Store any number of events; yields what the service says of them as they reach the disk.

        events: with the fields of Event, whose time may be a datetime, or messages; those without an id get one. They
        are taken as the service has room for them, and sent at once: from a source that never ends, too. Each answer
        counts the events that were stored, and names those that were refused and why, while the others go on. A broken
        connection, or a server that stops, is no end: what was not acknowledged is sent again to the next server that
        answers, and stored once all the same (what the first had stored then counts as duplicate). Raises RecsvcError
        for what trying again does not help, and when nothing was acknowledged for give_up_after_s.
        """
        begun = self.session.begin()
        calls: list[streaming.Stream] = []

        def open_stream() -> streaming.Stream:
            calls[:] = [self.ingestion.StreamEvents(None, metadata=self._metadata() + self.session.of_writes)]
            return calls[0]

        outbox = streaming.Outbox(_event(element) async for element in _each(events))
        async with aclosing(
            streaming.acknowledgements(open_stream, outbox, give_up_after_s=give_up_after_s)
        ) as answers:
            async for answer in answers:
                yield answer
        self.session.end(begun, await calls[0].trailing_metadata())

    async def get_item(self, item_id: str) -> catalog_service_pb2.Item:
        """An item with all its fields."""
        request = catalog_service_pb2.GetItemRequest(item_id=item_id)
        return (await self._call(self.catalog.GetItem, request, self.session.of_reads)).item

    async def list_items(
        self,
        filter: str = "",  # noqa: A002  (the contract's own name)
        order_by: str = "",
    ) -> AsyncIterator[catalog_service_pb2.Item]:
        """All items that match, page by page."""
        request = catalog_service_pb2.ListItemsRequest(filter=filter, order_by=order_by)
        async for page in self._pages(self.catalog.ListItems, request):
            for item in page.items:
                yield item

    async def list_events(
        self,
        filter: str = "",  # noqa: A002  (the contract's own name)
        order_by: str = "",
    ) -> AsyncIterator[ingestion_service_pb2.Event]:
        """All events that match, newest first unless order_by says otherwise, page by page."""
        request = ingestion_service_pb2.ListEventsRequest(filter=filter, order_by=order_by)
        async for page in self._pages(self.ingestion.ListEvents, request):
            for event in page.events:
                yield event

    async def upsert_items(self, items: Iterable[Mapping[str, Any]]) -> catalog_service_pb2.BatchUpsertItemsResponse:
        """Create or replace up to 1000 items, each a mapping with the fields of Item."""
        request = catalog_service_pb2.BatchUpsertItemsRequest(items=map(_item, items))
        return await self._write(self.catalog.BatchUpsertItems, request)

    async def import_items(
        self, items: Iterable[Mapping[str, Any]]
    ) -> AsyncIterator[catalog_service_pb2.ImportItemsResponse]:
        """Create or replace any number of items; yields what became of each thousand once it is committed."""

        async def chunks() -> AsyncIterator[catalog_service_pb2.ImportItemsRequest]:
            chunk: list[catalog_service_pb2.Item] = []
            for item in items:
                chunk.append(_item(item))
                if len(chunk) == _IMPORT_CHUNK:
                    yield catalog_service_pb2.ImportItemsRequest(items=chunk)
                    chunk = []
            if chunk:
                yield catalog_service_pb2.ImportItemsRequest(items=chunk)

        begun = self.session.begin()
        with explained():
            call = self.catalog.ImportItems(chunks(), metadata=self._metadata() + self.session.of_writes)
            async for answer in call:
                yield answer
            self.session.end(begun, await call.trailing_metadata())

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return self._own_metadata + trace_metadata()

    async def _call(
        self,
        method: Callable[..., Awaitable[_Response]],
        request: Message,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> _Response:
        """Only for calls that may be repeated."""
        return await self._repeating.answer(
            lambda timeout_s: method(request, metadata=self._metadata() + metadata, timeout=timeout_s), self._timeout_s
        )

    async def _write(self, method: Callable[..., Awaitable[_Response]], request: Message) -> _Response:
        """A write that may be repeated, and that reads of the session must see."""
        begun = self.session.begin()

        async def attempt(timeout_s: float) -> _Response:
            call: Any = method(request, metadata=self._metadata() + self.session.of_writes, timeout=timeout_s)
            answer: _Response = await call
            self.session.end(begun, await call.trailing_metadata())
            return answer

        return await self._repeating.answer(attempt, self._timeout_s)

    async def _pages(self, method: Callable[..., Awaitable[Any]], request: Any) -> AsyncIterator[Any]:
        while True:
            page = await self._call(method, request, self.session.of_reads)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token


def _recommend_request(fields: Sequence[str], **named: Any) -> recommendation_service_pb2.RecommendRequest:
    return recommendation_service_pb2.RecommendRequest(item_mask=FieldMask(paths=fields) if fields else None, **named)


async def _each(
    elements: Iterable[_Element] | AsyncIterable[_Element],
) -> AsyncIterator[_Element]:
    if isinstance(elements, AsyncIterable):
        async for element in elements:
            yield element
    else:
        for element in elements:
            yield element


def _item(fields: Mapping[str, Any]) -> catalog_service_pb2.Item:
    return ParseDict(_plain(fields), catalog_service_pb2.Item())


def _event(element: EventElement) -> ingestion_service_pb2.Event:
    event = ingestion_service_pb2.Event()
    if isinstance(element, ingestion_service_pb2.Event):
        event.CopyFrom(element)
    else:
        ParseDict(_plain(element), event)
    event.event_id = event.event_id or uuid.uuid4().hex
    return event


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in fields.items()}
