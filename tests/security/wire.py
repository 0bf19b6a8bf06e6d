"""HTTP/2 frames as bytes, valid and hostile, without a library that would refuse to make the hostile ones."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
_END_STREAM, _END_HEADERS = 0x1, 0x4
_CHECK = "/grpc.health.v1.Health/Check"
_LARGEST_FRAME = 16_384
_EMPTY = b"\x00\x00\x00\x00\x00"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame; a length of more than three bytes is cut."""
    return struct.pack(">I", len(payload) & 0xFFFFFF)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header_block(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Headers in HPACK, each as a literal that nobody indexes."""
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in headers)


def a_call(stream: int = 1, path: str = _CHECK, extra: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """The frames of a unary gRPC call with an empty request. extra: more headers, or others of the same names."""
    headers = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path.encode(),
        b":authority": b"a",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
    }
    block = header_block(list((headers | dict(extra)).items()))
    first, rest = block[:_LARGEST_FRAME], block[_LARGEST_FRAME:]
    frames = frame(HEADERS, 0 if rest else _END_HEADERS, stream, first)
    while rest:
        part, rest = rest[:_LARGEST_FRAME], rest[_LARGEST_FRAME:]
        frames += frame(CONTINUATION, 0 if rest else _END_HEADERS, stream, part)
    return frames + frame(DATA, _END_STREAM, stream, _EMPTY)


def opening() -> bytes:
    """What a client says first."""
    return PREFACE + frame(SETTINGS, 0, 0)


def hostile(dice: random.Random) -> bytes:
    """What one connection sends."""
    match dice.randint(0, 13):
        case 0:
            return dice.randbytes(dice.choice((1, 24, 1000, 50_000)))
        case 1:
            http_1 = (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nx")
            return dice.choice((*http_1, b"\x16\x03\x01"))
        case 2:
            return opening() + b"".join(_any_frame(dice) for _ in range(dice.randint(1, 30)))
        case 3:
            return _mutated(dice, opening() + a_call() + a_call(3))
        case 4:
            whole = opening() + a_call()
            return whole[: dice.randrange(len(whole))]
        case 5:
            return opening() + a_call(extra=[(b"x-huge", b"h" * dice.choice((20_000, 200_000)))])
        case 6:
            return opening() + a_call(extra=[(b"x-%d" % number, b"v") for number in range(dice.choice((100, 3000)))])
        case 7:
            # Rapid reset (CVE-2023-44487): streams that are opened and given up at once.
            return opening() + b"".join(
                a_call(stream) + frame(RST_STREAM, 0, stream, struct.pack(">I", 8)) for stream in range(1, 400, 2)
            )
        case 8:
            # Continuation flood (CVE-2024-27316): headers that never end.
            block = header_block([(b"x", b"y" * 100)])
            return opening() + frame(HEADERS, 0, 1, block) + frame(CONTINUATION, 0, 1, block * 20) * 50
        case 9:
            return opening() + dice.choice((frame(PING, 0, 0, b"12345678"), frame(SETTINGS, 0, 0))) * 500
        case 10:
            return opening() + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1)) * 2
        case 11:
            paths = ("", "/", "//", "/x", "*", "/" + "a" * 9000, "/\x00/\x01", "/a.b/C", "/é/ü")
            return opening() + a_call(path=dice.choice(paths))
        case 12:
            name = dice.choice(
                (b":path", b":method", b":scheme", b":authority", b"te", b"content-type", b"grpc-timeout")
            )
            return opening() + a_call(extra=[(name, dice.randbytes(dice.choice((0, 1, 20))))])
        case _:
            bad = (b"\x01\x00\x00\x00\x00", b"\x00\xff\xff\xff\xff", b"\x00\x00\x00\x00\x09x", b"\x02", b"")
            call = a_call()
            return opening() + call[: -len(frame(DATA, 0, 1, _EMPTY))] + frame(DATA, _END_STREAM, 1, dice.choice(bad))


def _any_frame(dice: random.Random) -> bytes:
    payload = dice.randbytes(dice.choice((0, 1, 4, 5, 6, 8, 9, 60)))
    return frame(dice.randint(0, 12), dice.randrange(256), dice.choice((0, 1, 2, 3, 2**31 - 1, 2**32 - 1)), payload)


def _mutated(dice: random.Random, raw: bytes) -> bytes:
    changed = bytearray(raw)
    for _ in range(dice.choice((1, 2, 5, 20))):
        changed[dice.randrange(len(PREFACE) if dice.random() < 0.9 else 0, len(changed))] = dice.randrange(256)
    return bytes(changed)


def _string(text: bytes) -> bytes:
    """An HPACK string without Huffman coding: its length with a prefix of seven bits, then itself."""
    length = len(text)
    if length < 127:
        return bytes([length]) + text
    prefix, length = bytearray([127]), length - 127
    while length >= 128:
        prefix.append(length & 127 | 128)
        length >>= 7
    return bytes(prefix) + bytes([length]) + text
