"""The `order_by` of lists (AIP-132): comma-separated fields, each with an optional " desc"."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from recsvc.domain.errors import InvalidField


@dataclass(frozen=True, slots=True)
class Order:
    """One field of an order."""

    field: str
    descending: bool = False


def parse_order_by(text: str, allowed: Collection[str], default: tuple[Order, ...], unique: str) -> tuple[Order, ...]:
    """Parse an order; the unique field is added at its end, so that the order is total.

    Raises InvalidField (order_by) for an unknown or repeated field or a word other than asc and desc.
    """
    if not text.strip():
        return _total(default, unique)
    orders: list[Order] = []
    for part in text.split(","):
        words = part.split()
        if not 1 <= len(words) <= 2 or (len(words) == 2 and words[1].lower() not in ("asc", "desc")):
            raise InvalidField("order_by", f"{part.strip()!r} is not '<field>' or '<field> desc'")
        if words[0] not in allowed:
            raise InvalidField("order_by", f"cannot order by {words[0]!r}; there are {', '.join(sorted(allowed))}")
        if any(order.field == words[0] for order in orders):
            raise InvalidField("order_by", f"{words[0]!r} stands twice")
        orders.append(Order(words[0], len(words) == 2 and words[1].lower() == "desc"))
    return _total(tuple(orders), unique)


def _total(orders: tuple[Order, ...], unique: str) -> tuple[Order, ...]:
    for position, order in enumerate(orders):
        if order.field == unique:
            # What stands behind a unique field decides nothing.
            return orders[: position + 1]
    return (*orders, Order(unique))
