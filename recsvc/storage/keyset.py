"""Keyset paging: "what comes after this row" as a condition, so that a page stays right while others write.

NULLs stand last whatever the direction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from psycopg import sql

from recsvc.domain.order_by import Order


def order_clause(orders: Sequence[Order], columns: Mapping[str, str]) -> sql.Composable:
    """What stands behind ORDER BY."""
    return sql.SQL(", ").join(
        sql.SQL("{} {}").format(
            _column(order, columns), sql.SQL("DESC NULLS LAST" if order.descending else "ASC NULLS LAST")
        )
        for order in orders
    )


def after_clause(
    orders: Sequence[Order], columns: Mapping[str, str], last: Sequence[object] | None
) -> tuple[sql.Composable, dict[str, object]]:
    """The condition that a row comes after the one whose order values are `last`, and its parameters.

    last: one value per order, the last of them of a unique column; None for the first page.
    """
    if last is None:
        return sql.SQL("true"), {}
    params = {f"after_{position}": value for position, value in enumerate(last)}
    alternatives: list[sql.Composable] = []
    for position, order in enumerate(orders):
        # Equal up to here, then beyond the last row's value.
        conditions = [
            _equals(_column(before, columns), index, last[index]) for index, before in enumerate(orders[:position])
        ]
        is_unique = position == len(orders) - 1
        beyond = _beyond(_column(order, columns), position, last[position], order.descending, is_unique)
        if beyond is not None:
            alternatives.append(sql.SQL("({})").format(sql.SQL(" AND ").join([*conditions, beyond])))
    return sql.SQL("({})").format(sql.SQL(" OR ").join(alternatives)), params


def _equals(column: sql.Composable, position: int, value: object) -> sql.Composable:
    if value is None:
        return sql.SQL("{} IS NULL").format(column)
    return sql.SQL("{} = {}").format(column, sql.Placeholder(f"after_{position}"))


def _beyond(
    column: sql.Composable, position: int, value: object, descending: bool, is_unique: bool
) -> sql.Composable | None:
    if value is None:
        return None  # nothing comes after NULL
    sign = sql.SQL("<" if descending else ">")
    if is_unique:
        # Never NULL; without the alternative an index on the column leads straight to the row.
        return sql.SQL("{} {} {}").format(column, sign, sql.Placeholder(f"after_{position}"))
    return sql.SQL("({0} {1} {2} OR {0} IS NULL)").format(column, sign, sql.Placeholder(f"after_{position}"))


def _column(order: Order, columns: Mapping[str, str]) -> sql.SQL:
    return sql.SQL(columns[order.field])
