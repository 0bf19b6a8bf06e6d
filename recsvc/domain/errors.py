"""Every error that a caller of recsvc can meet, one class each.

An error knows its canonical code, its reason (the names of `ErrorReason` in errors.proto), a message that is safe to
show to anybody, and the details that belong to it. `rpc.errors` turns these into `google.rpc.Status`; nothing else in
the code knows gRPC codes. Messages never carry SQL, host names or secrets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import ClassVar


class Code(IntEnum):
    """Canonical status codes (google.rpc.Code), kept here so that the domain needs no grpc."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class Reason(StrEnum):
    """Machine-readable reasons; each has the same name in the proto enum `ErrorReason`, prefixed ERROR_REASON_."""

    INVALID_FIELD = "INVALID_FIELD"
    INVALID_FILTER = "INVALID_FILTER"
    INVALID_PAGE_TOKEN = "INVALID_PAGE_TOKEN"
    INVALID_UPDATE_MASK = "INVALID_UPDATE_MASK"
    DUPLICATE_IN_BATCH = "DUPLICATE_IN_BATCH"
    EMBEDDING_DIMENSION_MISMATCH = "EMBEDDING_DIMENSION_MISMATCH"
    ATTRIBUTE_NOT_ALLOWED = "ATTRIBUTE_NOT_ALLOWED"
    EVENT_TYPE_UNKNOWN = "EVENT_TYPE_UNKNOWN"
    EVENT_TIME_OUT_OF_RANGE = "EVENT_TIME_OUT_OF_RANGE"
    ITEM_NOT_FOUND = "ITEM_NOT_FOUND"
    USER_NOT_FOUND = "USER_NOT_FOUND"
    TENANT_NOT_FOUND = "TENANT_NOT_FOUND"
    API_KEY_NOT_FOUND = "API_KEY_NOT_FOUND"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    TRAINING_RUN_NOT_FOUND = "TRAINING_RUN_NOT_FOUND"
    EVENT_TYPE_NOT_FOUND = "EVENT_TYPE_NOT_FOUND"
    PLACEMENT_NOT_FOUND = "PLACEMENT_NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    STALE_ETAG = "STALE_ETAG"
    EVENT_TYPE_IN_USE = "EVENT_TYPE_IN_USE"
    ATTRIBUTE_TYPE_IN_USE = "ATTRIBUTE_TYPE_IN_USE"
    MODEL_ACTIVE = "MODEL_ACTIVE"
    NOT_ENOUGH_DATA = "NOT_ENOUGH_DATA"
    TRAINING_IN_PROGRESS = "TRAINING_IN_PROGRESS"
    MODEL_WORSE = "MODEL_WORSE"
    CREDENTIALS_MISSING = "CREDENTIALS_MISSING"
    CREDENTIALS_INVALID = "CREDENTIALS_INVALID"
    SCOPE_MISSING = "SCOPE_MISSING"
    RATE_LIMITED = "RATE_LIMITED"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE"
    OVERLOADED = "OVERLOADED"
    DEADLINE_TOO_SHORT = "DEADLINE_TOO_SHORT"
    NOT_IMPLEMENTED = "NOT_IMPLEMENTED"
    INTERNAL = "INTERNAL"
    NO_MODEL = "NO_MODEL"
    STREAM_IDLE = "STREAM_IDLE"
    SERVER_DRAINING = "SERVER_DRAINING"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field: its path in the request (`item.categories[2]`) and what is wrong with it."""

    field: str
    description: str


class DomainError(Exception):
    """The root: code, reason, safe message, and optional details."""

    code: ClassVar[Code] = Code.INTERNAL
    reason: ClassVar[Reason] = Reason.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        fields: Sequence[FieldViolation] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        resource: tuple[str, str] | None = None,
    ) -> None:
        """resource: (type, name) for ResourceInfo; retry_after_s: for RetryInfo; fields: for BadRequest."""
        super().__init__(message)
        self.message = message
        self.fields = tuple(fields)
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s
        self.resource = resource


class InvalidField(DomainError):
    """Occurs when a field breaks a limit of the contract."""

    code, reason = Code.INVALID_ARGUMENT, Reason.INVALID_FIELD

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}", fields=[FieldViolation(field, description)])


class InvalidFields(DomainError):
    """Occurs when several fields break limits of the contract; all of them are told at once."""

    code, reason = Code.INVALID_ARGUMENT, Reason.INVALID_FIELD

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations), fields=violations)


class MalformedMessage(DomainError):
    """Occurs when the bytes of a request are no message of the method's type, so that no field can be named."""

    code, reason = Code.INVALID_ARGUMENT, Reason.INVALID_FIELD

    def __init__(self) -> None:
        super().__init__("the request is not a valid protobuf message of the method's type")


