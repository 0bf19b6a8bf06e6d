"""Admits a call if its key is valid and holds the scope that the method's option in the protos demands.

A method that declares no scope is refused to everybody. A key with admin:service may act for another tenant by the
metadata entry x-tenant-id. A client whose certificate stands for a key needs to send none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import replace

from google.protobuf.descriptor import FileDescriptor

from recsvc.domain.errors import CredentialsMissing, DomainError, ScopeMissing
from recsvc.domain.ids import TenantId
from recsvc.domain.tenancy import Principal, Scope
from recsvc.gen.v1 import options_pb2
from recsvc.rpc.authentication import Authenticator
from recsvc.rpc.calls import Call, Context
from recsvc.rpc.methods import MethodPolicy
from recsvc.storage.tenants import TenantRepository

ANY_KEY = "any"
_BEARER = "bearer "


def required_scopes(files: Iterable[FileDescriptor]) -> Mapping[str, str]:
    """The scope of each method by its full gRPC path; "" where none is declared."""
    return {
        f"/{service.full_name}/{method.name}": method.GetOptions().Extensions[options_pb2.required_scope]
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    }


class Authentication:
    """Finds out who calls, and whether they may."""

    def __init__(
        self,
        authenticator: Authenticator,
        tenants: TenantRepository,
        scopes: Mapping[str, str],
        client_keys: Mapping[str, str],
    ) -> None:
        """client_keys: names in clients' certificates to ids of the keys that they stand for."""
        self._authenticator = authenticator
        self._tenants = tenants
        self._scopes = scopes
        self._client_keys = client_keys

    def concerns(self, policy: MethodPolicy) -> bool:
        """All methods."""
        return True

    def enter(self, call: Call, context: Context) -> Awaitable[None] | None:
        """Put the principal into the call. Raises CredentialsMissing, CredentialsInvalid, ScopeMissing."""
        key = _key_of(call.metadata)
        principal = self._authenticator.at_hand(key) if key is not None else None
        return self._admit(call, principal) if principal is not None else self._enter_unknown(call, context, key)

    def leave(self, call: Call, error: DomainError | None) -> None:
        """Nothing is held of a call."""

    def _admit(self, call: Call, principal: Principal) -> Awaitable[None] | None:
        # Known from here on, to logs too, whether or not the call is admitted.
        call.principal = principal
        scope = self._scopes.get(call.method, "")
        if scope != ANY_KEY and scope not in principal.scopes:
            raise ScopeMissing(scope or "(none is declared)")
        other = call.metadata.get("x-tenant-id")
        return self._act_for(call, principal, TenantId(other)) if other and other != principal.tenant_id else None

    async def _enter_unknown(self, call: Call, context: Context, key: str | None) -> None:
        waiting = self._admit(call, await self._caller(context, key))
        if waiting is not None:
            await waiting

    async def _caller(self, context: Context, key: str | None) -> Principal:
        if key is not None:
            return await self._authenticator.authenticate(key)
        if self._client_keys:
            names = names_in(context.auth_context())
            key_ids = {self._client_keys[name] for name in names if name in self._client_keys}
            # A certificate that could stand for several keys stands for none.
            if len(key_ids) == 1:
                return await self._authenticator.vouched(key_ids.pop())
        raise CredentialsMissing

    async def _act_for(self, call: Call, principal: Principal, tenant_id: TenantId) -> None:
        if Scope.ADMIN_SERVICE not in principal.scopes:
            raise ScopeMissing(Scope.ADMIN_SERVICE)
        tenant = await self._tenants.get(tenant_id)
        call.principal = replace(principal, tenant_key=tenant.tenant_key, tenant_id=tenant.tenant_id)


def names_in(peer: Mapping[str, Iterable[bytes]]) -> list[str]:
    """Who a client's certificate names, verified by the handshake: its alternative names, or else its common name."""
    names = peer.get("x509_subject_alternative_name") or peer.get("x509_common_name") or ()
    return [name.decode("utf-8", errors="replace") for name in names]


def _key_of(metadata: Mapping[str, str]) -> str | None:
    authorization = metadata.get("authorization", "")
    if authorization[: len(_BEARER)].lower() == _BEARER:
        return authorization[len(_BEARER) :].strip()
    if key := metadata.get("x-api-key"):
        return key.strip()
    return None
