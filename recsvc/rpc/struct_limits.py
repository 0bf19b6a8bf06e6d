"""What free attributes, google.protobuf.Struct, may hold: the limits that the protos state in an option of ours.

protovalidate has no rules for them: what nests has no bound there.
"""

from __future__ import annotations

import math

from google.protobuf.struct_pb2 import ListValue, Struct, Value

from recsvc.gen.v1 import options_pb2

MAX_VIOLATIONS = 20
"""A caller is told of so many at most."""


def struct_violations(struct: Struct, limits: options_pb2.StructLimits, path: str) -> list[tuple[str, str]]:
    """Paths and descriptions of what breaks the limits. path: of the Struct in its message."""
    found: list[tuple[str, str]] = []
    if struct.ByteSize() > limits.max_bytes:
        # Not looked into any further: that is what the bound is for.
        return [(path, f"must encode to at most {limits.max_bytes} bytes")]
    keys = 0

    def walk_struct(node: Struct, at: str, depth: int) -> None:
        nonlocal keys
        if depth > limits.max_depth:
            found.append((at, f"must nest at most {limits.max_depth} levels"))
            return
        for key, value in node.fields.items():
            keys += 1
            if keys > limits.max_keys:
                return
            if not key or "\x00" in key:
                found.append((at, "keys must not be empty or contain the character NUL"))
            walk_value(value, f"{at}.{key}", depth)

    def walk_value(value: Value, at: str, depth: int) -> None:
        if len(found) >= MAX_VIOLATIONS:
            return
        match value.WhichOneof("kind"):
            case "number_value" if not math.isfinite(value.number_value):
                found.append((at, "must be finite"))
            case "string_value" if "\x00" in value.string_value:
                found.append((at, "must not contain the character NUL"))
            case "struct_value":
                walk_struct(value.struct_value, at, depth + 1)
            case "list_value":
                walk_list(value.list_value, at, depth)
            case None:
                found.append((at, "must have a value"))

    def walk_list(node: ListValue, at: str, depth: int) -> None:
        for index, value in enumerate(node.values):
            # A list of lists is a level as an object is one.
            nested = value.WhichOneof("kind") == "list_value"
            if nested and depth + 1 > limits.max_depth:
                found.append((at, f"must nest at most {limits.max_depth} levels"))
                return
            walk_value(value, f"{at}[{index}]", depth + 1 if nested else depth)

    walk_struct(struct, path, 1)
    if keys > limits.max_keys:
        found.append((path, f"must have at most {limits.max_keys} keys"))
    return found
