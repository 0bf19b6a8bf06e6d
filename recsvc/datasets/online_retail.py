"""Online Retail (UCI): the invoice lines of a British gift shop, one year.

Lines with a customer and a positive quantity become purchases; returns and lines without a customer are passed over, as
are charges (postage, fees, corrections), which say nothing about taste: they are hidden items without events.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from recsvc.datasets.files import only_file
from recsvc.datasets.ids import event_id
from recsvc.datasets.rows import Row, headed_rows
from recsvc.datasets.source import Dataset
from recsvc.domain.catalog import Item
from recsvc.domain.events import Event
from recsvc.domain.ids import ItemId, SessionId, UserId
from recsvc.domain.users import User

FILE = "online_retail.csv"
CHARGES = frozenset({"AMAZONFEE", "B", "BANK CHARGES", "C2", "CRUK", "D", "DOT", "M", "POST", "S", "m"})
"""Stock codes that are no goods: fees, bad debt, carriage, commission, discount, postage, manual entries, samples."""

_COLUMNS = ("InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country")


def online_retail(path: Path) -> Dataset:
    """Online Retail: `path` is the csv file (gzipped or not) or its folder."""
    file = only_file(path, FILE)

    def items() -> Iterator[Item]:
        titles: defaultdict[str, Counter[str]] = defaultdict(Counter)
        prices: dict[str, float] = {}
        for row in headed_rows(file, _COLUMNS):
            code, title, price = row.id("StockCode"), row.text("Description"), row.number("UnitPrice")
            names = titles[code]
            # Remarks of the stock keepers ("wrongly coded", "ebay") stand in the same column, but never on a sale.
            if title and row.text("CustomerID"):
                names[title] += 1
            elif title:
                names.setdefault(title, 0)
            if price > 0:
                prices[code] = price
        for code, names in titles.items():
            yield Item(
                item_id=ItemId(code),
                item_type="product",
                title=max(names, key=lambda name: names[name], default=""),
                attributes={"price": prices[code]} if code in prices else {},
                hidden=code in CHARGES,
            )

    def users() -> Iterator[User]:
        seen: set[str] = set()
        for row in headed_rows(file, _COLUMNS):
            if row.text("CustomerID") and (user_id := _customer(row)) not in seen:
                seen.add(user_id)
                yield User(UserId(user_id), {"country": row.text("Country")})

    def events() -> Iterator[Event]:
        for row in headed_rows(file, _COLUMNS):
            quantity, code = row.number("Quantity"), row.id("StockCode")
            if quantity <= 0 or code in CHARGES or not row.text("CustomerID"):
                continue
            invoice = row.id("InvoiceNo")
            yield Event(
                # One invoice can have the same article on two lines, so the line tells them apart.
                event_id=event_id("or", invoice, row.line),
                event_type="purchase",
                item_id=ItemId(code),
                event_time=row.time("InvoiceDate"),
                user_id=UserId(_customer(row)),
                session_id=SessionId(invoice),
                value=round(quantity * row.number("UnitPrice"), 2),
                properties={"quantity": quantity},
            )

    return Dataset("online-retail", items, users, events)


def _customer(row: Row) -> str:
    """The customer's number, which a spreadsheet once turned into `17850.0`."""
    return row.id("CustomerID").removesuffix(".0")
