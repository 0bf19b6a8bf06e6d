"""The generated data set: the same for the same arguments, valid, believable, and with something to learn in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from recsvc.datasets import Dataset, seed_dataset
from recsvc.domain.events import DEFAULT_EVENT_TYPES
from recsvc.domain.text import name_fault

NOW = datetime(2026, 5, 1, 15, 30, tzinfo=UTC)


def a_dataset(items: int = 300, users: int = 200, events_per_user: float = 30, seed: int = 7) -> Dataset:
    return seed_dataset(items, users, events_per_user, seed, NOW)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return a_dataset()


def test_same_seed_gives_the_same_data():
    one, other = a_dataset(), a_dataset()
    assert list(one.items()) == list(other.items())
    assert list(one.users()) == list(other.users())
    assert list(one.events()) == list(other.events())


def test_streams_can_be_started_again(dataset: Dataset):
    assert list(dataset.events()) == list(dataset.events())
    assert list(dataset.items()) == list(dataset.items())


def test_another_seed_gives_other_data():
    assert [item.title for item in a_dataset(seed=1).items()] != [item.title for item in a_dataset(seed=2).items()]


def test_hash_seed_of_the_process_changes_nothing():
    program = (
        "from datetime import UTC, datetime; from hashlib import sha256; from recsvc.datasets import seed_dataset\n"
        "d = seed_dataset(60, 20, 10, 3, datetime(2026, 5, 1, tzinfo=UTC))\n"
        "print(sha256(repr([list(d.items()), list(d.users()), list(d.events())]).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


def test_ids_are_valid_and_unique(dataset: Dataset):
    for ids in (
        [item.item_id for item in dataset.items()],
        [user.user_id for user in dataset.users()],
        [event.event_id for event in dataset.events()],
    ):
        assert len(set(ids)) == len(ids)
        assert all(name_fault(element) is None for element in ids)


def test_titles_are_unique_even_where_words_run_out():
    titles = [item.title for item in a_dataset(items=20_000, users=0).items()]
    assert len(set(titles)) == len(titles)
    assert not any("  " in title or "{" in title for title in titles)


def test_every_event_names_an_existing_item_user_and_event_type(dataset: Dataset):
    items = {item.item_id for item in dataset.items()}
    users = {user.user_id for user in dataset.users()}
    types = {event_type.event_type for event_type in DEFAULT_EVENT_TYPES}
    for event in dataset.events():
        assert event.item_id in items
        assert event.user_id in users
        assert event.event_type in types


@pytest.mark.parametrize("now", [NOW, datetime(2026, 1, 1, 0, 5, tzinfo=UTC)])
def test_no_event_lies_in_the_future_or_before_the_history(now: datetime):
    times = [event.event_time for event in seed_dataset(100, 300, 20, 3, now).events()]
    assert max(times) <= now
    assert min(times) >= now - timedelta(days=90)


def test_events_of_a_user_and_of_a_session_are_in_order(dataset: Dataset):
    last: dict[str, datetime] = {}
    visited: defaultdict[str, list[datetime]] = defaultdict(list)
    for event in dataset.events():
        assert event.user_id is not None
        assert event.session_id is not None
        assert event.event_time >= last.get(event.user_id, event.event_time)
        last[event.user_id] = event.event_time
        visited[event.session_id].append(event.event_time)
    assert all(times == sorted(times) for times in visited.values())
    spans = sorted(times[-1] - times[0] for times in visited.values())
    assert spans[len(spans) // 2] < timedelta(minutes=30)


def test_nobody_meets_an_item_before_its_publication_or_after_its_end():
    dataset = a_dataset(items=1000, users=500)
    items = {item.item_id: item for item in dataset.items()}
    expired = {item.item_id for item in items.values() if item.expire_time}
    assert expired
    for event in dataset.events():
        item = items[event.item_id]
        assert item.publish_time is not None
        assert event.event_time >= item.publish_time
        assert item.expire_time is None or event.event_time < item.expire_time


def test_steps_thin_out_from_view_to_purchase(dataset: Dataset):
    counts = Counter(event.event_type for event in dataset.events())
    assert counts["view"] > counts["click"] > counts["like"] > counts["add_to_cart"] > counts["purchase"] > 0
    assert counts["rate"] > 0


def test_ratings_and_purchases_carry_a_value(dataset: Dataset):
    for event in dataset.events():
        assert (event.value is not None) == (event.event_type in ("rate", "purchase"))
        assert event.event_type != "rate" or event.value in [stars / 2 for stars in range(1, 11)]


def test_number_of_events_is_what_was_asked_for():
    dataset = a_dataset(items=2000, users=2000, events_per_user=20)
    count = sum(1 for _ in dataset.events())
    assert dataset.event_count == 40_000
    assert count == pytest.approx(40_000, rel=0.06)


def test_popularity_follows_zipf():
    counts = Counter(event.item_id for event in a_dataset(items=1000, users=2000).events())
    frequencies = np.array(sorted(counts.values(), reverse=True), dtype=float)
    ranks = np.arange(10, 500)
    slope = np.polyfit(np.log(ranks), np.log(frequencies[ranks - 1]), 1)[0]
    assert -1.4 < slope < -0.6
    assert frequencies[:50].sum() > 0.25 * frequencies.sum()


def test_last_items_are_new_and_half_of_them_unnoticed():
    dataset = a_dataset(items=1000, users=1000)
    items = list(dataset.items())
    counts = Counter(event.item_id for event in dataset.events())
    new = [item for item in items if item.publish_time and item.publish_time > NOW - timedelta(days=7)]
    assert new == items[-50:]
    assert sum(counts[item.item_id] == 0 for item in new) >= 25
    assert sum(counts[item.item_id] > 0 for item in new) > 15


def test_about_one_item_in_a_hundred_cannot_be_recommended():
    items = list(a_dataset(items=2000, users=0).items())
    unavailable = sum(not item.available for item in items)
    hidden = sum(item.hidden for item in items)
    expired = sum(item.expire_time is not None and item.expire_time < NOW for item in items)
    assert min(unavailable, hidden, expired) > 0
    assert 10 <= unavailable + hidden + expired <= 30


def test_categories_tags_and_attributes_are_there_to_filter_by(dataset: Dataset):
    items = list(dataset.items())
    assert 12 <= len({item.categories[0] for item in items}) <= 20
    assert all(item.tags and item.attributes["price"] and item.attributes["language"] for item in items)
    assert all(item.publish_time and item.attributes["year"] <= item.publish_time.year for item in items)


def test_day_has_a_rhythm():
    hours = Counter(event.event_time.hour for event in a_dataset(users=1000).events())
    assert sum(hours[hour] for hour in range(18, 23)) > 4 * sum(hours[hour] for hour in range(1, 6))


def test_neighbours_predict_better_than_popularity():
    """What a user opens last is ranked by cosine over the rest, and by popularity; taste must be worth learning."""
    dataset = a_dataset(items=400, users=800, events_per_user=40)
    histories: defaultdict[str, list[int]] = defaultdict(list)
    for event in dataset.events():
        assert event.user_id is not None
        position = int(event.item_id.removeprefix("item-"))
        if position not in histories[event.user_id]:
            histories[event.user_id].append(position)
    kept = [history for history in histories.values() if len(history) >= 6]
    matrix = np.zeros((len(kept), 400))
    for row, history in enumerate(kept):
        matrix[row, history[:-2]] = 1
    popularity = matrix.sum(axis=0)
    together = matrix.T @ matrix / np.sqrt(np.maximum(np.outer(popularity, popularity), 1))
    np.fill_diagonal(together, 0)

    def recall(scores: np.ndarray) -> float:
        scores = np.where(matrix > 0, -np.inf, scores)
        top = np.argsort(-scores, axis=1)[:, :20]
        return float(np.mean([len(set(row) & set(history[-2:])) / 2 for row, history in zip(top, kept, strict=True)]))

    by_neighbours, by_popularity = recall(matrix @ together), recall(np.broadcast_to(popularity, matrix.shape))
    assert by_neighbours > 1.3 * by_popularity


def test_tags_tell_about_taste():
    """Items that the same people open share more tags than their categories alone would make them share."""
    dataset = a_dataset(items=600, users=1500, events_per_user=30)
    items = list(dataset.items())[:570]
    position = {item.item_id: index for index, item in enumerate(items)}
    opened = np.zeros((1500, 570))
    for event in dataset.events():
        if event.item_id in position and event.user_id:
            opened[int(event.user_id.removeprefix("user-")), position[event.item_id]] = 1
    norms = np.maximum(np.linalg.norm(opened, axis=0), 1)
    cosine = (opened.T @ opened) / np.outer(norms, norms)
    alike, unlike = [], []
    for one in range(570):
        for other in range(one):
            if items[one].categories[0] == items[other].categories[0]:
                shared = set(items[one].tags) & set(items[other].tags)
                (alike if shared else unlike).append(cosine[one, other])
    assert np.mean(alike) > 1.05 * np.mean(unlike)


@pytest.mark.parametrize(("items", "users"), [(0, 10), (10, 0), (1, 1), (3, 50)])
def test_tiny_sizes_work(items: int, users: int):
    dataset = a_dataset(items=items, users=users, events_per_user=5)
    assert len(list(dataset.items())) == items
    assert len(list(dataset.users())) == users
    assert all(event.item_id for event in dataset.events())


def test_senseless_arguments_are_refused():
    with pytest.raises(ValueError, match="negative"):
        a_dataset(seed=-1)
    with pytest.raises(ValueError, match="time zone"):
        seed_dataset(1, 1, 1, 1, datetime(2026, 1, 1))  # noqa: DTZ001
