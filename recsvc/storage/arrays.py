"""Arrays of numbers from PostgreSQL without a Python object for each: what `array_send` gives, read as numpy has it.

The driver makes lists of arrays; of a user's state that is several hundred objects, made only to become arrays again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# Dimensions, whether any element is NULL, the type of elements; then, of the one dimension, its length and lower bound.
_HEADER = np.dtype([("dimensions", ">i4"), ("has_null", ">i4"), ("type", ">i4"), ("length", ">i4"), ("first", ">i4")])


def numbers(sent: bytes | None, wire: DTypeLike) -> NDArray[Any]:
    """The elements of a one-dimensional array without NULL; none for NULL and for an empty array.

    wire: the type of an element on the wire, such as ">i8". Raises ValueError for an array of another kind.
    """
    kind = np.dtype(wire)
    if sent is None or len(sent) < _HEADER.itemsize:
        return np.empty(0, dtype=kind.newbyteorder("="))
    dimensions, has_null, _, length, _ = np.frombuffer(sent, _HEADER, count=1)[0].tolist()
    elements = np.dtype([("size", ">i4"), ("value", kind)])
    if dimensions != 1 or has_null or len(sent) != _HEADER.itemsize + length * elements.itemsize:
        raise ValueError(f"not a plain array of {kind}")
    return np.frombuffer(sent, elements, offset=_HEADER.itemsize)["value"].astype(kind.newbyteorder("="))
