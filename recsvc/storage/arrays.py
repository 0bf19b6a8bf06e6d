"""Arrays of numbers from PostgreSQL without a Python object for each: what `array_send` gives, read as numpy has it.

The driver makes lists of arrays; of a user's state that is several hundred objects, made only to become arrays again.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsvc.domain.arrays import Float32

# Dimensions, whether any element is NULL, the type of elements; then, of the one dimension, its length and lower bound.
_HEADER = struct.Struct(">5i")


def numbers(sent: bytes | None, wire: str) -> NDArray[Any]:
    """The elements of a one-dimensional array without NULL; none for NULL and for an empty array.

    wire: the type of an element on the wire, such as ">i8". Raises ValueError for an array of another kind.
    """
    elements, kind = _layout(wire)
    if sent is None or len(sent) < _HEADER.size:
        return np.empty(0, dtype=kind)
    dimensions, has_null, _, length, _ = _HEADER.unpack_from(sent)
    if dimensions != 1 or has_null or len(sent) != _HEADER.size + length * elements.itemsize:
        raise ValueError(f"not a plain array of {wire}")
    return np.frombuffer(sent, elements, offset=_HEADER.size)["value"].astype(kind)


def half_vectors(sent: bytes | None, dimension: int) -> Float32:
    """The vectors, (n, dimension), that `halfvec_send` gave one after the other; none for NULL.

    Raises ValueError when they do not fill what was sent.
    """
    elements = np.dtype([("header", ">i2", (2,)), ("value", ">f2", (dimension,))])
    return np.frombuffer(sent or b"", elements)["value"].astype(np.float32)


@cache
def _layout(wire: str) -> tuple[np.dtype[np.void], np.dtype[Any]]:
    """How elements stand one after the other, and what becomes of each; to make these takes longer than to read one."""
    return np.dtype([("size", ">i4"), ("value", wire)]), np.dtype(wire).newbyteorder("=")
