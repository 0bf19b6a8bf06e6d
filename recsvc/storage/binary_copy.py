"""PostgreSQL's binary COPY format for whole numpy arrays: millions of rows without a Python object per value.

Format: https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS. Rows of fixed width are one
structured array; a halfvec is its length, two unused bytes and big-endian half floats.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsvc.domain.arrays import Float32, Float64

HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
TRAILER = struct.pack(">h", -1)
_BLOCK_ROWS = 4096
_INT8_OID, _FLOAT4_OID, _FLOAT8_OID = 20, 700, 701

Keys = NDArray[np.int64]


def read_signals(data: bytes | bytearray) -> tuple[Keys, Keys, NDArray[np.float64], NDArray[np.float64]]:
    """Columns of rows (int8, int8, float8, float8) without NULLs, as COPY … TO STDOUT (FORMAT BINARY) sends them."""
    row = np.dtype(
        [("fields", ">i2")]
        + [
            entry
            for name, kind in (("user", ">i8"), ("item", ">i8"), ("signal", ">f8"), ("time", ">f8"))
            for entry in ((f"{name}_length", ">i4"), (name, kind))
        ]
    )
    rows = np.frombuffer(data, dtype=row, offset=len(HEADER), count=(len(data) - len(HEADER)) // row.itemsize)
    return (
        rows["user"].astype(np.int64),
        rows["item"].astype(np.int64),
        rows["signal"].astype(np.float64),
        rows["time"].astype(np.float64),
    )


def factor_rows(
    tenant_key: int, model_key: int, shard: int, item_keys: Keys, scales: Float32, vectors: Float32
) -> Iterator[bytes]:
    """Rows of item_factors in blocks; vectors: (n, dimension)."""
    dimension = vectors.shape[1]
    row = np.dtype(
        [
            ("fields", ">i2"),
            ("tenant_length", ">i4"), ("tenant", ">i8"),
            ("model_length", ">i4"), ("model", ">i8"),
            ("shard_length", ">i4"), ("shard", ">i8"),
            ("item_length", ">i4"), ("item", ">i8"),
            ("scale_length", ">i4"), ("scale", ">f4"),
            ("vector_length", ">i4"), ("dimension", ">i2"), ("unused", ">i2"), ("vector", ">f2", (dimension,)),
        ]
    )  # fmt: skip
    for start in range(0, len(item_keys), _BLOCK_ROWS):
        part = slice(start, start + _BLOCK_ROWS)
        block = np.zeros(len(item_keys[part]), dtype=row)
        block["fields"] = 6
        for name, value in (("tenant", tenant_key), ("model", model_key), ("shard", shard), ("item", item_keys[part])):
            block[f"{name}_length"] = 8
            block[name] = value
        block["scale_length"], block["scale"] = 4, scales[part]
        block["vector_length"], block["dimension"] = 4 + 2 * dimension, dimension
        block["vector"] = vectors[part]
        yield block.tobytes()


def neighbor_rows(
    tenant_key: int,
    model_key: int,
    item_keys: Keys,
    indptr: Sequence[int] | NDArray[np.int64],
    neighbors: Keys,
    weights: Float32,
) -> Iterator[bytes]:
    """Rows of item_neighbors in blocks; row j has neighbors[indptr[j]:indptr[j + 1]]; empty ones are left out."""
    keys, reals = _cells(neighbors, ">i8"), _cells(weights, ">f4")
    parts: list[bytes] = []
    for position, item_key in enumerate(item_keys):
        start, end = int(indptr[position]), int(indptr[position + 1])
        if start == end:
            continue
        parts.append(struct.pack(">hiqiqiq", 5, 8, tenant_key, 8, model_key, 8, int(item_key)))
        parts += (_array(keys[start:end], _INT8_OID), _array(reals[start:end], _FLOAT4_OID))
        if len(parts) >= _BLOCK_ROWS:
            yield b"".join(parts)
            parts.clear()
    yield b"".join(parts)


def signals_row(item_keys: Keys, log_weights: Float64, ages_s: Float64) -> bytes:
    """One row (int8[], float8[], float8[]) of item_signals; arrays of one length, and not empty."""
    arrays = (
        _array(_cells(item_keys, ">i8"), _INT8_OID),
        _array(_cells(log_weights, ">f8"), _FLOAT8_OID),
        _array(_cells(ages_s, ">f8"), _FLOAT8_OID),
    )
    return struct.pack(">h", len(arrays)) + b"".join(arrays)


def _cells(values: NDArray[Any], wire: str) -> NDArray[np.void]:
    """The elements of an array as it is sent: each with its length before it."""
    cells = np.empty(len(values), dtype=[("length", ">i4"), ("value", wire)])
    cells["length"], cells["value"] = cells.dtype["value"].itemsize, values
    return cells


def _array(cells: NDArray[np.void], oid: int) -> bytes:
    """A field that is a one-dimensional array of these elements, of the type of this oid."""
    body = struct.pack(">iiiii", 1, 0, oid, len(cells), 1) + cells.tobytes()
    return struct.pack(">i", len(body)) + body
