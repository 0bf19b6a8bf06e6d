"""Pages of lists: from page_size and page_token to a question, and from what was found to a page and its next token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from recsvc.domain.filters import Tree
from recsvc.domain.order_by import Order
from recsvc.domain.paging import DEFAULT_PAGE_SIZE, PageTokens, PageValue
from recsvc.storage.listing import PageQuestion

_Row = TypeVar("_Row")


class PageRequest(Protocol):
    """What all list requests have."""

    page_size: int
    page_token: str


async def filtered_page(
    tokens: PageTokens,
    list_name: str,
    request: PageRequest,
    tree: Tree | None,
    orders: Sequence[Order],
    fetch: Callable[[PageQuestion], Awaitable[Sequence[_Row]]],
    values: Callable[[_Row], Sequence[PageValue]],
) -> tuple[Sequence[_Row], str]:
    """A page of a filtered and ordered list, and the token of the next one.

    list_name: tenant and kind; filter and order are bound to the token besides. values: the order values of a row.
    """
    # The text of the tree, never the tree: trees that compare equal may mean different things (1 and true).
    bound = f"{list_name}/{tree}/{orders}"
    limit = request.page_size or DEFAULT_PAGE_SIZE
    after = tokens.decode(bound, request.page_token)
    found = await fetch(PageQuestion(tree, orders, after, limit + 1, datetime.now(UTC)))
    if len(found) <= limit:
        return found, ""
    return found[:limit], tokens.encode(bound, values(found[limit - 1]))


async def page_by_key(
    tokens: PageTokens,
    list_name: str,
    request: PageRequest,
    fetch: Callable[[PageValue, int], Awaitable[Sequence[_Row]]],
    key: Callable[[_Row], PageValue],
) -> tuple[Sequence[_Row], str]:
    """A page of a list that has one order, by one key. fetch: rows after a key (None for the first page)."""
    limit = request.page_size or DEFAULT_PAGE_SIZE
    after = tokens.decode(list_name, request.page_token)
    found = await fetch(after[0] if after else None, limit + 1)
    if len(found) <= limit:
        return found, ""
    return found[:limit], tokens.encode(list_name, [key(found[limit - 1])])
