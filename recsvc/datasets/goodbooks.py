"""goodbooks-10k: ratings of ten thousand books, without times.

`ratings.csv` names a book by the `id` of `books.csv` and calls it `book_id`; the column `book_id` of `books.csv` is
another number. Ratings become events of type `rate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from recsvc.datasets.files import Folder
from recsvc.datasets.ids import event_id
from recsvc.datasets.rows import headed_rows
from recsvc.datasets.source import Dataset
from recsvc.domain.catalog import Item
from recsvc.domain.events import Event
from recsvc.domain.ids import ItemId, UserId
from recsvc.domain.users import User

RATING_TIME = datetime(2017, 9, 1, tzinfo=UTC)
"""The time of every rating: the files tell none, and this is about when they were collected."""

_BOOK = ("id", "title", "authors", "original_publication_year", "original_title", "language_code")


def goodbooks(path: Path) -> Dataset:
    """goodbooks-10k at `path`, a folder or a zip archive with `books.csv` and `ratings.csv`."""
    folder = Folder(path)
    books, ratings = folder.file("books.csv"), folder.file("ratings.csv")

    def items() -> Iterator[Item]:
        for row in headed_rows(books, _BOOK):
            attributes: dict[str, object] = {}
            if authors := [name for author in row.text("authors").split(",") if (name := author.strip())]:
                attributes["authors"] = authors
            if row.text("original_publication_year"):
                attributes["year"] = row.number("original_publication_year")
            if language := row.text("language_code"):
                attributes["language"] = language
            yield Item(
                item_id=ItemId(row.id("id")),
                item_type="book",
                title=row.text("title") or row.text("original_title"),
                attributes=attributes,
            )

    def users() -> Iterator[User]:
        seen: set[str] = set()
        for row in headed_rows(ratings, ("user_id",)):
            if (user_id := row.id("user_id")) not in seen:
                seen.add(user_id)
                yield User(UserId(user_id))

    def events() -> Iterator[Event]:
        # A user can stand twice at one book, with two ratings; the first one counts. The ratings of a book stand
        # together, so that remembering one book's users is enough.
        book, readers = "", set[str]()
        for row in headed_rows(ratings, ("book_id", "user_id", "rating")):
            user_id, item_id = row.id("user_id"), row.id("book_id")
            if item_id != book:
                book, readers = item_id, set()
            if user_id in readers:
                continue
            readers.add(user_id)
            yield Event(
                event_id=event_id("gb", user_id, item_id),
                event_type="rate",
                item_id=ItemId(item_id),
                event_time=RATING_TIME,
                user_id=UserId(user_id),
                value=row.number("rating"),
            )

    return Dataset("goodbooks", items, users, events, books.row_count(), ratings.row_count())
