"""IngestionService: OK means committed and flushed to disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from google.rpc import status_pb2

from recsvc.domain.errors import DomainError, FieldViolation, InvalidField, ServerDraining, StreamIdle
from recsvc.domain.events import Event, Recorded
from recsvc.domain.filters import EVENT_FIELDS, parse
from recsvc.domain.ids import TenantKey
from recsvc.domain.order_by import Order, parse_order_by
from recsvc.domain.paging import PageTokens
from recsvc.engine.event_writer import EventWriter
from recsvc.engine.profiles import TenantProfiles
from recsvc.gen.v1 import ingestion_service_pb2 as pb
from recsvc.gen.v1.ingestion_service_pb2_grpc import IngestionServiceServicer
from recsvc.rpc import calls
from recsvc.rpc.calls import Context
from recsvc.rpc.columns import Columns
from recsvc.rpc.convert import events as convert
from recsvc.rpc.convert.values import moment, timestamp
from recsvc.rpc.errors import OK, status_of, violations_status
from recsvc.rpc.in_flight import answered_in_order
from recsvc.rpc.listing import filtered_page, page_by_key
from recsvc.rpc.validation import RequestValidator
from recsvc.settings import ServerSettings
from recsvc.storage.event_types import EventTypeRepository
from recsvc.storage.events import EventRepository

_NEWEST_FIRST = (Order("event_time", descending=True),)


@dataclass(frozen=True, slots=True)
class _Refused:
    """Why an event was not stored."""

    event_id: str
    status: status_pb2.Status


class IngestionServicer(IngestionServiceServicer):
    """Takes events in and reads them back."""

    def __init__(
        self,
        writer: EventWriter,
        events: EventRepository,
        event_types: EventTypeRepository,
        profiles: TenantProfiles,
        tokens: PageTokens,
        validator: RequestValidator,
        draining: asyncio.Event,
        settings: ServerSettings,
    ) -> None:
        """draining: set once streams must go elsewhere."""
        self._writer = writer
        self._events = events
        self._event_types = event_types
        self._profiles = profiles
        self._tokens = tokens
        self._validator = validator
        self._draining = draining
        self._settings = settings

    async def RecordEvent(self, request: pb.RecordEventRequest, context: Context) -> pb.RecordEventResponse:
        tenant_key = calls.tenant()
        event = convert.event(request.event, "event", datetime.now(UTC), await self._retention(tenant_key))
        (outcome,) = await self._writer.write(tenant_key, [event])
        if isinstance(outcome, DomainError):
            raise outcome
        return pb.RecordEventResponse(event_id=outcome.event_id, duplicate=outcome.duplicate)

    async def BatchRecordEvents(
        self, request: pb.BatchRecordEventsRequest, context: Context
    ) -> pb.BatchRecordEventsResponse:
        events = Columns(request.events)
        outcomes = await self._record(calls.tenant(), events, calls.current().element_violations)
        return pb.BatchRecordEventsResponse(
            results=[
                pb.EventResult(event_id=outcome.event_id, status=outcome.status)
                if isinstance(outcome, _Refused)
                else pb.EventResult(event_id=outcome.event_id, status=OK, duplicate=outcome.duplicate)
                for outcome in outcomes
            ]
        )

    async def StreamEvents(
        self, request_iterator: AsyncIterator[pb.StreamEventsRequest], context: Context
    ) -> AsyncIterator[pb.StreamEventsResponse]:
        # A few messages are under way at a time; beyond them nothing is read, so flow control holds the client back.
        tenant_key = calls.tenant()

        async def written(request: pb.StreamEventsRequest) -> tuple[int, list[Recorded | _Refused]]:
            events = Columns(request.events)
            violations = self._validator.check(request, {"events": events})
            return request.sequence, await self._record(tenant_key, events, violations, patiently=True)

        try:
            async for messages in answered_in_order(
                _numbered(request_iterator),
                written,
                self._settings.stream_messages_in_flight,
                idle_s=self._settings.stream_idle_s,
                stop=self._draining,
            ):
                yield _acknowledgement(messages)
        except TimeoutError as error:
            raise StreamIdle(self._settings.stream_idle_s) from error
        if self._draining.is_set():
            raise ServerDraining

    async def ListEvents(self, request: pb.ListEventsRequest, context: Context) -> pb.ListEventsResponse:
        tenant_key = calls.tenant()
        tree = parse(request.filter, EVENT_FIELDS)
        orders = parse_order_by(request.order_by, ("event_time",), _NEWEST_FIRST, unique="event_id")
        page, next_page_token = await filtered_page(
            self._tokens,
            f"{tenant_key}/events",
            request,
            tree,
            orders,
            lambda question: self._events.list(tenant_key, question, calls.consistency()),
            lambda stored: [stored.event.event_time, stored.event.event_id],
        )
        return pb.ListEventsResponse(
            events=[convert.event_proto(stored) for stored in page], next_page_token=next_page_token
        )

    async def ExportEvents(
        self, request: pb.ExportEventsRequest, context: Context
    ) -> AsyncIterator[pb.ExportEventsResponse]:
        tree = parse(request.filter, EVENT_FIELDS)
        since = moment(request.modified_after, "modified_after") if request.HasField("modified_after") else None
        async for snapshot_time, chunk in self._events.export(calls.tenant(), tree, since, datetime.now(UTC)):
            yield pb.ExportEventsResponse(
                events=[convert.event_proto(stored) for stored in chunk], snapshot_time=timestamp(snapshot_time)
            )

    async def ListEventTypes(self, request: pb.ListEventTypesRequest, context: Context) -> pb.ListEventTypesResponse:
        tenant_key = calls.tenant()
        page, next_page_token = await page_by_key(
            self._tokens,
            f"{tenant_key}/event_types",
            request,
            lambda after, limit: self._event_types.list(tenant_key, str(after or ""), limit),
            lambda kind: kind.event_type,
        )
        return pb.ListEventTypesResponse(
            event_types=[convert.event_type_proto(kind) for kind in page], next_page_token=next_page_token
        )

    async def UpdateEventType(self, request: pb.UpdateEventTypeRequest, context: Context) -> pb.UpdateEventTypeResponse:
        stored = await self._event_types.update(
            calls.tenant(),
            request.event_type.event_type,
            lambda present: convert.event_type_change(request, present),
            allow_missing=request.allow_missing,
        )
        return pb.UpdateEventTypeResponse(event_type=convert.event_type_proto(stored))

    async def DeleteEventType(self, request: pb.DeleteEventTypeRequest, context: Context) -> pb.DeleteEventTypeResponse:
        await self._event_types.delete(calls.tenant(), request.event_type)
        return pb.DeleteEventTypeResponse()

    async def _retention(self, tenant_key: TenantKey) -> timedelta | None:
        """How long the tenant keeps events; None for ever."""
        return convert.event_retention((await self._profiles.get(tenant_key)).settings)

    async def _record(
        self,
        tenant_key: TenantKey,
        events: Columns[pb.Event],
        violations: dict[int, list[FieldViolation]],
        *,
        patiently: bool = False,
    ) -> list[Recorded | _Refused]:
        """One outcome per event, in order; a bad one never fails its neighbours."""
        now = datetime.now(UTC)
        retention = await self._retention(tenant_key)
        refused = {
            index: _Refused(events.messages[index].event_id, violations_status(found))
            for index, found in violations.items()
        }
        good = _converted(events, now, retention, refused)
        outcomes = await self._writer.write(tenant_key, good, patiently=patiently)
        written: list[Recorded | _Refused] = [
            _Refused(event.event_id, status_of(outcome)) if isinstance(outcome, DomainError) else outcome
            for event, outcome in zip(good, outcomes, strict=True)
        ]
        for index in sorted(refused):
            written.insert(index, refused[index])
        return written


def _converted(
    events: Columns[pb.Event], now: datetime, retention: timedelta | None, refused: dict[int, _Refused]
) -> list[Event]:
    """The events that are not refused; those that turn out to be wrong are put to the refused ones."""
    if not refused:
        # Which of them is wrong is found below.
        with suppress(DomainError):
            return convert.events(events, now, retention)
    good: list[Event] = []
    for index, message in enumerate(events.messages):
        if index in refused:
            continue
        try:
            good.append(convert.event(message, f"events[{index}]", now, retention))
        except DomainError as error:
            refused[index] = _Refused(message.event_id, status_of(error))
    return good


async def _numbered(messages: AsyncIterator[pb.StreamEventsRequest]) -> AsyncIterator[pb.StreamEventsRequest]:
    """The messages, each of which must have a higher number than the one before."""
    last = 0
    async for message in messages:
        if message.sequence <= last:
            raise InvalidField("sequence", f"must be greater than {last}, the number of the message before")
        last = message.sequence
        yield message


def _acknowledgement(messages: Sequence[tuple[int, Sequence[Recorded | _Refused]]]) -> pb.StreamEventsResponse:
    """One answer for messages in a row, each with its number and what became of its events."""
    rejections = [
        pb.EventRejection(sequence=sequence, index=index, event_id=outcome.event_id, status=outcome.status)
        for sequence, outcomes in messages
        for index, outcome in enumerate(outcomes)
        if isinstance(outcome, _Refused)
    ]
    duplicates = sum(
        isinstance(outcome, Recorded) and outcome.duplicate for _, outcomes in messages for outcome in outcomes
    )
    return pb.StreamEventsResponse(
        acked_through=messages[-1][0],
        rejections=rejections,
        stored_count=sum(len(outcomes) for _, outcomes in messages) - len(rejections) - duplicates,
        duplicate_count=duplicates,
    )
