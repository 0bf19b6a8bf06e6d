"""A generated catalogue: what each item is, how popular it is and whom it pleases.

Tastes are points in a small space. An item's tags follow from where it lies, so content tells something about
behaviour, and a model can learn either from the other. Only the facts that behaviour needs are kept, as arrays; the
texts are made while the items stream. How people behave is `seed_behaviour`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from recsvc.datasets.seed_words import (
    ADJECTIVES,
    DESCRIPTIONS,
    GENRES,
    KINDS,
    LANGUAGES,
    NAMES,
    PLACES,
    TITLES,
)
from recsvc.domain.catalog import Item
from recsvc.domain.ids import ItemId

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

TASTE_DIMENSION = 8
HISTORY = timedelta(days=90)
"""How far back behaviour reaches; all but the new items are older."""
NEW_FOR = timedelta(days=7)
NEW_SHARE = 0.05
"""The share of items, the last ones by id, that were published within NEW_FOR."""
ZIPF_EXPONENT = 0.9
ZIPF_OFFSET = 3.0
"""The k-th most popular item draws (k + offset)^-exponent: the offset keeps the very first from drowning the rest."""
_ODD_SHARE = 0.0035
"""The share of items that are unavailable, and likewise hidden, and expired: about 1 % together."""


def generator(seed: int, *stream: int) -> np.random.Generator:
    """The random numbers of one purpose: independent of how many any other purpose draws."""
    return np.random.default_rng([seed, *stream])


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The facts about `count` items, by position. Times are milliseconds since 1970.

    popularity: weight of being come across; 0 for new items. taste: (count, TASTE_DIMENSION). publish_ms of the new
    items, which are the last `new_count`, ascends. expire_ms: far in the future for what does not expire.
    """

    seed: int
    count: int
    new_count: int
    genre: Ints
    taste: Floats
    genre_taste: Floats
    tag_taste: Floats
    popularity: NDArray[np.float64]
    price: NDArray[np.float64]
    publish_ms: Ints
    expire_ms: Ints
    unavailable: frozenset[int]
    hidden: frozenset[int]

    def items(self) -> Iterator[Item]:
        """The items in the order of their ids."""
        rng = generator(self.seed, 2)
        taken: dict[str, int] = {}
        for position in range(self.count):
            yield self._item(position, rng, taken)

    def _item(self, position: int, rng: np.random.Generator, taken: dict[str, int]) -> Item:
        genre = GENRES[self.genre[position]]
        closeness = self.tag_taste[self.genre[position]] @ self.taste[position]
        nearest = np.argsort(-(closeness + 0.4 * rng.standard_normal(len(genre.tags))), kind="stable")
        tags = tuple(genre.tags[tag] for tag in nearest[: rng.integers(2, 4)])
        words = _Words(rng, genre.nouns)
        title = _unique(words.fill(_one(rng, TITLES)), taken)
        kind, language = _weighted(rng, KINDS), _weighted(rng, LANGUAGES)
        published = _moment(int(self.publish_ms[position]))
        attributes: dict[str, object] = {
            "year": float(published.year - int(rng.exponential(9.0))),
            "price": float(self.price[position]),
            "language": language,
        }
        if kind == "book":
            attributes["pages"] = float(rng.integers(90, 720))
        else:
            low, high = {"film": (75, 170), "series": (160, 620), "audiobook": (180, 960)}[kind]
            attributes["duration_minutes"] = float(rng.integers(low, high))
        second = (GENRES[rng.integers(len(GENRES))].name,) if rng.random() < 0.25 else ()
        description = words.fill(_one(rng, DESCRIPTIONS), genre=genre.name.lower(), kind=kind, tags=tags)
        expire_ms = int(self.expire_ms[position])
        return Item(
            item_id=item_id(position),
            item_type=kind,
            title=title,
            description=description,
            categories=tuple(dict.fromkeys((genre.name, *second))),
            tags=tags,
            attributes=attributes,
            available=position not in self.unavailable,
            hidden=position in self.hidden,
            publish_time=published,
            expire_time=None if expire_ms == NEVER_MS else _moment(expire_ms),
        )


