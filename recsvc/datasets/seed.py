"""A generated data set: a believable shop of books and films, for demonstrations, load tests and tests.

The same arguments give the same data, on any day and with any hash seed; what makes it believable is told in
`seed_catalogue` (what there is) and `seed_behaviour` (what people do).
"""

from __future__ import annotations

from datetime import datetime

from recsvc.datasets.seed_behaviour import Behaviour
from recsvc.datasets.seed_behaviour import users as seeded_users
from recsvc.datasets.seed_catalogue import catalogue
from recsvc.datasets.source import Dataset


def seed_dataset(items: int, users: int, events_per_user: float, seed: int, now: datetime) -> Dataset:
    """A data set of that size as it would stand at `now`.

    events_per_user is a mean: some users do nothing, a few do ten times as much; the number of events comes within a
    few per cent of users · events_per_user. Raises ValueError when a size or the seed is negative or `now` has no zone.
    """
    if min(items, users, events_per_user, seed) < 0:
        raise ValueError("items, users, events_per_user and seed must not be negative")
    if now.tzinfo is None:
        raise ValueError("now must have a time zone")
    stock = catalogue(items, seed, now)
    behaviour = Behaviour(stock, users, events_per_user, now)
    return Dataset(
        name=f"seed-{seed}",
        items=stock.items,
        users=lambda: seeded_users(users, seed),
        events=behaviour.events,
        item_count=items,
        event_count=round(users * events_per_user) if items else 0,
    )
