"""CatalogService: items one by one, in batches and as streams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

from google.rpc import status_pb2

from recsvc.domain.catalog import Item
from recsvc.domain.errors import DomainError, DuplicateInBatch, FieldViolation, ItemNotFound, StaleEtag
from recsvc.domain.filters import parse
from recsvc.domain.ids import ItemId, TenantKey
from recsvc.domain.order_by import Order, parse_order_by
from recsvc.domain.paging import PageTokens
from recsvc.engine.profiles import TenantProfiles
from recsvc.gen.v1 import catalog_service_pb2 as pb
from recsvc.gen.v1.catalog_service_pb2_grpc import CatalogServiceServicer
from recsvc.rpc import calls
from recsvc.rpc.calls import Context
from recsvc.rpc.convert import items as convert
from recsvc.rpc.convert.recommendations import item_filter_schema
from recsvc.rpc.convert.values import moment, span, timestamp
from recsvc.rpc.errors import OK, status_of, violations_status
from recsvc.rpc.listing import filtered_page
from recsvc.rpc.validation import RequestValidator
from recsvc.storage.items import ItemRepository, WriteOutcome, Written, order_values
from recsvc.storage.tenants import TenantRepository

_ORDERS = ("item_id", "title", "create_time", "update_time", "publish_time")
_BY_ID = (Order("item_id"),)
_WINDOW_S = 86_400.0
_PRESENCE_S = 300.0


class CatalogServicer(CatalogServiceServicer):
    """Stores and finds items."""

    def __init__(
        self,
        items: ItemRepository,
        tenants: TenantRepository,
        profiles: TenantProfiles,
        tokens: PageTokens,
        validator: RequestValidator,
    ) -> None:
        self._items = items
        self._tenants = tenants
        self._profiles = profiles
        self._tokens = tokens
        self._validator = validator

    async def CreateItem(self, request: pb.CreateItemRequest, context: Context) -> pb.CreateItemResponse:
        stored = await self._items.create(calls.tenant(), convert.item(request.item, "item"))
        return pb.CreateItemResponse(item=convert.item_proto(stored))

    async def GetItem(self, request: pb.GetItemRequest, context: Context) -> pb.GetItemResponse:
        found = await self._items.get(calls.tenant(), ItemId(request.item_id), calls.consistency())
        return pb.GetItemResponse(item=convert.item_proto(found))

    async def UpdateItem(self, request: pb.UpdateItemRequest, context: Context) -> pb.UpdateItemResponse:
        def change(present: Item | None) -> Item:
            changed = convert.item_change(request, present)
            # Attributes that are set one by one must keep to the limits together.
            self._validator.check(pb.UpdateItemRequest(item=convert.item_proto(changed)))
            return changed

        stored = await self._items.change(calls.tenant(), ItemId(request.item.item_id), change)
        return pb.UpdateItemResponse(item=convert.item_proto(stored))

    async def DeleteItem(self, request: pb.DeleteItemRequest, context: Context) -> pb.DeleteItemResponse:
        item_id = ItemId(request.item_id)
        tenant_key = calls.tenant()
        if not await self._items.delete(tenant_key, [item_id], request.etag):
            await self._explain_undeleted(tenant_key, item_id, request)
        return pb.DeleteItemResponse()

    async def ListItems(self, request: pb.ListItemsRequest, context: Context) -> pb.ListItemsResponse:
        tenant_key = calls.tenant()
        tree = parse(request.filter, item_filter_schema(await self._profiles.get_current(tenant_key)))
        orders = parse_order_by(request.order_by, _ORDERS, _BY_ID, unique="item_id")
        page, next_page_token = await filtered_page(
            self._tokens,
            f"{tenant_key}/items",
            request,
            tree,
            orders,
            lambda question: self._items.list(tenant_key, question, calls.consistency()),
            lambda item: order_values(item, orders),
        )
        return pb.ListItemsResponse(items=[convert.item_proto(item) for item in page], next_page_token=next_page_token)

    async def BatchGetItems(self, request: pb.BatchGetItemsRequest, context: Context) -> pb.BatchGetItemsResponse:
        statuses = _violations(calls.current().element_violations)
        wanted = [ItemId(item_id) for index, item_id in enumerate(request.item_ids) if index not in statuses]
        found = await self._items.get_many(calls.tenant(), wanted, calls.consistency()) if wanted else {}
        results = []
        for index, item_id in enumerate(request.item_ids):
            item = found.get(ItemId(item_id))
            status = statuses.get(index) or (OK if item else status_of(ItemNotFound(item_id, f"item_ids[{index}]")))
            results.append(
                pb.ItemResult(item_id=item_id, status=status, item=convert.item_proto(item) if item else None)
            )
        return pb.BatchGetItemsResponse(results=results)

    async def BatchUpsertItems(
        self, request: pb.BatchUpsertItemsRequest, context: Context
    ) -> pb.BatchUpsertItemsResponse:
        results = await self._upsert(calls.tenant(), request.items, calls.current().element_violations)
        return pb.BatchUpsertItemsResponse(results=results)

    async def BatchDeleteItems(
        self, request: pb.BatchDeleteItemsRequest, context: Context
    ) -> pb.BatchDeleteItemsResponse:
        statuses = _violations(calls.current().element_violations)
        seen: set[str] = set()
        for index, item_id in enumerate(request.item_ids):
            if index not in statuses and item_id in seen:
                statuses[index] = status_of(DuplicateInBatch(f"item_ids[{index}]", f"{item_id!r} stands twice"))
            seen.add(item_id)
        wanted = [ItemId(item_id) for index, item_id in enumerate(request.item_ids) if index not in statuses]
        deleted = await self._items.delete(calls.tenant(), wanted) if wanted else frozenset()
        return pb.BatchDeleteItemsResponse(
            results=[
                pb.ItemResult(
                    item_id=item_id,
                    status=statuses.get(index)
                    or (OK if item_id in deleted else status_of(ItemNotFound(item_id, f"item_ids[{index}]"))),
                )
                for index, item_id in enumerate(request.item_ids)
            ]
        )

    async def ImportItems(
        self, request_iterator: AsyncIterator[pb.ImportItemsRequest], context: Context
    ) -> AsyncIterator[pb.ImportItemsResponse]:
        # One chunk at a time: while it is being written nothing is read, so flow control holds the client back.
        tenant_key = calls.tenant()
        chunk = 0
        async for request in request_iterator:
            results = await self._upsert(tenant_key, request.items, self._validator.check(request))
            yield pb.ImportItemsResponse(
                chunk=chunk,
                created_count=sum(1 for result in results if not result.status.code and result.created),
                updated_count=sum(1 for result in results if not result.status.code and not result.created),
                failed_count=sum(1 for result in results if result.status.code),
                failures=[
                    pb.ImportFailure(index=index, item_id=result.item_id, status=result.status)
                    for index, result in enumerate(results)
                    if result.status.code
                ],
            )
            chunk += 1

    async def ExportItems(
        self, request: pb.ExportItemsRequest, context: Context
    ) -> AsyncIterator[pb.ExportItemsResponse]:
        tenant_key = calls.tenant()
        tree = parse(request.filter, item_filter_schema(await self._profiles.get_current(tenant_key)))
        since = moment(request.modified_after, "modified_after") if request.HasField("modified_after") else None
        async for part in self._items.export(tenant_key, tree, since, datetime.now(UTC)):
            yield pb.ExportItemsResponse(
                items=[convert.item_proto(item) for item in part.items],
                deleted_item_ids=part.deleted_item_ids,
                snapshot_time=timestamp(part.snapshot_time),
            )

    async def GetItemActivity(self, request: pb.GetItemActivityRequest, context: Context) -> pb.GetItemActivityResponse:
        item_ids = list(dict.fromkeys(ItemId(item_id) for item_id in request.item_ids))
        found = await self._items.activity(
            calls.tenant(),
            item_ids,
            span(request.window).total_seconds() if request.HasField("window") else _WINDOW_S,
            span(request.presence).total_seconds() if request.HasField("presence") else _PRESENCE_S,
            calls.consistency(),
        )
        return pb.GetItemActivityResponse(
            activities=[convert.activity_proto(found[item_id]) for item_id in item_ids if item_id in found]
        )

    async def GetAttributeSchema(
        self, request: pb.GetAttributeSchemaRequest, context: Context
    ) -> pb.GetAttributeSchemaResponse:
        rules = await self._tenants.attribute_schema(calls.tenant())
        return pb.GetAttributeSchemaResponse(schema=convert.attribute_schema_proto(rules))

    async def UpdateAttributeSchema(
        self, request: pb.UpdateAttributeSchemaRequest, context: Context
    ) -> pb.UpdateAttributeSchemaResponse:
        rules = await self._tenants.replace_attribute_schema(calls.tenant(), convert.attribute_rules(request.schema))
        return pb.UpdateAttributeSchemaResponse(schema=convert.attribute_schema_proto(rules))

    async def _explain_undeleted(self, tenant_key: TenantKey, item_id: ItemId, request: pb.DeleteItemRequest) -> None:
        """Nothing was deleted: the etag is stale, or there is no such item."""
        if request.etag and item_id in await self._items.get_many(tenant_key, [item_id]):
            raise StaleEtag(item_id)
        if not request.allow_missing:
            raise ItemNotFound(item_id)

    async def _upsert(
        self, tenant_key: TenantKey, messages: Sequence[pb.Item], violations: dict[int, list[FieldViolation]]
    ) -> list[pb.ItemResult]:
        """One result per item, in order; a bad one never fails its neighbours."""
        statuses = _violations(violations)
        good: list[tuple[int, Item]] = []
        for index, message in enumerate(messages):
            if index in statuses:
                continue
            try:
                good.append((index, convert.item(message, f"items[{index}]")))
            except DomainError as error:
                statuses[index] = status_of(error)
        outcomes: Sequence[WriteOutcome] = ()
        if good:
            outcomes = await self._items.upsert_many(
                tenant_key, [item for _, item in good], lambda position: f"items[{good[position][0]}]"
            )
        results = [
            pb.ItemResult(item_id=message.item_id, status=statuses.get(index)) for index, message in enumerate(messages)
        ]
        for (index, _), outcome in zip(good, outcomes, strict=True):
            result = results[index]
            if isinstance(outcome, Written):
                result.status.CopyFrom(OK)
                result.etag = outcome.item.etag
                result.created = outcome.created
            else:
                result.status.CopyFrom(status_of(outcome))
        return results


def _violations(violations: dict[int, list[FieldViolation]]) -> dict[int, status_pb2.Status]:
    return {index: violations_status(found) for index, found in violations.items()}
