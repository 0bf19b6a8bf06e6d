"""AdminService: tenants, keys and service information; training and models stand in servicers.training."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib.metadata import version

from recsvc.domain.errors import ApiKeyNotFound, InvalidField, NotImplementedYet, ScopeMissing
from recsvc.domain.ids import TenantId
from recsvc.domain.paging import MAX_PAGE_SIZE, PageTokens
from recsvc.domain.tenancy import KEY_ROTATION_OVERLAP, Scope
from recsvc.gen.v1 import admin_service_pb2 as pb
from recsvc.rpc import calls
from recsvc.rpc.authentication import Authenticator
from recsvc.rpc.calls import Context
from recsvc.rpc.convert import admin as convert
from recsvc.rpc.convert.values import moment, span
from recsvc.rpc.key_hasher import KeyHasher
from recsvc.rpc.listing import page_by_key
from recsvc.rpc.servicers.training import TrainingMethods
from recsvc.settings import ServerSettings
from recsvc.storage.api_keys import ApiKeyRepository
from recsvc.storage.tenants import TenantRepository
from recsvc.training.runner import TrainingRunner

_LARGEST_BATCH = 1000


class AdminServicer(TrainingMethods):
    """Administration of the service and of the caller's tenant."""

    def __init__(
        self,
        tenants: TenantRepository,
        keys: ApiKeyRepository,
        hasher: KeyHasher,
        authenticator: Authenticator,
        tokens: PageTokens,
        runner: TrainingRunner,
        settings: ServerSettings,
    ) -> None:
        super().__init__(runner, tokens)
        self._tenants = tenants
        self._keys = keys
        self._hasher = hasher
        self._authenticator = authenticator
        self._tokens = tokens
        self._settings = settings

    async def CreateTenant(self, request: pb.CreateTenantRequest, context: Context) -> pb.CreateTenantResponse:
        message = request.tenant
        created = await self._tenants.create(
            TenantId(message.tenant_id),
            message.display_name,
            convert.settings(message.settings),
            audit=calls.audit(message.tenant_id),
        )
        return pb.CreateTenantResponse(tenant=convert.tenant_proto(created))

    async def GetTenant(self, request: pb.GetTenantRequest, context: Context) -> pb.GetTenantResponse:
        found = await self._tenants.get(_own_or_admin(request.tenant_id))
        return pb.GetTenantResponse(tenant=convert.tenant_proto(found))

    async def ListTenants(self, request: pb.ListTenantsRequest, context: Context) -> pb.ListTenantsResponse:
        page, next_page_token = await page_by_key(
            self._tokens,
            "tenants",
            request,
            lambda after, limit: self._tenants.list(str(after or ""), limit),
            lambda tenant: tenant.tenant_id,
        )
        return pb.ListTenantsResponse(
            tenants=[convert.tenant_proto(tenant) for tenant in page], next_page_token=next_page_token
        )

    async def UpdateTenant(self, request: pb.UpdateTenantRequest, context: Context) -> pb.UpdateTenantResponse:
        tenant_id = _own_or_admin(request.tenant.tenant_id)
        stored = await self._tenants.update(
            tenant_id, lambda present: convert.tenant_change(request, present), audit=calls.audit(tenant_id)
        )
        return pb.UpdateTenantResponse(tenant=convert.tenant_proto(stored))

    async def DeleteTenant(self, request: pb.DeleteTenantRequest, context: Context) -> pb.DeleteTenantResponse:
        await self._tenants.delete(TenantId(request.tenant_id), audit=calls.audit(request.tenant_id))
        return pb.DeleteTenantResponse()

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, context: Context) -> pb.CreateApiKeyResponse:
        scopes = frozenset(Scope(scope) for scope in request.scopes)
        if Scope.ADMIN_SERVICE in scopes and Scope.ADMIN_SERVICE not in calls.principal().scopes:
            raise ScopeMissing(Scope.ADMIN_SERVICE)
        expire_time = moment(request.expire_time, "expire_time") if request.HasField("expire_time") else None
        if expire_time is not None and expire_time <= datetime.now(UTC):
            raise InvalidField("expire_time", "must be in the future")
        fresh = await self._hasher.make()
        stored = await self._keys.insert(
            calls.tenant(),
            fresh.key_id,
            fresh.secret_hash,
            request.display_name,
            scopes,
            expire_time,
            audit=calls.audit(fresh.key_id),
        )
        return pb.CreateApiKeyResponse(api_key=convert.api_key_proto(stored), secret=fresh.text)

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, context: Context) -> pb.ListApiKeysResponse:
        tenant_key = calls.tenant()
        page, next_page_token = await page_by_key(
            self._tokens,
            f"{tenant_key}/api_keys",
            request,
            lambda after, limit: self._keys.list(tenant_key, str(after or ""), limit),
            lambda key: key.key_id,
        )
        return pb.ListApiKeysResponse(
            api_keys=[convert.api_key_proto(key) for key in page], next_page_token=next_page_token
        )

    async def RotateApiKey(self, request: pb.RotateApiKeyRequest, context: Context) -> pb.RotateApiKeyResponse:
        if not request.key_id.isalnum():
            raise ApiKeyNotFound(request.key_id)
        await self._check_rank(request.key_id)
        overlap = span(request.overlap) if request.HasField("overlap") else KEY_ROTATION_OVERLAP
        fresh = await self._hasher.make(request.key_id)
        stored = await self._keys.rotate(
            calls.tenant(),
            request.key_id,
            fresh.secret_hash,
            max(overlap, timedelta(0)),
            audit=calls.audit(request.key_id),
        )
        self._authenticator.forget(request.key_id)
        return pb.RotateApiKeyResponse(api_key=convert.api_key_proto(stored), secret=fresh.text)

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, context: Context) -> pb.RevokeApiKeyResponse:
        await self._check_rank(request.key_id)
        stored = await self._keys.revoke(calls.tenant(), request.key_id, audit=calls.audit(request.key_id))
        self._authenticator.forget(request.key_id)
        return pb.RevokeApiKeyResponse(api_key=convert.api_key_proto(stored))

    async def _check_rank(self, key_id: str) -> None:
        """Whoever rotates a key gets its secret: none may do so with a key of more power. Raises ScopeMissing."""
        stored = await self._keys.find(key_id)
        if stored is None or stored.tenant_key != calls.tenant():
            return  # of other tenants' keys nothing is told, not even this
        if Scope.ADMIN_SERVICE in stored.key.scopes and Scope.ADMIN_SERVICE not in calls.principal().scopes:
            raise ScopeMissing(Scope.ADMIN_SERVICE)

    async def CreateWebhook(self, request: pb.CreateWebhookRequest, context: Context) -> pb.CreateWebhookResponse:
        raise NotImplementedYet("CreateWebhook")

    async def ListWebhooks(self, request: pb.ListWebhooksRequest, context: Context) -> pb.ListWebhooksResponse:
        raise NotImplementedYet("ListWebhooks")

    async def DeleteWebhook(self, request: pb.DeleteWebhookRequest, context: Context) -> pb.DeleteWebhookResponse:
        raise NotImplementedYet("DeleteWebhook")

    async def TestWebhook(self, request: pb.TestWebhookRequest, context: Context) -> pb.TestWebhookResponse:
        raise NotImplementedYet("TestWebhook")

    async def GetServiceInfo(self, request: pb.GetServiceInfoRequest, context: Context) -> pb.GetServiceInfoResponse:
        return pb.GetServiceInfoResponse(
            version=version("recsvc"),
            limits={
                "max_request_bytes": self._settings.max_request_bytes,
                "max_bulk_request_bytes": self._settings.max_bulk_request_bytes,
                "max_metadata_bytes": self._settings.max_metadata_bytes,
                "max_concurrent_calls": self._settings.max_concurrent_calls,
                "max_batch_size": _LARGEST_BATCH,
                "max_page_size": MAX_PAGE_SIZE,
            },
            features=["reflection"] if self._settings.reflection else [],
            tenant_id=calls.principal().tenant_id,
        )


def _own_or_admin(tenant_id: str) -> TenantId:
    """The tenant that is asked for; another than the caller's own needs admin:service."""
    principal = calls.principal()
    if tenant_id and tenant_id != principal.tenant_id and Scope.ADMIN_SERVICE not in principal.scopes:
        raise ScopeMissing(Scope.ADMIN_SERVICE)
    return TenantId(tenant_id) if tenant_id else principal.tenant_id
