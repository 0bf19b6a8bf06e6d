"""Every line that the service can log: its event, its level, when it occurs, and the fields it may have.

What is not declared here is not logged: `telemetry/logging.py` leaves other fields out, so that neither a secret nor
anything about a person gets into a log by way of a field that nobody thought about. Names of events are stable, since
alerts and searches are made of them; a field is of the same type wherever it stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class LogEvent(NamedTuple):
    """One kind of line. fields: by name, what each holds; one that does not apply is left out of a line."""

    level: str
    occurs_when: str
    fields: Mapping[str, str] = {}


EVERY_LINE: Final[Mapping[str, str]] = {
    "timestamp": "when, in UTC (ISO 8601)",
    "level": "debug, info, warning, error or critical",
    "event": "which of the events",
    "logger": "the module that tells of it",
}
"""What every line has."""

WHILE_ANSWERING: Final[Mapping[str, str]] = {
    "request_id": "x-request-id of the call",
    "trace_id": "of the call's trace, if it is traced",
    "tenant": "the tenant that the call acts for, once that is known",
}
"""What a line has besides while a call is being answered, whichever module tells of it."""

WITH_EXCEPTION: Final[Mapping[str, str]] = {
    "error": "type of the exception, or the reason of the error",
    "sqlstate": "PostgreSQL's code of the error",
    "constraint": "the constraint of the database that was violated",
    "exception": "types and places of the exception and of what caused it, without their messages",
}
"""What a line about an exception has."""

_TEXT = """
    timestamp level event logger request_id trace_id tenant error sqlstate constraint exception
    action actor cert_file code condition dependency detail folder grpc key_id kind message method metrics needed_for
    outcome reason replica run_id signal waited_for waiting_for
"""
_NUMBERS = """
    exit_code lines lists pid request_bytes response_bytes responses tenant_key untold worker workers
"""
_MEASURES = """
    after_s at_most_s deadline_left_ms duration_ms lag_s lived_s next_attempt_s restart_in_s since_s
