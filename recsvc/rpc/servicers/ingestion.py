"""IngestionService: OK means committed and flushed to disk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

from google.rpc import status_pb2

from recsvc.domain.errors import DomainError, FieldViolation, InvalidField
from recsvc.domain.events import Event, Recorded
from recsvc.domain.filters import EVENT_FIELDS, parse
from recsvc.domain.ids import TenantKey
from recsvc.domain.order_by import Order, parse_order_by
from recsvc.domain.paging import PageTokens
from recsvc.gen.v1 import ingestion_service_pb2 as pb
from recsvc.gen.v1.ingestion_service_pb2_grpc import IngestionServiceServicer
from recsvc.rpc import calls
from recsvc.rpc.calls import Context
from recsvc.rpc.convert import events as convert
from recsvc.rpc.convert.values import moment, timestamp
from recsvc.rpc.errors import OK, status_of, violations_status
from recsvc.rpc.listing import filtered_page, page_by_key
from recsvc.rpc.validation import RequestValidator
from recsvc.storage.event_types import EventTypeRepository
from recsvc.storage.events import EventRepository

_NEWEST_FIRST = (Order("event_time", descending=True),)


class IngestionServicer(IngestionServiceServicer):
    """Takes events in and reads them back."""

    def __init__(
        self,
        events: EventRepository,
        event_types: EventTypeRepository,
        tokens: PageTokens,
        validator: RequestValidator,
    ) -> None:
        self._events = events
        self._event_types = event_types
        self._tokens = tokens
        self._validator = validator

    async def RecordEvent(self, request: pb.RecordEventRequest, context: Context) -> pb.RecordEventResponse:
        event = convert.event(request.event, "event", datetime.now(UTC))
        (outcome,) = await self._events.write(calls.tenant(), [event])
        if isinstance(outcome, DomainError):
            raise outcome
        return pb.RecordEventResponse(event_id=outcome.event_id, duplicate=outcome.duplicate)

    async def BatchRecordEvents(
        self, request: pb.BatchRecordEventsRequest, context: Context
    ) -> pb.BatchRecordEventsResponse:
        results = await self._record(calls.tenant(), request.events, calls.current().element_violations)
        return pb.BatchRecordEventsResponse(results=results)

    async def StreamEvents(
        self, request_iterator: AsyncIterator[pb.StreamEventsRequest], context: Context
    ) -> AsyncIterator[pb.StreamEventsResponse]:
        # One message at a time: while it is being written nothing is read, so flow control holds the client back.
        tenant_key = calls.tenant()
        last = 0
        async for request in request_iterator:
            violations = self._validator.check(request)
            if request.sequence <= last:
                raise InvalidField("sequence", f"must be greater than {last}, the number of the message before")
            results = await self._record(tenant_key, request.events, violations)
            last = request.sequence
            yield pb.StreamEventsResponse(
                acked_through=last,
                rejections=[
                    pb.EventRejection(sequence=last, index=index, event_id=result.event_id, status=result.status)
                    for index, result in enumerate(results)
                    if result.status.code
                ],
                stored_count=sum(1 for result in results if not result.status.code and not result.duplicate),
                duplicate_count=sum(1 for result in results if result.duplicate),
            )

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
            lambda question: self._events.list(tenant_key, question),
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

    async def _record(
        self, tenant_key: TenantKey, messages: Sequence[pb.Event], violations: dict[int, list[FieldViolation]]
    ) -> list[pb.EventResult]:
        """One result per event, in order; a bad one never fails its neighbours."""
        now = datetime.now(UTC)
        statuses: dict[int, status_pb2.Status] = {
            index: violations_status(found) for index, found in violations.items()
        }
        good: list[tuple[int, Event]] = []
        for index, message in enumerate(messages):
            if index in statuses:
                continue
            try:
                good.append((index, convert.event(message, f"events[{index}]", now)))
            except DomainError as error:
                statuses[index] = status_of(error)
        outcomes = await self._events.write(tenant_key, [event for _, event in good]) if good else []
        results = [
            pb.EventResult(event_id=message.event_id, status=statuses.get(index))
            for index, message in enumerate(messages)
        ]
        for (index, event), outcome in zip(good, outcomes, strict=True):
            result = results[index]
            result.event_id = event.event_id
            if isinstance(outcome, Recorded):
                result.status.CopyFrom(OK)
                result.duplicate = outcome.duplicate
            else:
                result.status.CopyFrom(status_of(outcome))
        return results
