"""`recsvc call`: calls any method of any gRPC server that has reflection, with JSON in and JSON out, like grpcurl."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import grpc
import typer
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, ServiceDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from recsvc.cli.channels import CaOption, CertKeyOption, CertOption, TlsOption, channel

_USAGE = 64
_DETAILS = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.RetryInfo,
    error_details_pb2.ResourceInfo,
    error_details_pb2.PreconditionFailure,
    error_details_pb2.QuotaFailure,
)
_EXAMPLES = """
Examples:

  recsvc call localhost:50051 list

  recsvc call localhost:50051 describe recsvc.v1.RecommendRequest

  recsvc call localhost:50051 recsvc.v1.RecommendationService/Recommend --key rk_… -d '{"user_id": "42"}'
"""


def call(
    address: Annotated[str, typer.Argument(help="host:port of the server.")],
    what: Annotated[str, typer.Argument(help="list, describe, or package.Service/Method.")],
    symbol: Annotated[str, typer.Argument(help="For describe: a service, method, message or enum.")] = "",
    data: Annotated[
        str, typer.Option("--data", "-d", help="Request as JSON; @file, or - for standard input. Several for a stream.")
    ] = "{}",
    key: Annotated[str, typer.Option(envvar="RECSVC_API_KEY", help="API key.")] = "",
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="'name: value'; repeat for several.")
    ] = None,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds.")] = 30.0,
    tls: TlsOption = False,
    ca: CaOption = None,
    cert: CertOption = None,
    cert_key: CertKeyOption = None,
    compact: Annotated[bool, typer.Option(help="One line per message.")] = False,
) -> None:
    """Call a method by server reflection, with JSON in and JSON out."""
    metadata = [_header(text) for text in header or []]
    if key:
        metadata.append(("authorization", f"Bearer {key}"))
    try:
        with channel(address, tls, ca, cert, cert_key) as connection:
            database = ProtoReflectionDescriptorDatabase(connection)
            pool = DescriptorPool(database)
            if what == "list":
                typer.echo("\n".join(sorted(database.get_services())))
            elif what == "describe":
                typer.echo(_described(pool, symbol))
            else:
                method = _method(pool, what)
                requests = list(_requests(_text(data), method))
                for response in _responses(connection, method, requests, metadata, timeout_s):
                    typer.echo(
                        json_format.MessageToJson(
                            response,
                            preserving_proto_field_name=True,
                            ensure_ascii=False,
                            indent=None if compact else 2,
                            descriptor_pool=pool,
                        )
                    )
    except grpc.RpcError as error:
        typer.secho(_explained(error), err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from None


call.__doc__ = f"{call.__doc__}\n{_EXAMPLES}"


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise typer.BadParameter(f"{text!r} is not 'name: value'", param_hint="--header")
    return name.strip().lower(), value.strip()


def _text(data: str) -> str:
    if data == "-":
        return sys.stdin.read()
    return Path(data[1:]).read_text(encoding="utf-8") if data.startswith("@") else data


def _method(pool: DescriptorPool, name: str) -> MethodDescriptor:
    service_name, _, method_name = name.replace("/", ".").rpartition(".")
    try:
        found: MethodDescriptor = pool.FindServiceByName(service_name).FindMethodByName(method_name)
    except KeyError:
        _fail(f"the server has no method {name}; `list` and `describe` tell what it has")
    return found


def _requests(text: str, method: MethodDescriptor) -> Iterator[Message]:
    """The JSON documents that stand one after another in the text, as messages."""
    decoder, position = json.JSONDecoder(), 0
    while position < len(text.rstrip()):
        start = position + len(text[position:]) - len(text[position:].lstrip())
        try:
            document, position = decoder.raw_decode(text, start)
            document = _with_plain_masks(document, method.input_type)
            yield json_format.ParseDict(document, GetMessageClass(method.input_type)())
        except (ValueError, TypeError, json_format.ParseError) as error:
            _fail(f"the request is no {method.input_type.full_name}: {error}")


def _with_plain_masks(document: Any, kind: Descriptor) -> Any:
    """A message's JSON with field masks as protobuf wants them, "title,itemType": grpcurl takes a list of paths."""
    if isinstance(document, list):
        return [_with_plain_masks(element, kind) for element in document]
    if not isinstance(document, dict):
        return document
    if kind.full_name == FieldMask.DESCRIPTOR.full_name:
        return FieldMask(**document).ToJsonString()
    kinds = {name: field.message_type for field in kind.fields for name in (field.name, field.json_name)}
    return {
        name: _with_plain_masks(value, inner) if (inner := kinds.get(name)) else value
        for name, value in document.items()
    }


def _responses(
    connection: grpc.Channel,
    method: MethodDescriptor,
    requests: list[Message],
    metadata: list[tuple[str, str]],
    timeout_s: float,
) -> Iterator[Message]:
    path = f"/{method.containing_service.full_name}/{method.name}"
    coders: dict[str, Any] = {
        "request_serializer": lambda message: message.SerializeToString(),
        "response_deserializer": GetMessageClass(method.output_type).FromString,
    }
    if not method.client_streaming and len(requests) != 1:
        _fail(f"{method.name} takes one request, not {len(requests)}")
    request = iter(requests) if method.client_streaming else requests[0]
    kinds = {
        (False, False): connection.unary_unary,
        (False, True): connection.unary_stream,
        (True, False): connection.stream_unary,
        (True, True): connection.stream_stream,
    }
    made = kinds[bool(method.client_streaming), bool(method.server_streaming)](path, **coders)
    answer = made(request, metadata=metadata, timeout=timeout_s)  # type: ignore[operator]
    if method.server_streaming:
        yield from answer
    else:
        yield answer


def _described(pool: DescriptorPool, symbol: str) -> str:
    finders: tuple[tuple[Callable[[str], Any], type[Message]], ...] = (
        (pool.FindServiceByName, ServiceDescriptorProto),
        (pool.FindMessageTypeByName, DescriptorProto),
        (pool.FindEnumTypeByName, EnumDescriptorProto),
    )
    for find, proto in finders:
        try:
            descriptor = find(symbol)
        except KeyError:
            continue
        described = proto()
        descriptor.CopyToProto(described)
        return f"{symbol}\n{described}"
    if "." in symbol:
        method = _method(pool, symbol)
        return f"{symbol}({method.input_type.full_name}) returns ({method.output_type.full_name})"
    _fail(f"the server does not know {symbol!r}")


def _explained(error: Any) -> str:
    """The status with its details as a person can read them."""
    lines = [f"{error.code().name}: {error.details()}"]
    status = rpc_status.from_call(error)
    for packed in status.details if status else ():
        for kind in _DETAILS:
            detail = kind()
            if packed.Unpack(detail):
                lines.append(f"  {kind.DESCRIPTOR.name}: {json_format.MessageToJson(detail, indent=None)}")
    return "\n".join(lines)


def _fail(message: str) -> NoReturn:
    typer.secho(message, err=True, fg=typer.colors.RED)
    raise typer.Exit(_USAGE)