"""
_LISTS = "faults not_serving output serving targets waiting_for_restart"

FIELD_TYPES: Final[Mapping[str, type]] = {
    **dict.fromkeys(_TEXT.split(), str),
    **dict.fromkeys(_NUMBERS.split(), int),
    **dict.fromkeys(_MEASURES.split(), float),
    **dict.fromkeys(_LISTS.split(), list),
    "changed": dict,
}
"""The type of each field; a whole number may stand for a float. Lists and mappings hold text."""

_ERROR = {"error": "reason of the error"}
_TENANT_KEY = {"tenant_key": "number of the tenant in the database"}
_RUN = {"run_id": "the training run"}

LOG_EVENTS: Final[Mapping[str, LogEvent]] = {
    "arrivals.failed": LogEvent(
        "warning",
        "The ids of users who are watched could not be looked up; whoever watches a user who was not known asks again.",
        {"error": "type of the error"},
    ),
    "attribution.crashed": LogEvent("error", "Counting what came of shown lists met an exception that nobody foresaw."),
    "attribution.failed": LogEvent("warning", "What came of shown lists could not be counted.", _ERROR),
    "audit.refusal_not_stored": LogEvent(
        "error",
        "An administrative action was refused, and the audit log could not be written: this line is the entry.",
        {
            "tenant": "the tenant whose log it belongs in",
            "actor": "id of the key",
            "action": "the method",
            "targets": "the ids that the request named",
            "outcome": "the code of the refusal",
            "request_id": "of the call",
        }
        | _ERROR,
    ),
    "bootstrap_key.stored": LogEvent(
        "info", "A key of the configuration was not there and was made.", {"key_id": "the key", "tenant": "its tenant"}
    ),
    "call.ended": LogEvent(
        "info",
        "A call ended that failed or was slow, or that is one of the share of the others that is told of.",
        {
            "method": "path of the method",
            "code": "its gRPC status",
            "reason": "reason of the error that its caller was told",
            "duration_ms": "from the arrival of its headers to its end",
            "deadline_left_ms": "what was left of its caller's deadline",
            "request_bytes": "size of its request, or of all of them",
            "response_bytes": "size of its response, if it is no stream",
            "responses": "how many there were, if it is a stream",
            "untold": "calls before it that were not told of, since there were too many within a second",
        },
    ),
    "call.failed": LogEvent(
        "error",
        "A call met an exception that nobody foresaw; its caller got INTERNAL and the request id.",
        {"method": "path of the method"},
    ),
    "census.crashed": LogEvent("error", "A look at what is stored met an exception that nobody foresaw."),
    "census.failed": LogEvent(
        "warning", "What is stored for all tenants could not be looked at; metrics keep what they said.", _ERROR
    ),
    "change_feed.lost": LogEvent(
        "warning", "Redis no longer tells of changes; it is asked again.", {"error": "type of the error"}
    ),
    "dependency": LogEvent(
        "info or warning",
        "PostgreSQL or Redis is well (info), away or not what is needed (warning): at the start and at changes.",
        {"dependency": "which", "condition": "well, away or unfit", "detail": "what is wrong"},
    ),
    "dependency.look_failed": LogEvent("error", "A look at a dependency met an exception that nobody foresaw."),
    "embedded.folder_opened": LogEvent(
        "warning",
        "Started as root: others got the right to go through a folder, which the embedded servers need.",
        {"folder": "the folder", "needed_for": "the folder that they must reach"},
    ),
    "health.changed": LogEvent(
        "info",
        "What gRPC health says has changed.",
        {"serving": "services that are SERVING now", "not_serving": "services that are not"},
    ),
    "item_fold_in.failed": LogEvent(
        "warning", "New items of a tenant could not be given their vectors; tried again.", _TENANT_KEY | _ERROR
    ),
    "library": LogEvent(
        "of the library", "A library that is used said something.", {"message": "what, without names and values"}
    ),
    "log.dropped": LogEvent(
        "warning", "Lines found no room, since nobody read them fast enough.", {"lines": "how many"}
    ),
    "projector.crashed": LogEvent(
        "error", "A piece of the projector's work met an exception that nobody foresaw; it is tried again."
    ),
    "projector.failed": LogEvent(
        "warning",
        "Users, counters, vectors of items or announcements could not be brought up to date, or the lag of states not"
        " be measured; it is tried again.",
        _ERROR,
    ),
    "redis.failed": LogEvent(
        "warning",
        "Redis did not carry out a command; nothing is said of those that the breaker kept from it.",
        {"error": "type of the error"},
    ),
    "reload.done": LogEvent(
        "warning",
        "SIGHUP: the settings were read anew.",
        {"changed": "settings that are in force now: before -> after", "waiting_for_restart": "settings that are not"},
    ),
    "reload.refused": LogEvent(
        "error", "SIGHUP: the settings are not valid, and the old ones stay.", {"faults": "setting: what is wrong"}
    ),
    "replica.joined": LogEvent(
        "info", "A replica is fresh enough to be asked.", {"replica": "which", "lag_s": "its lag"}
    ),
    "replica.left": LogEvent(
        "info", "A replica lags too much or is away, and is not asked.", {"replica": "which", "lag_s": "its lag"}
    ),
    "replicas.check_failed": LogEvent(
        "error", "The look at the replicas met an exception that nobody foresaw; none is asked until the next one."
    ),
    "retention.failed": LogEvent(
        "warning",
        "What was kept for long enough could not be deleted; it is tried again.",
        {"kind": "of what"} | _ERROR,
    ),
    "service.draining": LogEvent("info", "A signal asked for the end; calls in flight may end."),
    "service.failed": LogEvent("error", "The service, once started, ended with an exception that nobody foresaw."),
    "service.serving": LogEvent(
        "info", "Calls are answered.", {"grpc": "address of gRPC", "metrics": "address of /metrics"}
    ),
    "service.stopped": LogEvent("info", "Everything is closed; the process ends."),
    "service.stopped_at_once": LogEvent(
        "warning", "A second signal: the process ends without an orderly end.", {"signal": "which"}
    ),
    "shown.crashed": LogEvent(
        "error",
        "Noting lists that were shown met an exception that nobody foresaw; they are lost.",
        {"lists": "how many"},
    ),
    "shown.dropped": LogEvent("warning", "Lists that were shown could not be noted.", {"lists": "how many"} | _ERROR),
    "snapshot.crashed": LogEvent(
        "error", "The reading of a catalogue into memory met an exception that nobody foresaw.", _TENANT_KEY
    ),
    "snapshot.failed": LogEvent(
        "warning", "A catalogue could not be read into memory; PostgreSQL answers instead.", _TENANT_KEY | _ERROR
    ),
    "start.arrived": LogEvent(
        "info", "What the start waited for is there.", {"waited_for": "the server", "after_s": "how long it took"}
    ),
    "start.waiting": LogEvent(
        "warning",
        "The start waits for PostgreSQL or Redis: one line for each attempt.",
        {
            "waiting_for": "the server",
            "since_s": "for how long by now",
            "at_most_s": "when it is given up",
            "next_attempt_s": "pause before the next attempt",
            "reason": "what the driver says",
        },
    ),
    "start.without_redis": LogEvent("warning", "The service starts although Redis does not answer."),
    "tls.files_not_usable": LogEvent(
        "error", "Certificate files were replaced by ones that cannot be used; the old ones stay.", {"error": "why"}
    ),
    "tls.reloaded": LogEvent("info", "Certificate files were replaced.", {"cert_file": "the certificate's file"}),
    "tracing.collector_away": LogEvent("warning", "The collector of traces no longer takes spans; said once."),
    "tracing.collector_back": LogEvent("info", "The collector of traces takes spans again."),
    "training.end_not_noted": LogEvent("warning", "That a training run failed could not be noted.", _RUN | _ERROR),
    "training.failed": LogEvent(
        "error",
        "A training process ended with an error.",
        _RUN | {"exit_code": "of the process", "output": "what it said of the error"},
    ),
    "training.not_started": LogEvent("error", "A training process could not be started.", _RUN),
    "trending_memory.crashed": LogEvent(
        "error", "The reading of what trends met an exception that nobody foresaw.", _TENANT_KEY
    ),
    "trending_memory.failed": LogEvent(
        "warning", "What trends could not be read; what was remembered stays.", _TENANT_KEY | _ERROR
    ),
    "watch.retried": LogEvent("info", "A watched list could not be made; it is tried again.", _ERROR),
    "worker.died": LogEvent(
        "error",
        "A worker ended that should not have; it is started again.",
        {
            "worker": "its number",
            "reason": "how it ended",
            "lived_s": "how long it lived",
            "restart_in_s": "pause before it is started again",
        },
    ),
    "worker.killed": LogEvent(
        "error", "A worker did not end in time.", {"worker": "its number", "after_s": "the time it had"}
    ),
    "worker.started": LogEvent("info", "A worker was started.", {"worker": "its number", "pid": "its process"}),
    "workers.supervised": LogEvent(
        "info",
        "The parent of the workers is there.",
        {"workers": "how many it starts", "grpc": "address of gRPC", "metrics": "address of /metrics"},
    ),
}
