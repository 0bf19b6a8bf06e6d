"""UserService: profiles, and the right to see, move and erase what is held."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

from recsvc.domain.errors import InvalidField, UserNotFound
from recsvc.domain.filters import USER_FIELDS, parse
from recsvc.domain.ids import UserId
from recsvc.domain.order_by import parse_order_by
from recsvc.domain.paging import PageTokens
from recsvc.domain.users import User, UserKind
from recsvc.gen.v1 import user_service_pb2 as pb
from recsvc.gen.v1.user_service_pb2_grpc import UserServiceServicer
from recsvc.rpc import calls
from recsvc.rpc.calls import Context
from recsvc.rpc.convert import users as convert
from recsvc.rpc.listing import filtered_page
from recsvc.rpc.validation import RequestValidator
from recsvc.storage.users import BY_ID, UserRepository

_ORDERS = ("user_id", "create_time", "update_time")


class UserServicer(UserServiceServicer):
    """Stores, exports, merges and erases users."""

    def __init__(self, users: UserRepository, tokens: PageTokens, validator: RequestValidator) -> None:
        self._users = users
        self._tokens = tokens
        self._validator = validator

    async def GetUser(self, request: pb.GetUserRequest, context: Context) -> pb.GetUserResponse:
        found = await self._users.get(calls.tenant(), UserId(request.user_id), calls.consistency())
        return pb.GetUserResponse(user=convert.user_proto(found))

    async def UpdateUser(self, request: pb.UpdateUserRequest, context: Context) -> pb.UpdateUserResponse:
        def change(present: User) -> User:
            changed = convert.user_change(request, present)
            # Attributes that are set one by one must keep to the limits together.
            self._validator.check(pb.UpdateUserRequest(user=convert.user_proto(changed)))
            return changed

        stored = await self._users.change(
            calls.tenant(), UserId(request.user.user_id), change, allow_missing=request.allow_missing
        )
        return pb.UpdateUserResponse(user=convert.user_proto(stored))

    async def DeleteUser(self, request: pb.DeleteUserRequest, context: Context) -> pb.DeleteUserResponse:
        erased = await self._users.erase(calls.tenant(), UserId(request.user_id))
        if not erased.users and not request.allow_missing:
            raise UserNotFound(request.user_id)
        return pb.DeleteUserResponse(
            event_count=erased.events,
            shown_count=erased.shown,
            state_count=erased.states,
            profile_count=erased.users,
        )

    async def ListUsers(self, request: pb.ListUsersRequest, context: Context) -> pb.ListUsersResponse:
        tenant_key = calls.tenant()
        tree = parse(request.filter, USER_FIELDS)
        orders = parse_order_by(request.order_by, _ORDERS, BY_ID, unique="user_id")
        page, next_page_token = await filtered_page(
            self._tokens,
            f"{tenant_key}/users",
            request,
            tree,
            orders,
            lambda question: self._users.list(tenant_key, question, calls.consistency()),
            lambda user: [getattr(user, order.field) for order in orders],
        )
        return pb.ListUsersResponse(users=[convert.user_proto(user) for user in page], next_page_token=next_page_token)

    async def ExportUser(self, request: pb.ExportUserRequest, context: Context) -> AsyncIterator[pb.ExportUserResponse]:
        async for part in self._users.export(calls.tenant(), UserId(request.user_id), datetime.now(UTC)):
            yield convert.export_proto(part)

    async def MergeUsers(self, request: pb.MergeUsersRequest, context: Context) -> pb.MergeUsersResponse:
        if request.source_user_id and request.source_user_id == request.user_id:
            raise InvalidField("source_user_id", "must be another user than user_id")
        by_session = request.WhichOneof("source") == "source_session_id"
        merged = await self._users.merge(
            calls.tenant(),
            UserKind.SESSION if by_session else UserKind.USER,
            request.source_session_id if by_session else request.source_user_id,
            UserId(request.user_id),
        )
        return pb.MergeUsersResponse(user=convert.user_proto(merged.user), moved_event_count=merged.moved_events)