class InvalidFilter(DomainError):
    """Occurs when a filter does not parse or does not type-check; tells the column (1-based)."""

    code, reason = Code.INVALID_ARGUMENT, Reason.INVALID_FILTER

    def __init__(self, description: str, column: int, field: str = "filter") -> None:
        super().__init__(
            f"{field}: column {column}: {description}",
            fields=[FieldViolation(field, f"column {column}: {description}")],
            metadata={"column": str(column)},
        )
        self.description = description
        self.column = column

    def at_field(self, field: str) -> InvalidFilter:
        """The same error, told of the request's field that held the filter (`boosts[1].filter`)."""
        return InvalidFilter(self.description, self.column, field)


class InvalidPageToken(InvalidField):
    """Occurs when a page token was not made by this service for this very list."""

    reason = Reason.INVALID_PAGE_TOKEN

    def __init__(self, description: str = "is not a token that this list returned") -> None:
        super().__init__("page_token", description)


class InvalidUpdateMask(InvalidField):
    """Occurs when an update mask is empty or names a field that cannot be updated."""

    reason = Reason.INVALID_UPDATE_MASK

    def __init__(self, description: str) -> None:
        super().__init__("update_mask", description)


class DuplicateInBatch(InvalidField):
    """Occurs when an id stands twice in one batch, so that the outcome would depend on order."""

    reason = Reason.DUPLICATE_IN_BATCH


class EmbeddingDimensionMismatch(InvalidField):
    """Occurs when an embedding's length is not the one that the tenant's first embedding fixed."""

    reason = Reason.EMBEDDING_DIMENSION_MISMATCH


class AttributeNotAllowed(InvalidField):
    """Occurs when an attribute's key or type is not in the tenant's schema."""

    reason = Reason.ATTRIBUTE_NOT_ALLOWED


class EventTypeUnknown(InvalidField):
    """Occurs when an event names a type that the tenant does not have."""

    reason = Reason.EVENT_TYPE_UNKNOWN


class EventTimeOutOfRange(InvalidField):
    """Occurs when an event's time is too far in the future or before the tenant's retention."""

    reason = Reason.EVENT_TIME_OUT_OF_RANGE


class NotFound(DomainError):
    """The root of what does not exist (or belongs to another tenant, which looks the same)."""

    code = Code.NOT_FOUND
    kind: ClassVar[str] = "resource"

    def __init__(self, name: str, field: str | None = None) -> None:
        """field: the request's field that named it, when that is not the obvious one."""
        super().__init__(
            f"{self.kind} {name!r} does not exist",
            resource=(f"recsvc.v1/{self.kind}", name),
            fields=[FieldViolation(field, f"{self.kind} {name!r} does not exist")] if field else (),
        )


class ItemNotFound(NotFound):
    """Occurs when no item has this id in the caller's tenant."""

    reason, kind = Reason.ITEM_NOT_FOUND, "item"


class UserNotFound(NotFound):
    """Occurs when no user has this id in the caller's tenant."""

    reason, kind = Reason.USER_NOT_FOUND, "user"


class TenantNotFound(NotFound):
    """Occurs when no tenant has this id."""

    reason, kind = Reason.TENANT_NOT_FOUND, "tenant"


class ApiKeyNotFound(NotFound):
    """Occurs when no key of the tenant has this id."""

    reason, kind = Reason.API_KEY_NOT_FOUND, "api_key"


class ModelNotFound(NotFound):
    """Occurs when no model of the tenant has this id."""

    reason, kind = Reason.MODEL_NOT_FOUND, "model"


class TrainingRunNotFound(NotFound):
    """Occurs when no training run of the tenant has this id."""

    reason, kind = Reason.TRAINING_RUN_NOT_FOUND, "training_run"


class EventTypeNotFound(NotFound):
    """Occurs when an event type that should be changed or deleted does not exist."""

    reason, kind = Reason.EVENT_TYPE_NOT_FOUND, "event_type"


class PlacementNotFound(NotFound):
    """Occurs when a request names a placement that the tenant's settings do not have."""

    reason, kind = Reason.PLACEMENT_NOT_FOUND, "placement"


class AlreadyExists(DomainError):
    """Occurs when something is created under an id that is taken."""

    code, reason = Code.ALREADY_EXISTS, Reason.ALREADY_EXISTS

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} {name!r} exists already", resource=(f"recsvc.v1/{kind}", name))


class StaleEtag(DomainError):
    """Occurs when an item changed between the caller's read and this write."""

    code, reason = Code.ABORTED, Reason.STALE_ETAG

    def __init__(self, item_id: str) -> None:
        super().__init__(
            f"item {item_id!r} has changed since it was read; read it again and repeat the write",
            resource=("recsvc.v1/item", item_id),
        )


class FailedPrecondition(DomainError):
    """The root of what the present state of things does not allow."""

    code = Code.FAILED_PRECONDITION


class EventTypeInUse(FailedPrecondition):
    """Occurs when an event type is deleted while events of it are stored."""

    reason = Reason.EVENT_TYPE_IN_USE


