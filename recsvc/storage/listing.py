"""A page of anything that is listed: filter, keyset and order put into a statement, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import DictRow

from recsvc.domain.filters import Tree
from recsvc.domain.ids import TenantKey
from recsvc.domain.order_by import Order
from recsvc.domain.paging import PageValue
from recsvc.storage.database import Database
from recsvc.storage.filter_sql import Columns, compile_filter
from recsvc.storage.keyset import after_clause, order_clause
from recsvc.storage.statements import compose


@dataclass(frozen=True, slots=True)
class PageQuestion:
    """Which rows are wanted: those that match, in this order, after the row with these order values."""

    tree: Tree | None
    orders: Sequence[Order]
    after: Sequence[PageValue] | None
    limit: int
    now: datetime


async def fetch_page(
    database: Database,
    tenant_key: TenantKey,
    statement: str,
    columns: Columns,
    question: PageQuestion,
    *,
    order_columns: Columns | None = None,
) -> list[DictRow]:
    """The rows of a page.

    statement: with the placeholders {filter}, {after} and {order}, and a limit parameter. order_columns: what rows are
    ordered by, where that is not the column itself.
    """
    ordered = order_columns or columns
    condition = compile_filter(question.tree, columns, question.now)
    beyond, params = after_clause(question.orders, ordered, question.after)
    query = compose(statement, filter=condition.condition, after=beyond, order=order_clause(question.orders, ordered))
    return await database.fetch_all(
        tenant_key, query, {"tenant": tenant_key, "limit": question.limit, **condition.params, **params}
    )
