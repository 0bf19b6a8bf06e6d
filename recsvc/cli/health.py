"""`recsvc health`: what a running service says of its health, by exit code and in words."""

from __future__ import annotations

from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from recsvc.cli.channels import CaOption, CertKeyOption, CertOption, TlsOption, channel

_SERVING = health_pb2.HealthCheckResponse.SERVING


def health(
    address: Annotated[str, typer.Argument(help="host:port of the service.")] = "localhost:50051",
    service: Annotated[str, typer.Option(help="'' for alive, readiness, or a service's full name.")] = "readiness",
    watch: Annotated[bool, typer.Option("--watch", help="Print each change until the connection ends.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds to wait, without --watch.")] = 3.0,
    tls: TlsOption = False,
    ca: CaOption = None,
    cert: CertOption = None,
    cert_key: CertKeyOption = None,
) -> None:
    """Ask a running service for its health; exit code 0 only when it is SERVING. Fit for exec probes."""
    with channel(address, tls, ca, cert, cert_key) as connection:
        stub = health_pb2_grpc.HealthStub(connection)
        request = health_pb2.HealthCheckRequest(service=service)
        status = None
        try:
            if watch:
                for update in stub.Watch(request):
                    status = update.status
                    typer.echo(_name(status))
            else:
                status = stub.Check(request, timeout=timeout_s).status
                typer.echo(_name(status))
        except grpc.RpcError as error:
            typer.secho(f"{address}: {_told(error, service)}", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            # The end of a watch; what was said last decides.
            typer.echo("", err=True)
    if status != _SERVING:
        raise typer.Exit(1)


def _name(status: int) -> str:
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))


def _told(error: grpc.RpcError, service: str) -> str:
    if error.code() is grpc.StatusCode.NOT_FOUND:
        return f"NOT_FOUND: there is no service of the name {service!r}"
    return f"{error.code().name}: {error.details()}"
