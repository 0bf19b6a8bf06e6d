"""TLS on the gRPC port: who is let in, which certificate is served, and which certificates stand for keys."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError
from typer.testing import CliRunner

from recsvc.app import Service, running_service
from recsvc.cli.main import app
from recsvc.cli.tenants import new_key
from recsvc.domain.errors import InvalidField
from recsvc.domain.tenancy import NewApiKey, Scope, Tenant
from recsvc.gen.v1 import admin_service_pb2 as admin_pb
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.rpc.certificates import Certificates
from recsvc.settings import Settings, TlsSettings
from tests.api import Api, failure

_LIST = catalog_pb.ListItemsRequest()
_SERVED_WITHIN_S = 5.0
_READER = frozenset({Scope.CATALOG_READ})
# A channel must not share the connection, and so the handshake, of another one.
_ALONE = (("grpc.use_local_subchannel_pool", 1),)


class House:
    """An authority with the files of a server."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.cert_file, self.key_file, self.ca_file = (folder / name for name in ("cert.pem", "key.pem", "ca.pem"))
        self.authority.cert_pem.write_to_path(self.ca_file)
        self.issued = self.write(self.authority)

    def write(self, authority: trustme.CA) -> trustme.LeafCert:
        """Put a new certificate of the authority into the files."""
        issued = authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_pem.write_to_path(self.key_file)
        self.cert_file.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        return issued

    @property
    def tls(self) -> TlsSettings:
        """TLS without certificates of clients."""
        return TlsSettings(cert_file=self.cert_file, key_file=self.key_file)

    def mutual(self, **client_keys: str) -> TlsSettings:
        """TLS with them. client_keys: names with _ in place of dots."""
        names = {name.replace("_", "."): key_id for name, key_id in client_keys.items()}
        return TlsSettings(
            cert_file=self.cert_file, key_file=self.key_file, client_ca_file=self.ca_file, client_keys=names
        )

    def trusting(self, authority: trustme.CA | None = None) -> grpc.ChannelCredentials:
        """Credentials of a client that has no certificate."""
        return grpc.ssl_channel_credentials((authority or self.authority).cert_pem.bytes())

    def showing(
        self, *names: str, authority: trustme.CA | None = None, common_name: str = ""
    ) -> grpc.ChannelCredentials:
        """Credentials of a client with a certificate for these names."""
        issued = (authority or self.authority).issue_cert(*names, common_name=common_name or None)
        chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
        return grpc.ssl_channel_credentials(self.authority.cert_pem.bytes(), issued.private_key_pem.bytes(), chain)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture
async def reader(service: Service, new_tenant: Tenant) -> NewApiKey:
    return await new_key(service.storage, new_tenant.tenant_id, "", _READER)


@asynccontextmanager
async def serving(settings: Settings, tls: TlsSettings) -> AsyncIterator[int]:
    """The port of a server with these certificates."""
    async with running_service(settings.model_copy(update={"tls": tls})) as running:
        yield running.port


