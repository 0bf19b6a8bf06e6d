"""Renders Envoy's configuration for browsers and JSON callers of recsvc, from the environment (`RECSVC_ENVOY_…`).

    python deploy/envoy/render.py build/envoy && envoy -c build/envoy/envoy.yaml

Two files are written: envoy.yaml, from the template beside this script, and recsvc.binpb, the descriptors by which
Envoy turns JSON into protobuf and back. `--help` lists what can be set. Knows the protos, not the code of the service.
"""

from __future__ import annotations

import argparse
import ipaddress
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PREFIX = "RECSVC_ENVOY_"


class EnvoySettings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 in a container.")
    port: int = Field(8088, ge=1, le=65535, description="Port to listen on.")
    tls_certificate_file: Path | None = Field(None, description="Certificate chain (PEM); with it callers speak TLS.")
    tls_private_key_file: Path | None = Field(None, description="Its private key (PEM).")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose pages may call, comma-separated: https://shop.example. None unless named."
    )
    upstream_host: str = Field("127.0.0.1", description="Where recsvc listens; all addresses of a DNS name are used.")
    upstream_port: int = Field(50051, ge=1, le=65535, description="Its gRPC port.")
    upstream_ca_file: Path | None = Field(
        None, description="Authorities (PEM) that recsvc is verified by; with it TLS."
    )
    upstream_certificate_file: Path | None = Field(None, description="Client certificate (PEM) shown to recsvc.")
    upstream_private_key_file: Path | None = Field(None, description="Its private key (PEM).")
    forward_tenant_header: bool = Field(
        False, description="Let x-tenant-id through, by which a key with admin:service acts for another tenant."
    )
    max_request_bytes: int = Field(1024 * 1024, ge=1024, description="Largest request body; more gets 413.")
    max_response_bytes: int = Field(16 * 1024 * 1024, ge=1024, description="Largest answer that is made JSON.")
    max_header_kib: int = Field(32, ge=4, le=8192, description="Largest request line and headers; KiB.")
    request_timeout_s: float = Field(30.0, gt=0, description="Longest time for a request to arrive in full.")
    answer_timeout_s: float = Field(30.0, gt=0, description="Longest wait for the answer of a unary method.")
    stream_idle_s: float = Field(300.0, gt=0, description="A stream on which nothing moves for so long is ended.")
    stream_max_s: float = Field(3600.0, gt=0, description="Longest life of a stream; callers resume.")
    max_connections: int = Field(10_000, ge=1, description="Connections of callers at once; more are closed.")
    max_concurrent_streams: int = Field(100, ge=1, description="Calls at once on one HTTP/2 connection.")
    max_calls: int = Field(
        1000, ge=1, description="Calls under way to recsvc at once, streams among them; more get 503."
    )
    admin_port: int = Field(0, ge=0, le=65535, description="Envoy's admin interface, on loopback only; 0: none.")

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, (part.strip() for part in value.split(",")))) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _exact(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            parts = urlsplit(origin)
            is_exact = parts.hostname and not {"*", "@"} & set(origin) and f"{parts.scheme}://{parts.netloc}" == origin
            if parts.scheme not in ("http", "https") or not is_exact:
                raise ValueError(f"{origin!r} is not an origin: scheme://host or scheme://host:port, without wildcards")
        return origins

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        for side in ("tls", "upstream"):
            if (getattr(self, f"{side}_certificate_file") is None) != (
                getattr(self, f"{side}_private_key_file") is None
            ):
                raise ValueError(f"{side}_certificate_file and {side}_private_key_file go together")
        if self.upstream_certificate_file and not self.upstream_ca_file:
            raise ValueError("upstream_certificate_file needs upstream_ca_file: no TLS without it")
        return self


def build_descriptors(path: Path) -> FileDescriptorSet:
    """Compile the protos to `path`, google.rpc's error details among them; returns what was written."""
    buf = Path(sys.executable).parent / "buf"
    command = [buf, "build", "--as-file-descriptor-set", "--exclude-source-info", "-o", path.resolve()]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    return FileDescriptorSet.FromString(path.read_bytes())


def service_names(descriptors: FileDescriptorSet) -> list[str]:
    """Full names of all services."""
    return [f"{file.package}.{service.name}" for file in descriptors.file for service in file.service]


def streaming_methods(descriptors: FileDescriptorSet) -> Iterator[tuple[str, str]]:
    """Of each streaming method the path as gRPC-Web calls it, and a regular expression of its JSON path."""
    for file in descriptors.file:
        for service in file.service:
            for method in service.method:
                if method.client_streaming or method.server_streaming:
                    rule = method.options.Extensions[annotations_pb2.http]
                    template = getattr(rule, rule.WhichOneof("pattern"))
                    yield (
                        f"/{file.package}.{service.name}/{method.name}",
                        "[^/]+".join(re.escape(literal) for literal in re.split(r"\{[^}]*\}", template)),
                    )


def is_address(host: str) -> bool:
    """Whether a host is named by its IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def render(settings: EnvoySettings, folder: Path) -> Path:
    """Write both files into `folder`; returns the path of envoy.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptors_path = folder.resolve() / "recsvc.binpb"
    descriptors = build_descriptors(descriptors_path)
    # Values enter as JSON, which is YAML, so that none of them can break out of its place.
    environment = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    text = environment.get_template("envoy.yaml.j2").render(
        settings.model_dump(mode="json"),
        descriptors_path=str(descriptors_path),
        services=service_names(descriptors),
        streams=list(streaming_methods(descriptors)),
        upstream_san_type="IP_ADDRESS" if is_address(settings.upstream_host) else "DNS",
    )
    path = folder / "envoy.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Render Envoy's configuration for browsers and JSON callers.",
        epilog="\n".join(
            f"{PREFIX}{name.upper()}: {field.description} Default: {field.default!r}."
            for name, field in EnvoySettings.model_fields.items()
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where envoy.yaml and recsvc.binpb are written")
    folder = parser.parse_args().folder
    try:
        print(render(EnvoySettings(), folder))
    except ValidationError as error:
        for wrong in error.errors():
            name = f"{PREFIX}{str(wrong['loc'][0]).upper()}: " if wrong["loc"] else ""
            print(f"{name}{wrong['msg']}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
