"""Envoy as deploy/envoy renders it, in front of a server, and plain HTTP calls to it."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.envoy.render import EnvoySettings, render
from tests.conftest import temporary_folder
from tests.ports import free_port
from tests.processes import kill_9

_READY_S = 30.0
_CALL_S = 30.0


@dataclass(frozen=True)
class Answer:
    """An HTTP response; the names of headers are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as one JSON value."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Envoy:
    """A running Envoy. log_path: what it writes, its access log among it."""

    port: int
    log_path: Path
    tls: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        """Where it is called, without a path."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    async def call(
        self, method: str, path: str, body: object = None, key: str = "", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One HTTP/1.1 request on a connection of its own. body: bytes as they are, anything else as JSON."""
        sent = dict(headers or {})
        if key:
            sent["authorization"] = f"Bearer {key}"
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("content-type", "application/json")
        return await asyncio.to_thread(self._call, method, path, body, sent)

    def _call(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        connection: http.client.HTTPConnection
        if self.tls is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_CALL_S)
        else:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=_CALL_S, context=self.tls)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()


@asynccontextmanager
async def running_envoy(
    upstream_port: int, tls: ssl.SSLContext | None = None, *, healthy: bool = True, **settings: Any
) -> AsyncIterator[Envoy]:
    """Envoy on a free port in front of the server on `upstream_port`, once it says whether that server is healthy.

    tls: how to call an Envoy whose settings name a certificate. healthy: what it must say. Raises RuntimeError with its
    log when it ends instead.
    """
    folder = temporary_folder()
    envoy = Envoy(free_port(), folder / "envoy.log", tls)
    config = render(EnvoySettings(port=envoy.port, upstream_port=upstream_port, **settings), folder)
    binary = Path(sys.executable).parent / "envoy"
    with envoy.log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(binary, "-c", config, "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"),
            *("--file-flush-interval-msec", "50"),
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
        )
    try:
        await _ready(envoy, process, 200 if healthy else 503)
        yield envoy
    finally:
        if process.returncode is None:
            kill_9(process.pid)
        await process.wait()
        shutil.rmtree(folder, ignore_errors=True)


async def _ready(envoy: Envoy, process: asyncio.subprocess.Process, status: int) -> None:
    async with asyncio.timeout(_READY_S):
        while True:
            if process.returncode is not None:
                raise RuntimeError(envoy.log_path.read_text(encoding="utf-8", errors="replace"))
            try:
                if (await envoy.call("GET", "/healthz")).status == status:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.1)
