"""A small cinema: films of four genres, and forty users who each go for one of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from recsvc.gen.v1 import admin_service_pb2 as admin_pb
from recsvc.gen.v1 import catalog_service_pb2 as catalog_pb
from recsvc.gen.v1 import ingestion_service_pb2 as ingestion_pb
from tests.api import Api

GENRES = ("Drama", "Comedy", "Horror", "Western")
PER_GENRE = 16
_TRAINED_S = 100.0


def an_item(genre: str, number: int, **fields: object) -> catalog_pb.Item:
    """A film."""
    return catalog_pb.Item(
        item_id=f"{genre}-{number}", item_type="film", title=f"{genre} No. {number}", categories=[genre], **fields
    )


def an_event(user_id: str, item_id: str, event_type: str = "view", **fields: object) -> ingestion_pb.Event:
    """What a user did with a film; once for each user, film and type."""
    return ingestion_pb.Event(
        event_id=f"{user_id}/{item_id}/{event_type}", event_type=event_type, user_id=user_id, item_id=item_id, **fields
    )


def watched_by(user: int) -> list[str]:
    """The films that user number `user` saw, the last one first; all are of genre `user % 4`."""
    return [f"{GENRES[user % 4]}-{(user + step * 3) % PER_GENRE}" for step in range(8)]


async def open_cinema(api: Api) -> None:
    """Store the films and what u0 … u39 saw; no model yet."""
    items = [an_item(genre, number) for genre in GENRES for number in range(PER_GENRE)]
    await api.catalog.BatchUpsertItems(catalog_pb.BatchUpsertItemsRequest(items=items))
    now = datetime.now(UTC)
    events = []
    for user in range(40):
        for step, item_id in enumerate(watched_by(user)):
            event = an_event(f"u{user}", item_id)
            event.event_time.FromDatetime(now - timedelta(hours=step + user))
            events.append(event)
    response = await api.ingestion.BatchRecordEvents(ingestion_pb.BatchRecordEventsRequest(events=events))
    assert all(result.status.code == 0 for result in response.results)


async def train(api: Api) -> None:
    """Train a model and wait until it serves."""
    started = await api.admin.StartTraining(admin_pb.StartTrainingRequest())
    run_id = started.training_run.training_run_id
    request = admin_pb.WatchTrainingRunRequest(training_run_id=run_id)
    last = None
    async for update in api.admin.WatchTrainingRun(request, timeout=_TRAINED_S):
        last = update.training_run
    assert last is not None
    assert last.state == admin_pb.TRAINING_STATE_SUCCEEDED, last.error
    assert last.activated
