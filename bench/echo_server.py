"""The floor: a bare grpc.aio server that answers with the bytes it was started with. Prints its port."""

from __future__ import annotations

import asyncio
import sys

import grpc
import uvloop


async def main(size: int) -> None:
    answer = b"x" * size

    async def echo(_request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
        return answer

    handler = grpc.unary_unary_rpc_method_handler(echo)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", {"Call": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
