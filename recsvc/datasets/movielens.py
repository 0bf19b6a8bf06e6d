"""MovieLens in the three layouts it is met in: GroupLens' 1998 files, GroupLens' csv files, and atomic files.

- `u.data u.item u.user u.genre` (ml-100k), with the ready splits `ua.base`, `ua.test`, …;
- `ratings.csv movies.csv tags.csv` (ml-latest-small, ml-latest, ml-20m, ml-25m, ml-32m);
- `*.inter *.item *.user`, tab-separated with typed headers, as the `recbole` wheel carries ml-100k.

Each may lie in a folder or in a zip archive; a wheel is a zip archive. Ratings become events of type `rate`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from recsvc.datasets.files import Folder, TextFile
from recsvc.datasets.ids import event_id
from recsvc.datasets.rows import Row, bare_rows, headed_rows
from recsvc.datasets.source import Dataset, DatasetError
from recsvc.domain.catalog import Item
from recsvc.domain.events import Event
from recsvc.domain.ids import ItemId, UserId
from recsvc.domain.text import name_fault
from recsvc.domain.users import User

ITEM_TYPE = "movie"
MAX_TAGS = 200
"""How many tags of a film are kept, the most used first: as many as an item may have."""

_YEAR = re.compile(r"\((\d{4})(?:\s*[-–]\s*(?:\d{4})?)?\)\s*$")
_NO_GENRES = "(no genres listed)"
_RATING_COLUMNS = ("user", "item", "rating", "time")


def movielens(path: Path, ratings_file: str | None = None) -> Dataset:
    """MovieLens at `path`, a folder or a zip archive.

    ratings_file: which file holds the ratings, when not the layout's own (`ua.base` instead of `u.data`).
    """
    folder = Folder(path)
    if "u.item" in folder:
        return _bare(folder, ratings_file or "u.data")
    if "movies.csv" in folder:
        return _csv(folder, ratings_file or "ratings.csv")
    if inter := folder.with_suffix(".inter"):
        return _atomic(folder, inter.removesuffix(".inter"), ratings_file or inter)
    raise DatasetError(path, None, "holds no MovieLens files (u.item, movies.csv or *.inter)")


def _rating(row: Row, user: str, item: str, rating: str, time: str) -> Event:
    user_id, item_id, event_time = row.id(user), row.id(item), row.epoch(time)
    return Event(
        event_id=event_id("ml", user_id, item_id, int(event_time.timestamp())),
        event_type="rate",
        item_id=ItemId(item_id),
        event_time=event_time,
        user_id=UserId(user_id),
        value=row.number(rating),
    )


def _year_attribute(title: str) -> dict[str, object]:
    found = _YEAR.search(title)
    return {"year": float(found[1])} if found else {}


def _person(row: Row, user: str) -> User:
    attributes: dict[str, object] = {column: row.text(column) for column in ("gender", "occupation")}
    return User(UserId(row.id(user)), {"age": row.number("age"), **attributes})


def _bare(folder: Folder, ratings_file: str) -> Dataset:
    films, people = folder.file("u.item", "latin-1"), folder.file("u.user", "latin-1")
    ratings, genre_names = folder.file(ratings_file), folder.file("u.genre", "latin-1")

    def items() -> Iterator[Item]:
        genres = [row.text("genre") for row in bare_rows(genre_names, ("genre", "number"), "|")]
        facts = ("item", "title", "released", "video", "link")
        for row in bare_rows(films, (*facts, *(f"genre {genre}" for genre in genres)), "|"):
            title = row.text("title")
            yield Item(
                item_id=ItemId(row.id("item")),
                item_type=ITEM_TYPE,
                title=title,
                # The genre "unknown" says that nothing is known.
                categories=tuple(g for g in genres if row.text(f"genre {g}") == "1" and g != "unknown"),
                attributes=_year_attribute(title),
            )

    def users() -> Iterator[User]:
        for row in bare_rows(people, ("user", "age", "gender", "occupation", "zip"), "|"):
            yield _person(row, "user")

    def events() -> Iterator[Event]:
        for row in bare_rows(ratings, _RATING_COLUMNS, "\t"):
            yield _rating(row, *_RATING_COLUMNS)

    return Dataset("movielens", items, users, events, films.line_count(), ratings.line_count())


def _csv(folder: Folder, ratings_file: str) -> Dataset:
    films, ratings = folder.file("movies.csv"), folder.file(ratings_file)
    labels = folder.file("tags.csv") if "tags.csv" in folder else None
    columns = ("userId", "movieId", "rating", "timestamp")

    def items() -> Iterator[Item]:
        tags = _tags(labels) if labels else {}
        for row in headed_rows(films, ("movieId", "title", "genres")):
            item_id, title = row.id("movieId"), row.text("title")
            yield Item(
                item_id=ItemId(item_id),
                item_type=ITEM_TYPE,
                title=title,
                categories=tuple(g for g in row.text("genres").split("|") if g and g != _NO_GENRES),
                tags=tags.get(item_id, ()),
                attributes=_year_attribute(title),
            )

    def users() -> Iterator[User]:
        seen: set[str] = set()
        for row in headed_rows(ratings, columns):
            if (user_id := row.id("userId")) not in seen:
                seen.add(user_id)
                yield User(UserId(user_id))

    def events() -> Iterator[Event]:
        for row in headed_rows(ratings, columns):
            yield _rating(row, *columns)

    return Dataset("movielens", items, users, events, films.row_count(), ratings.row_count())


def _tags(file: TextFile) -> dict[str, tuple[str, ...]]:
    """The tags that people gave to each film, in lower case, the most used first."""
    used: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in headed_rows(file, ("movieId", "tag")):
        tag = row.text("tag").lower()
        # People typed whole sentences and worse; what cannot be a tag is no error of the file.
        if name_fault(tag) is None:
            used[row.id("movieId")][tag] += 1
    return {
        item_id: tuple(sorted(counts, key=lambda tag: (-counts[tag], tag))[:MAX_TAGS])
        for item_id, counts in used.items()
    }


def _atomic(folder: Folder, stem: str, ratings_file: str) -> Dataset:
    films, people, ratings = folder.file(f"{stem}.item"), folder.file(f"{stem}.user"), folder.file(ratings_file)
    columns = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")

    def items() -> Iterator[Item]:
        required = ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq")
        for row in headed_rows(films, required, "\t", quoted=False):
            # The year is a token: empty, or "V" for what went straight to video.
            year = row.text("release_year:token")
            yield Item(
                item_id=ItemId(row.id("item_id:token")),
                item_type=ITEM_TYPE,
                title=row.text("movie_title:token_seq"),
                categories=tuple(g for g in row.text("class:token_seq").split() if g != "unknown"),
                attributes={"year": float(year)} if year.isdecimal() else {},
            )

    def users() -> Iterator[User]:
        wanted = ("user_id:token", "age:token", "gender:token", "occupation:token")
        for row in headed_rows(people, wanted, "\t", quoted=False):
            row.cells = {column.partition(":")[0]: cell for column, cell in row.cells.items()}
            yield _person(row, "user_id")

    def events() -> Iterator[Event]:
        for row in headed_rows(ratings, columns, "\t", quoted=False):
            yield _rating(row, *columns)

    return Dataset("movielens", items, users, events, films.row_count(), ratings.row_count())
