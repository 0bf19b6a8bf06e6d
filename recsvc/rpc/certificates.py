"""The server's certificate, and the authority that clients' certificates must come from, as files that may be replaced.

gRPC asks before every handshake whether there is something new. What does not fit together, such as a certificate whose
key is still to be written, is left alone with a line in the log: new connections get what was good before.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Sequence
from pathlib import Path

import grpc
import structlog

from recsvc.domain.errors import InvalidField
from recsvc.settings import TlsSettings

_log = structlog.get_logger(__name__)
_Signature = tuple[tuple[int, int, int], ...]


class Certificates:
    """Credentials of a server; reads the files again whenever they have changed."""

    def __init__(self, cert_file: Path, key_file: Path, client_ca_file: Path | None) -> None:
        """Raises InvalidField when the files are not there or do not fit together."""
        self._cert_file, self._key_file, self._client_ca_file = cert_file, key_file, client_ca_file
        self._lock = threading.Lock()
        try:
            self._seen = self._signature()
            self._first = self._read()
        except (OSError, ValueError) as error:
            raise InvalidField("tls", str(error)) from error

    @staticmethod
    def of(settings: TlsSettings) -> Certificates | None:
        """Those that the settings name, or None for a server without TLS. Raises InvalidField."""
        if settings.cert_file is None or settings.key_file is None:
            return None
        return Certificates(settings.cert_file, settings.key_file, settings.client_ca_file)

    def credentials(self) -> grpc.ServerCredentials:
        """For a port. With an authority for clients, whoever has no certificate of it is not let in."""
        return grpc.dynamic_ssl_server_credentials(
            self._first,
            self._changed,  # type: ignore[arg-type]  # None means no change; the stubs do not know
            require_client_authentication=self._client_ca_file is not None,
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What has changed since the last handshake; called by gRPC in its own threads, must not raise."""
        with self._lock:
            try:
                signature = self._signature()
                if signature == self._seen:
                    return None
                self._seen = signature
                changed = self._read()
            except (OSError, ValueError) as error:
                _log.error("tls.files_not_usable", error=str(error))
                return None
        _log.info("tls.reloaded", cert_file=str(self._cert_file))
        return changed

    @property
    def _files(self) -> Sequence[Path]:
        return [file for file in (self._cert_file, self._key_file, self._client_ca_file) if file is not None]

    def _signature(self) -> _Signature:
        """What differs once a file was written or replaced; follows the links that Kubernetes switches."""
        stats = [file.stat() for file in self._files]
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        """Raises ValueError when the files do not fit together, OSError when one cannot be read."""
        contents = [file.read_bytes() for file in self._files]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._cert_file, self._key_file, password=_no_password)
            if self._client_ca_file is not None:
                context.load_verify_locations(self._client_ca_file)
        except ssl.SSLError as error:
            names = ", ".join(map(str, self._files))
            raise ValueError(f"{names} do not fit together: {error.reason or error}") from error
        if contents != [file.read_bytes() for file in self._files]:
            raise ValueError("the files changed while they were read")
        certificate, key, *authority = contents
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authority[0] if authority else None)


def _no_password() -> str:
    # Otherwise OpenSSL would ask for it on the terminal.
    raise ValueError("the private key is encrypted; it must be stored without a password")