NEVER_MS = int(np.iinfo(np.int64).max)


def item_id(position: int) -> ItemId:
    """The id of the item at this position."""
    return ItemId(f"item-{position:06d}")


def catalogue(count: int, seed: int, now: datetime) -> Catalogue:
    """A catalogue of `count` items as it stands at `now`."""
    rng = generator(seed, 1)
    now_ms, day_ms = int(now.timestamp() * 1000), 86_400_000
    new_count = round(NEW_SHARE * count) if count >= 20 else 0
    old_count = count - new_count
    genre_share = 1.0 / (np.arange(len(GENRES)) + 6.0)
    rng.shuffle(genre_share)
    genre = rng.choice(len(GENRES), size=count, p=genre_share / genre_share.sum())
    popularity = np.zeros(count)
    popularity[rng.permutation(old_count)] = (np.arange(old_count) + 1.0 + ZIPF_OFFSET) ** -ZIPF_EXPONENT
    age_days = rng.uniform(HISTORY.days + 1, 1500.0, size=old_count)
    new_age = np.sort(rng.uniform(0.02, NEW_FOR.days - 0.01, size=new_count))[::-1]
    publish_ms = now_ms - (np.concatenate([age_days, new_age]) * day_ms).astype(np.int64)
    odd_count = max(1, round(_ODD_SHARE * count)) if count >= 50 else 0
    odd = rng.permutation(old_count)[: 3 * odd_count].reshape(3, odd_count)
    expire_ms = np.full(count, NEVER_MS, dtype=np.int64)
    expire_ms[odd[2]] = now_ms - (rng.uniform(0.05, 20.0, size=odd_count) * day_ms).astype(np.int64)
    return Catalogue(
        seed=seed,
        count=count,
        new_count=new_count,
        genre=genre.astype(np.int64),
        taste=rng.standard_normal((count, TASTE_DIMENSION), dtype=np.float32),
        genre_taste=rng.standard_normal((len(GENRES), TASTE_DIMENSION), dtype=np.float32),
        tag_taste=rng.standard_normal((len(GENRES), len(GENRES[0].tags), TASTE_DIMENSION), dtype=np.float32),
        popularity=popularity,
        price=np.floor(np.exp(rng.normal(2.4, 0.5, size=count))) + 0.99,
        publish_ms=publish_ms,
        expire_ms=expire_ms,
        unavailable=frozenset(odd[0].tolist()),
        hidden=frozenset(odd[1].tolist()),
    )


class _Words:
    """Fills sentences; the words are drawn anew for each."""

    def __init__(self, rng: np.random.Generator, nouns: Sequence[str]) -> None:
        self._rng = rng
        self._nouns = nouns

    def fill(self, sentence: str, genre: str = "", kind: str = "", tags: Sequence[str] = ("", "")) -> str:
        noun = _one(self._rng, self._nouns)
        return sentence.format(
            noun=noun,
            a_noun=_with_article(noun),
            plural=_plural(noun),
            adjective=_one(self._rng, ADJECTIVES),
            place=_one(self._rng, PLACES),
            name=_one(self._rng, NAMES),
            a_genre=_with_article(genre),
            kind=kind,
            first=tags[0],
            second=tags[1],
        )


def _with_article(noun: str) -> str:
    return f"An {noun}" if noun[:1].lower() in ("a", "e", "i", "o", "u") else f"A {noun}"


def _plural(noun: str) -> str:
    if noun.endswith(("s", "sh", "ch", "x")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    if noun.endswith("lf"):
        return f"{noun[:-1]}ves"
    return f"{noun}s"


def _unique(title: str, taken: dict[str, int]) -> str:
    """The title itself the first time, then its sequels."""
    part = taken[title] = taken.get(title, 0) + 1
    return title if part == 1 else f"{title}, Part {part}"


def _one(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _weighted(rng: np.random.Generator, choices: Sequence[tuple[str, float]]) -> str:
    mark = rng.random()
    for choice, share in choices:
        mark -= share
        if mark < 0:
            return choice
    return choices[-1][0]


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