class AttributeTypeInUse(FailedPrecondition):
    """Occurs when an attribute is given a type that values of stored items do not have."""

    reason = Reason.ATTRIBUTE_TYPE_IN_USE

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}", fields=[FieldViolation(field, description)])


class ModelActive(FailedPrecondition):
    """Occurs when the model that serves at present should be deleted."""

    reason = Reason.MODEL_ACTIVE


class NotEnoughData(FailedPrecondition):
    """Occurs when there are too few items, users or events to train on."""

    reason = Reason.NOT_ENOUGH_DATA


class NoModel(FailedPrecondition):
    """Occurs when a method that needs a model is called before one is trained."""

    reason = Reason.NO_MODEL

    def __init__(self) -> None:
        super().__init__("no model is trained yet; StartTraining makes one")


class TrainingInProgress(FailedPrecondition):
    """Occurs when a training run is asked for while another one of the tenant is under way."""

    reason = Reason.TRAINING_IN_PROGRESS


class CredentialsMissing(DomainError):
    """Occurs when a call carries no API key."""

    code, reason = Code.UNAUTHENTICATED, Reason.CREDENTIALS_MISSING

    def __init__(self) -> None:
        super().__init__("send an API key in the metadata entry 'authorization: Bearer rk_…' or 'x-api-key'")


class CredentialsInvalid(DomainError):
    """Occurs when an API key is malformed, unknown, wrong, expired or revoked: which one is not told."""

    code, reason = Code.UNAUTHENTICATED, Reason.CREDENTIALS_INVALID

    def __init__(self) -> None:
        super().__init__("the API key is not valid")


class ScopeMissing(DomainError):
    """Occurs when a valid key may not do this."""

    code, reason = Code.PERMISSION_DENIED, Reason.SCOPE_MISSING

    def __init__(self, scope: str) -> None:
        super().__init__(f"the API key lacks the scope {scope!r}", metadata={"scope": scope})


class RateLimited(DomainError):
    """Occurs when a key or tenant calls more often than it may; RetryInfo tells when to repeat."""

    code, reason = Code.RESOURCE_EXHAUSTED, Reason.RATE_LIMITED

    def __init__(self, limit: str, per_s: float, subject: str, retry_after_s: float) -> None:
        """limit: the field of RateLimits; subject: whose limit it is, `tenant:<id>` or `api_key:<id>`."""
        super().__init__(
            f"{subject} has used up its {limit} of {per_s:g}; repeat after {retry_after_s:.3f} seconds",
            metadata={"limit": limit, "subject": subject},
            retry_after_s=retry_after_s,
        )


class LimitExceeded(DomainError):
    """Occurs when a bound of the service is reached: message size, stream length, streams open at once."""

    code, reason = Code.RESOURCE_EXHAUSTED, Reason.LIMIT_EXCEEDED

    def __init__(self, limit: str, message: str, *, subject: str = "", retry_after_s: float | None = None) -> None:
        """limit: the name of the setting or field that says how much; retry_after_s: None where repeating is vain."""
        metadata = {"limit": limit} | ({"subject": subject} if subject else {})
        super().__init__(message, metadata=metadata, retry_after_s=retry_after_s)


class StorageUnavailable(DomainError):
    """Occurs when the database cannot be reached in time; the call may be repeated."""

    code, reason = Code.UNAVAILABLE, Reason.STORAGE_UNAVAILABLE

    def __init__(self, retry_after_s: float = 1.0) -> None:
        super().__init__("storage is unavailable at present", retry_after_s=retry_after_s)


class Overloaded(DomainError):
    """Occurs when a queue of the service is full; the call may be repeated after a pause."""

    code, reason = Code.RESOURCE_EXHAUSTED, Reason.OVERLOADED

    def __init__(self, message: str, retry_after_s: float = 0.2) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class DeadlinePassed(DomainError):
    """Occurs when the caller's deadline passes while its work is under way."""

    code, reason = Code.DEADLINE_EXCEEDED, Reason.DEADLINE_TOO_SHORT

    def __init__(self) -> None:
        super().__init__("the deadline passed before the answer was ready")


class StreamIdle(DomainError):
    """Occurs when a stream of requests says nothing for longer than it may; all that it sent is answered."""

    code, reason = Code.DEADLINE_EXCEEDED, Reason.STREAM_IDLE

    def __init__(self, idle_s: float) -> None:
        super().__init__(f"the stream sent nothing for {idle_s:g} seconds")


class ServerDraining(DomainError):
    """Occurs on long streams when this server is about to stop: begin again, elsewhere."""

    code, reason = Code.UNAVAILABLE, Reason.SERVER_DRAINING

    def __init__(self, retry_after_s: float = 0.1) -> None:
        super().__init__("this server is about to stop; begin the stream again", retry_after_s=retry_after_s)


class NotImplementedYet(DomainError):
    """Occurs when a method or option of the contract has no behaviour in this version."""

    code, reason = Code.UNIMPLEMENTED, Reason.NOT_IMPLEMENTED

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not available in this version")