def served(port: int) -> str:
    """The certificate that a new connection is shown, in PEM."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
    assert shown is not None
    return ssl.DER_cert_to_PEM_cert(shown)


def same(pem: str, issued: trustme.LeafCert) -> bool:
    """Whether it is this certificate."""
    return ssl.PEM_cert_to_DER_cert(pem) == ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())


async def test_calls_by_tls_are_answered_and_plain_ones_are_not(
    settings: Settings, house: House, reader: NewApiKey
) -> None:
    async with serving(settings, house.tls) as port:
        async with Api.connected(port, reader.secret, credentials=house.trusting()) as api:
            await api.catalog.ListItems(_LIST)
        async with Api.connected(port, reader.secret) as api:
            assert (await failure(api.catalog.ListItems(_LIST))).code == "UNAVAILABLE"


async def test_a_new_certificate_is_served_without_a_restart_and_open_connections_stay(
    settings: Settings, house: House, reader: NewApiKey
) -> None:
    async with (
        serving(settings, house.tls) as port,
        Api.connected(port, reader.secret, credentials=house.trusting()) as before,
    ):
        await before.catalog.ListItems(_LIST)
        assert same(await asyncio.to_thread(served, port), house.issued)
        renewed = house.write(trustme.CA())
        start = time.monotonic()
        while not same(await asyncio.to_thread(served, port), renewed):
            assert time.monotonic() - start < _SERVED_WITHIN_S
        print(f"\na new certificate is served after {(time.monotonic() - start) * 1000:.0f} ms")
        await before.catalog.ListItems(_LIST)


@pytest.mark.parametrize("broken", ["nonsense", "key of another", "gone"])
async def test_files_that_do_not_fit_together_leave_the_good_certificate_in_force(
    settings: Settings, house: House, broken: str
) -> None:
    async with serving(settings, house.tls) as port:
        if broken == "nonsense":
            house.cert_file.write_text("nonsense")
        elif broken == "gone":
            house.key_file.unlink()
        else:
            trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(house.key_file)
        for _ in range(3):
            assert same(await asyncio.to_thread(served, port), house.issued)
        mended = house.write(house.authority)
        assert same(await asyncio.to_thread(served, port), mended)


async def test_an_authority_for_clients_that_is_replaced_holds_for_new_connections(
    settings: Settings, house: House, reader: NewApiKey
) -> None:
    other = trustme.CA()
    async with serving(settings, house.mutual()) as port:
        other.cert_pem.write_to_path(house.ca_file)
        for authority, code in ((house.authority, "UNAVAILABLE"), (other, "OK")):
            shown = house.showing("web.shop.internal", authority=authority)
            async with Api.connected(port, reader.secret, credentials=shown, options=_ALONE) as api:
                if code == "OK":
                    await api.catalog.ListItems(_LIST)
                else:
                    assert (await failure(api.catalog.ListItems(_LIST))).code == code


async def test_with_an_authority_only_clients_with_its_certificate_are_let_in(
    settings: Settings, house: House, reader: NewApiKey
) -> None:
    async with serving(settings, house.mutual()) as port:
        async with Api.connected(
            port, reader.secret, credentials=house.showing("web.shop.internal"), options=_ALONE
        ) as api:
            await api.catalog.ListItems(_LIST)
        for stranger in (house.trusting(), house.showing("web.shop.internal", authority=trustme.CA())):
            async with Api.connected(port, reader.secret, credentials=stranger, options=_ALONE) as api:
                assert (await failure(api.catalog.ListItems(_LIST))).code == "UNAVAILABLE"


async def test_a_certificate_stands_for_a_key_with_its_scopes_until_that_is_revoked(
    service: Service, api: Api, settings: Settings, house: House, reader: NewApiKey, new_tenant: Tenant
) -> None:
    key_id = reader.key.key_id
    async with (
        serving(settings, house.mutual(web_shop_internal=key_id)) as port,
        Api.connected(port, "", credentials=house.showing("web.shop.internal")) as holder,
    ):
        info = await holder.admin.GetServiceInfo(admin_pb.GetServiceInfoRequest())
        assert info.tenant_id == new_tenant.tenant_id
        await holder.catalog.ListItems(_LIST)
        refused = await failure(holder.catalog.CreateItem(catalog_pb.CreateItemRequest(item={"item_id": "a"})))
        assert refused.reason == "SCOPE_MISSING"
        await api.admin.RevokeApiKey(admin_pb.RevokeApiKeyRequest(key_id=key_id))
        start = time.monotonic()
        while await holder.catalog.ListItems(_LIST).code() is grpc.StatusCode.OK:
            assert time.monotonic() - start < 2.0


async def test_a_certificate_that_stands_for_no_key_or_for_two_needs_one(
    settings: Settings, house: House, reader: NewApiKey, key: str
) -> None:
    tls = house.mutual(web_shop_internal=reader.key.key_id, jobs_shop_internal=key[3:15])
    shown = [
        house.showing("unknown.shop.internal"),
        house.showing("web.shop.internal", "jobs.shop.internal"),
        # Names that the authority vouches for count; a common name beside them does not.
        house.showing("unknown.shop.internal", common_name="web.shop.internal"),
    ]
    async with serving(settings, tls) as port:
        for credentials in shown:
            async with Api.connected(port, "", credentials=credentials, options=_ALONE) as api:
                assert (await failure(api.catalog.ListItems(_LIST))).reason == "CREDENTIALS_MISSING"
            async with Api.connected(port, reader.secret, credentials=credentials, options=_ALONE) as api:
                await api.catalog.ListItems(_LIST)


async def test_a_key_that_is_sent_counts_before_the_certificate(
    settings: Settings, house: House, reader: NewApiKey
) -> None:
    wrong = reader.secret[:-1] + ("a" if reader.secret[-1] != "a" else "b")
    async with (
        serving(settings, house.mutual(web_shop_internal=reader.key.key_id)) as port,
        Api.connected(port, wrong, credentials=house.showing("web.shop.internal")) as api,
    ):
        assert (await failure(api.catalog.ListItems(_LIST))).reason == "CREDENTIALS_INVALID"


async def test_the_command_line_calls_by_tls_with_a_certificate(
    settings: Settings, house: House, reader: NewApiKey, tmp_path: Path
) -> None:
    own = house.authority.issue_cert("web.shop.internal")
    own.private_key_pem.write_to_path(tmp_path / "own.key")
    own.cert_chain_pems[0].write_to_path(tmp_path / "own.pem")
    options = ("--tls", "--ca", str(house.ca_file), "--cert", str(tmp_path / "own.pem"))
    options += ("--cert-key", str(tmp_path / "own.key"))
    async with serving(settings, house.mutual(web_shop_internal=reader.key.key_id)) as port:
        address = f"localhost:{port}"
        for command in (("call", address, "recsvc.v1.CatalogService/ListItems"), ("health", address)):
            done = await asyncio.to_thread(CliRunner().invoke, app, [*command, *options])
            assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize("missing", ["cert_file", "key_file"])
def test_half_a_pair_of_files_is_refused(house: House, missing: str) -> None:
    with pytest.raises(ValidationError, match="cert_file and key_file must be set together"):
        TlsSettings(**{**house.tls.model_dump(), missing: None})


def test_files_that_do_not_fit_together_are_refused_at_the_start(house: House) -> None:
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(house.key_file)
    with pytest.raises(InvalidField, match=r"tls: .*key\.pem do not fit together"):
        Certificates.of(house.tls)


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(house: House) -> None:
    key = serialization.load_pem_private_key(house.key_file.read_bytes(), None)
    house.key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(InvalidField, match="encrypted"):
        Certificates.of(house.tls)
