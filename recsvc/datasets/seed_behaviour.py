"""Generated behaviour: who comes when, what they meet, and what they do with it.

A user has a point in the space of tastes. Visits come in sessions with a daily rhythm; each visit meets a few items of
one genre, by popularity, and opens the one that fits best, more or less; the better it fits, the further things go
(view, click, like, add_to_cart, purchase, rate). Users are made block by block with arrays, so that memory is bounded
by a block and a million events take seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from recsvc.datasets.ids import event_id
from recsvc.datasets.seed_catalogue import (
    HISTORY,
    NEW_FOR,
    TASTE_DIMENSION,
    Catalogue,
    Floats,
    Ints,
    generator,
    item_id,
)
from recsvc.datasets.seed_words import COUNTRIES, GENRES
from recsvc.domain.events import Event
from recsvc.domain.ids import ItemId, SessionId, UserId
from recsvc.domain.users import User

Flags = NDArray[np.bool_]

STEPS = ("view", "click", "like", "dislike", "add_to_cart", "purchase", "rate")
"""What can follow upon a visit, in the order in which it happens."""
DEVICES = ("mobile", "desktop", "tablet")

_EVENTS_PER_VISIT = 2.1
"""Measured over tastes and catalogue sizes; turns the wanted number of events into a number of visits."""
_USERS_PER_BLOCK = 256
_VISITS_PER_BLOCK = 200_000
_CANDIDATES = 8
"""How many items a visit chooses from. More would make taste count for more and popularity for less."""
_TASTE_STRENGTH = 1.6
_GENRE_STRENGTH = 1.4
_DAY_MS = 86_400_000
_MILLISECOND = timedelta(milliseconds=1)
_VISIT_MS = 100_000
"""The least time between two visits of a session; longer than all steps of one visit together."""
_STEP_MS = 13_000
# People are awake in the morning, busy at noon and on the sofa in the evening.
_HOURS = np.array([2, 1, 1, 1, 1, 2, 4, 7, 8, 7, 6, 6, 8, 7, 6, 6, 7, 8, 10, 13, 15, 14, 9, 5], dtype=np.float64)


def user_id(position: int) -> UserId:
    """The id of the user at this position."""
    return UserId(f"user-{position:06d}")


def users(count: int, seed: int) -> Iterator[User]:
    """The users, with what a shop would know of them."""
    rng = generator(seed, 3)
    countries, shares = zip(*COUNTRIES, strict=True)
    marks = np.cumsum(shares)
    for position in range(count):
        country = countries[min(int(np.searchsorted(marks, rng.random(), side="right")), len(countries) - 1)]
        age = float(np.clip(round(rng.normal(39, 14)), 16, 90))
        labels = tuple(label for label, share in (("newsletter", 0.4), ("premium", 0.12)) if rng.random() < share)
        yield User(user_id(position), {"country": country, "age": age}, labels)


class Behaviour:
    """The events of `count` users with a catalogue, up to `now`."""

    def __init__(self, items: Catalogue, count: int, events_per_user: float, now: datetime) -> None:
        self._items = items
        self._count = count
        self._visits_per_user = events_per_user / _EVENTS_PER_VISIT
        self._now_ms = int(now.timestamp() * 1000)
        self._by_genre = np.argsort(items.genre, kind="stable")
        bounds = np.searchsorted(items.genre[self._by_genre], np.arange(len(GENRES) + 1))
        self._first, self._after = bounds[:-1], bounds[1:]
        self._cumulative = np.concatenate([[0.0], np.cumsum(items.popularity[self._by_genre])])
        # Every other new item has not been noticed by anybody yet.
        self._noticed = np.arange(items.count - items.new_count, items.count, 2)

    def events(self) -> Iterator[Event]:
        """All events, user by user, each user's in the order of time."""
        if not self._items.popularity.any():
            return
        item_ids = [item_id(position) for position in range(self._items.count)]
        block = max(1, min(_USERS_PER_BLOCK, int(_VISITS_PER_BLOCK / max(self._visits_per_user, 1.0))))
        for first in range(0, self._count, block):
            rng = generator(self._items.seed, 4, first)
            steps = self._steps(rng, min(block, self._count - first))
            yield from _events(steps, first, item_ids, self._items)

    def _steps(self, rng: np.random.Generator, count: int) -> _Steps:
        """What a block of `count` users did."""
        taste = rng.standard_normal((count, TASTE_DIMENSION), dtype=np.float32)
        activity = rng.lognormal(-0.32, 0.8, size=count)  # mean 1; a few users do most
        visits = rng.poisson(self._visits_per_user * activity)
        user = np.repeat(np.arange(count), visits)
        session, time_ms = self._sessions(rng, user, visits)
        genre = self._genres(rng, taste, user, session)
        item, fit = self._choices(rng, taste, user, genre, time_ms)
        did = _funnel(rng, fit)
        did[item < 0] = False
        visit, step = np.nonzero(did)
        step_ms = time_ms[visit] + step * _STEP_MS + rng.integers(0, 10_000, size=visit.size)
        # Sessions of one user can overlap; their events then mingle, but stay in order.
        order = np.lexsort((step_ms, user[visit]))
        visit, step = visit[order], step[order]
        device = np.searchsorted([0.55, 0.88], rng.random(int(session[-1]) + 1 if session.size else 0))
        stars = np.clip(np.round(2 * (3.3 + 0.7 * fit + rng.normal(0, 0.6, size=fit.size))) / 2, 0.5, 5.0)
        return _Steps(
            user[visit], session[visit], item[visit], step, step_ms[order], device[session[visit]], stars[visit]
        )

    def _sessions(self, rng: np.random.Generator, user: Ints, visits: Ints) -> tuple[Ints, Ints]:
        """For every visit, its session (numbered through the block) and its time."""
        starts = rng.random(user.size) < 0.3
        first_of_user = np.cumsum(visits) - visits
        starts[first_of_user[visits > 0]] = True
        session = np.cumsum(starts) - 1
        first = np.flatnonzero(starts)
        joined = rng.uniform(0, 0.7, size=visits.size)[user[first]]
        day = np.floor(HISTORY.days * (joined + (1 - joined) * rng.random(first.size)))
        bed_time = rng.normal(0, 1.3, size=visits.size)[user[first]]
        hour = _hours(rng, first.size) + bed_time
        midnight = self._now_ms - self._now_ms % _DAY_MS - (HISTORY.days - 1) * _DAY_MS
        begin = midnight + (day * _DAY_MS + hour * 3_600_000).astype(np.int64)
        pause = _VISIT_MS + rng.exponential(110_000, size=user.size).astype(np.int64)
        elapsed = np.cumsum(pause)
        since_begin = elapsed - elapsed[first][session]
        # What would end after now took place on an earlier day, at the same hour; what would begin before the
        # history, on its first day.
        end = begin + np.maximum.reduceat(since_begin, first) + _VISIT_MS if first.size else begin
        begin -= -(-np.maximum(end - self._now_ms, 0) // _DAY_MS) * _DAY_MS
        begin = np.maximum(begin, self._now_ms - HISTORY // _MILLISECOND)
        return session, begin[session] + since_begin

    def _genres(self, rng: np.random.Generator, taste: Floats, user: Ints, session: Ints) -> Ints:
        """The genre of every visit: mostly that of its session, always one with items in it."""
        weight = self._cumulative[self._after] - self._cumulative[self._first]
        liking = np.einsum("ud,gd->ug", taste, self._items.genre_taste) / np.sqrt(TASTE_DIMENSION)
        share = np.exp(_GENRE_STRENGTH * liking.astype(np.float64)) * weight
        marks = np.cumsum(share / share.sum(axis=1, keepdims=True), axis=1)
        sessions = int(session[-1]) + 1 if session.size else 0
        mark = np.where(rng.random(user.size) < 0.6, rng.random(sessions)[session], rng.random(user.size))
        # The last mark can fall short of 1 by rounding, and genres without items have no share of their own.
        drawn: Ints = (mark[:, None] * marks[user, -1:] >= marks[user]).sum(axis=1)
        last: int = np.flatnonzero(weight > 0)[-1]
        return drawn.clip(max=last)

    def _choices(
        self, rng: np.random.Generator, taste: Floats, user: Ints, genre: Ints, time_ms: Ints
    ) -> tuple[Ints, Floats]:
        """The item that every visit opens, -1 where there is none to open, and how well it fits its user."""
        item, fit = self._choose(rng, taste[user], genre, time_ms)
        # Most people do not open again what they know already.
        key = user * self._items.count + item
        again = np.ones(key.size, dtype=np.bool_)
        again[np.unique(key, return_index=True)[1]] = False
        redo = np.flatnonzero(again & (rng.random(key.size) < 0.85))
        item[redo], fit[redo] = self._choose(rng, taste[user[redo]], genre[redo], time_ms[redo])
        return item, fit

    def _choose(self, rng: np.random.Generator, taste: Floats, genre: Ints, time_ms: Ints) -> tuple[Ints, Floats]:
        first, after = self._first[genre][:, None], self._after[genre][:, None]
        low, high = self._cumulative[first], self._cumulative[after]
        mark = low + rng.random((genre.size, _CANDIDATES)) * (high - low)
        place = np.searchsorted(self._cumulative, mark, side="right") - 1
        met = self._by_genre[np.clip(place, first, after - 1)]
        # New items stand in the window, whatever the genre; only those that were out at the time.
        out = np.searchsorted(self._items.publish_ms[self._noticed], time_ms)
        recent = (time_ms > self._now_ms - NEW_FOR // _MILLISECOND) & (rng.random(genre.size) < 0.07) & (out > 0)
        met[recent] = self._noticed[(rng.random((int(recent.sum()), _CANDIDATES)) * out[recent][:, None]).astype(int)]
        fit = np.einsum("vd,vcd->vc", taste, self._items.taste[met]) / np.sqrt(np.float32(TASTE_DIMENSION))
        appeal = _TASTE_STRENGTH * fit + rng.gumbel(size=fit.shape)
        appeal[self._items.expire_ms[met] <= time_ms[:, None] + _VISIT_MS] = -np.inf
        rows, best = np.arange(genre.size), appeal.argmax(axis=1)
        item = np.where(np.isfinite(appeal[rows, best]), met[rows, best], -1)
        return item, fit[rows, best]


@dataclass(frozen=True, slots=True)
class _Steps:
    """The events of a block, one position each: users, sessions and devices by number, steps by place in STEPS."""

    user: Ints
    session: Ints
    item: Ints
    step: Ints
    time_ms: Ints
    device: Ints
    stars: NDArray[np.float64]


def _funnel(rng: np.random.Generator, fit: Floats) -> Flags:
    """Which of the STEPS each visit took."""

    def happens(base: float, slope: float) -> Flags:
        probability = 1.0 / (1.0 + np.exp(-(base + slope * fit)))
        outcome: Flags = rng.random(fit.size) < probability
        return outcome

    click = happens(-0.3, 0.7)
    like = click & happens(-1.4, 0.8)
    dislike = click & ~like & happens(-2.8, -1.2)
    cart = click & ~dislike & happens(-1.9, 0.6)
    purchase = cart & happens(-0.2, 0.4)
    rate = (like | dislike | purchase) & happens(-1.0, 0.0)
    return np.stack([np.ones_like(click), click, like, dislike, cart, purchase, rate], axis=1)


def _hours(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Times of day in hours, by the daily rhythm."""
    marks = np.concatenate([[0.0], np.cumsum(_HOURS / _HOURS.sum())])
    hours: NDArray[np.float64] = np.interp(rng.random(count), marks, np.arange(25.0))
    return hours


def _events(steps: _Steps, first_user: int, item_ids: Sequence[ItemId], items: Catalogue) -> Iterator[Event]:
    purchase, rate = STEPS.index("purchase"), STEPS.index("rate")
    price = items.price[steps.item]
    value = np.where(steps.step == rate, steps.stars, np.where(steps.step == purchase, price, np.nan)).tolist()
    begins = np.flatnonzero(np.diff(steps.user, prepend=-1))
    of_user = np.arange(steps.user.size) - np.repeat(begins, np.diff(begins, append=steps.user.size))
    columns = (steps.user, of_user, steps.session, steps.item, steps.step, steps.time_ms, steps.device)
    rows = zip(*(column.tolist() for column in columns), value, strict=True)
    for user, number, session, item, step, time_ms, device, worth in rows:
        user_name = user_id(first_user + user)
        yield Event(
            event_id=event_id("seed", items.seed, first_user + user, number),
            event_type=STEPS[step],
            item_id=item_ids[item],
            event_time=datetime.fromtimestamp(time_ms / 1000, UTC),
            user_id=user_name,
            session_id=SessionId(f"{user_name}-s{session}"),
            value=worth if worth == worth else None,  # NaN is nothing to tell
            context={"device": DEVICES[device]},
        )
