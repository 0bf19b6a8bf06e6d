"""Every span that a trace can have: what it covers and the attributes that leave the process with it.

The list is the law: whatever else a library or a stage puts on a span is cut before it is sent
(`telemetry/outgoing.py`), so that no id of a user, no address and no text of a request is in a trace. What stands in
braces is one of a known few.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Span:
    """One kind of span. kind: server, client or internal, as OpenTelemetry has it; attributes: what each holds."""

    kind: str
    covers: str
    attributes: Mapping[str, str] = field(default_factory=dict)


CALL = "recsvc.v1.{service}/{method}"
AUTH = "auth"
LIMITS = "limits"
CACHE_FIND = "cache.find"
CACHE_STORE = "cache.store"
CANDIDATES = "candidates"
LIST = "list"
BLEND = "blend"
RERANK = "rerank"
EXPLAIN = "explain"
FOLD_IN = "fold_in"
EVENTS_WRITE = "events.write"
EVENTS_COMMIT = "events.commit"
WATCH_LIST = "watch.list"
SQL = "sql {statement}"
REDIS = "redis {command}"
TRAINING = "training"
TRAINING_STAGE = "training {stage}"

ERROR_TYPE = "error.type"
REASON = "recsvc.reason"
TENANT = "recsvc.tenant"
CACHE_HIT = "recsvc.cache.hit"
CANDIDATE_COUNT = "recsvc.candidates"
EVENT_COUNT = "recsvc.events"
ROWS = "db.response.returned_rows"
STATEMENT = "db.query.summary"
STATUS_CODE = "rpc.grpc.status_code"

SPANS: Mapping[str, Span] = {
    CALL: Span(
        "server",
        "One call of our services, from the first interceptor to the last answer; a stream from begin to end.",
        {
            "rpc.system": "Always grpc.",
            "rpc.service": "The service, recsvc.v1.RecommendationService for example.",
            "rpc.method": "The method, Recommend for example.",
            STATUS_CODE: "The code that the caller was told, as a number.",
            TENANT: "The tenant that the call acted for; none before its key was known.",
            REASON: "The reason of the error that the caller was told.",
            "recsvc.experiment": "The entry experiment of the caller's baggage: a name of at most 64 characters.",
            "recsvc.variant": "The entry variant of the caller's baggage: a name of at most 64 characters.",
        },
    ),
    AUTH: Span("internal", "Waiting for a key to be verified or a tenant to be found; none for a key at hand."),
    LIMITS: Span("internal", "Waiting for permits or for a tenant's limits; none where they are at hand."),
    CACHE_FIND: Span(
        "internal", "Looking for a current list in the cache.", {CACHE_HIT: "Whether there was one: true or false."}
    ),
    CACHE_STORE: Span("internal", "Keeping a list in the cache."),
    CANDIDATES: Span(
        "internal",
        "Finding candidates, in a snapshot or in PostgreSQL, waiting for a search slot included.",
        {CANDIDATE_COUNT: "How many were found."},
    ),
    LIST: Span(
        "internal",
        "Making a list out of a snapshot, candidates, blend and all, with those of all who ask at once; where no"
        " snapshot answers, finding its candidates in PostgreSQL.",
    ),
    BLEND: Span("internal", "Blending the scores of the sources and ordering the candidates, reranking included."),
    RERANK: Span("internal", "Ordering scored candidates: diversity, category caps, exploration."),
    EXPLAIN: Span("internal", "Looking up what speaks for the items of a list; only where reasons are asked for."),
    FOLD_IN: Span("internal", "Bringing the states of users up to their events."),
    EVENTS_WRITE: Span(
        "internal",
        "One caller's events, from waiting for room to their commit.",
        {EVENT_COUNT: "How many events the caller wants to have written."},
    ),
    EVENTS_COMMIT: Span(
        "internal",
        "Events of many callers, written in one transaction and announced. It stands in the trace of the first of them,"
        " with links to those of up to 32 others.",
    ),
    WATCH_LIST: Span("internal", "Computing the list of watchers, in the trace of the one that asked first."),
    SQL: Span(
        "client",
        "One statement of ours, by its name: the round trip with its transaction, or what is left of it within a"
        " longer one; of a COPY until its end.",
        {
            "db.system.name": "Always postgresql.",
            STATEMENT: "The statement's name in its .sql file; its text and its values are never told.",
            ROWS: "Rows of the answer, where they come at once.",
        },
    ),
    REDIS: Span(
        "client",
        "One command to Redis, waiting for a connection included; none while Redis is left alone.",
        {"db.system.name": "Always redis."},
    ),
    TRAINING: Span(
        "internal",
        "A run of training, from reading the events to activating the model; in the trace of the call that started it.",
    ),
    TRAINING_STAGE: Span("internal", "One stage of a run, such as read, evaluate, train or publish+index."),
}
"""By name. Every span may also have the type of the error that it ended with, as `error.type`."""
