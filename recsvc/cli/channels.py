"""How commands reach a server: in plain text, by TLS, or by TLS with a certificate of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import grpc
import typer

TlsOption = Annotated[bool, typer.Option("--tls/--plaintext", help="How to connect.")]
CaOption = Annotated[
    Path | None,
    typer.Option("--ca", "--ca-file", exists=True, help="Certificates to trust, with --tls; else the system's."),
]
CertOption = Annotated[Path | None, typer.Option("--cert", exists=True, help="The client's own certificate.")]
CertKeyOption = Annotated[Path | None, typer.Option("--cert-key", exists=True, help="Its private key.")]


def channel(address: str, tls: bool, ca: Path | None, cert: Path | None, cert_key: Path | None) -> grpc.Channel:
    """A channel for messages of any size. Raises typer.BadParameter for options that do not go together."""
    options = [("grpc.max_receive_message_length", -1)]
    if (cert is None) != (cert_key is None):
        raise typer.BadParameter("--cert and --cert-key go together")
    if not tls:
        if ca or cert:
            raise typer.BadParameter("certificates need --tls")
        return grpc.insecure_channel(address, options)
    contents = [file.read_bytes() if file else None for file in (ca, cert_key, cert)]
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(*contents), options)
