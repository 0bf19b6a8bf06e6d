"""What is asked of the recommender and what it answers, free of protobuf and SQL."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from typing import NamedTuple

from recsvc.domain.catalog import Item
from recsvc.domain.filters import Tree
from recsvc.domain.ids import ItemId, SessionId, UserId
from recsvc.domain.users import UserKind

TREND_HALF_LIVES = (timedelta(days=1), timedelta(days=7))
"""The half-lives that trending counters are kept with."""

POPULARITY_HALF_LIFE = timedelta(days=90)
"""That of the counters behind what is popular."""


class Strategy(StrEnum):
    """Where candidates come from."""

    AUTO = "AUTO"
    COLLABORATIVE = "COLLABORATIVE"
    CONTENT = "CONTENT"
    NEIGHBORS = "NEIGHBORS"
    SESSION = "SESSION"
    TRENDING = "TRENDING"
    POPULAR = "POPULAR"
    RECENTLY_VIEWED = "RECENTLY_VIEWED"
    REPEAT = "REPEAT"
    NEW = "NEW"


class Source(StrEnum):
    """A component of the score; its name in `RecommendedItem.source`."""

    COLLABORATIVE = "collaborative"
    NEIGHBORS = "neighbors"
    SEQUENCE = "sequence"
    CONTENT = "content"
    POPULAR = "popular"
    TRENDING = "trending"
    RECENT = "recent"
    REPEAT = "repeat"
    NEW = "new"


class SimilarityBasis(StrEnum):
    """What makes items similar."""

    AUTO = "AUTO"
    BEHAVIOR = "BEHAVIOR"
    CONTENT = "CONTENT"
    BOUGHT_TOGETHER = "BOUGHT_TOGETHER"


class DegradationLevel(IntEnum):
    """Whether an answer is less than it could be."""

    NONE = 1
    STALE = 2
    FALLBACK = 3
    PARTIAL = 4


@dataclass(frozen=True, slots=True)
class Degradation:
    """How and why an answer is less than it could be."""

    level: DegradationLevel = DegradationLevel.NONE
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Boost:
    """Scores of items that match are multiplied by the factor."""

    filter: Tree
    factor: float


@dataclass(frozen=True, slots=True)
class Diversity:
    """How different the items of a list shall be; trade_off is MMR's lambda, 1 for relevance alone."""

    trade_off: float = 1.0
    max_per_category: int = 0
    category_field: str = "categories"


@dataclass(frozen=True, slots=True)
class RecommendQuery:
    """A request of Recommend with the tenant's defaults and its placement filled in."""

    user_id: UserId | None = None
    session_id: SessionId | None = None
    session_item_ids: tuple[ItemId, ...] = ()
    count: int = 10
    strategy: Strategy = Strategy.AUTO
    filter: Tree | None = None
    diversity: Diversity = Diversity()
    novelty: float = 0.0
    exploration: float = 0.0
    boosts: tuple[Boost, ...] = ()
    exclude_item_ids: tuple[ItemId, ...] = ()
    include_seen: bool = False
    explain: bool = False
    item_fields: tuple[str, ...] = ()
    max_staleness: timedelta | None = None
    placement: str = ""
    time: datetime | None = None
    trend_half_life: timedelta = TREND_HALF_LIVES[0]

    def subject(self) -> tuple[UserKind, str] | None:
        """For whom the list is; None for anybody."""
        if self.user_id is not None:
            return UserKind.USER, self.user_id
        return (UserKind.SESSION, self.session_id) if self.session_id is not None else None

    def fingerprint(self) -> str:
        """A digest that two queries share only if they ask for the same list; max_staleness is no part of it."""
        parts = "\x1f".join(
            f"{item.name}={_canonical(getattr(self, item.name))}"
            for item in fields(self)
            if item.name not in ("max_staleness", "placement")
        )
        return hashlib.sha256(parts.encode()).hexdigest()[:32]


def _canonical(value: object) -> str:
    if isinstance(value, tuple):
        return "(" + "\x1e".join(map(_canonical, value)) + ")"
    if isinstance(value, Boost):
        return f"{value.factor!r}*{value.filter}"
    return str(value)


class ReasonKind(StrEnum):
    """The typed reasons of the contract."""

    SIMILAR_TO_INTERACTED = "similar_to_interacted"
    POPULAR_IN_CATEGORY = "popular_in_category"
    FREQUENTLY_BOUGHT_TOGETHER = "frequently_bought_together"
    MATCHES_ATTRIBUTES = "matches_attributes"
    TRENDING = "trending"
    BOOSTED = "boosted"


@dataclass(frozen=True, slots=True)
class Reason:
    """One part of a score. strength: similarity, popularity, lift or factor, as the kind has it."""

    kind: ReasonKind
    contribution: float
    item_id: ItemId | None = None
    strength: float = 0.0
    names: tuple[str, ...] = ()


class RecommendedItem(NamedTuple):
    """One item of a list.

    A tuple, since a frozen dataclass takes three times as long to make, and every list is made of these.
    """

    item_id: ItemId
    score: float
    source: Source
    reasons: tuple[Reason, ...] = ()
    item: Item | None = None


@dataclass(frozen=True, slots=True)
class Recommendations:
    """A ranked list, best first, and how it came about."""

    items: tuple[RecommendedItem, ...]
    strategy: Strategy
    model_id: str
    generate_time: datetime
    degradation: Degradation = Degradation()
    recommendation_id: str = ""


@dataclass(frozen=True, slots=True)
class SimilarItemsQuery:
    """A request of SimilarItems."""

    item_id: ItemId
    by: SimilarityBasis = SimilarityBasis.AUTO
    count: int = 10
    filter: Tree | None = None
    diversity: Diversity = Diversity()
    explain: bool = False
    item_fields: tuple[str, ...] = ()
    exclude_item_ids: tuple[ItemId, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class RankQuery:
    """A request of RankItems."""

    item_ids: tuple[ItemId, ...]
    user_id: UserId | None = None
    session_id: SessionId | None = None
    session_item_ids: tuple[ItemId, ...] = ()
    boosts: tuple[Boost, ...] = ()
    explain: bool = False


@dataclass(frozen=True, slots=True)
class SimilarUsersQuery:
    """A request of SimilarUsers; the filter is over users."""

    user_id: UserId
    count: int = 10
    filter: Tree | None = None


@dataclass(frozen=True, slots=True)
class SimilarUser:
    """One similar user; similarity: cosine of the two users' vectors, −1 to 1."""

    user_id: UserId
    similarity: float
