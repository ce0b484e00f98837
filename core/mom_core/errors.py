"""Every error that MOM reports, with one stable code each.

The table :data:`ERROR_CODES` is the single place that says how a code travels: its HTTP and its
gRPC status, and whether the same call may be tried again. A boundary (gRPC, REST) translates once,
by this table.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class ErrorCode(StrEnum):
    """The stable name of an error. REST shows it as the last part of the problem's ``type``."""

    INVALID_ARGUMENT = "invalid_argument"
    CORRUPT_BATCH = "corrupt_batch"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONFLICT = "conflict"
    OFFSET_TRIMMED = "offset_trimmed"
    OFFSET_OUT_OF_RANGE = "offset_out_of_range"
    DATA_LOSS = "data_loss"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    INVALID_RECEIPT = "invalid_receipt"
    LEASE_LOST = "lease_lost"
    ALREADY_SETTLED = "already_settled"
    REDRIVEN = "redriven"
    PURGED = "purged"
    FENCED = "fenced"
    UNKNOWN_PRODUCER = "unknown_producer"
    OUT_OF_ORDER_SEQUENCE = "out_of_order_sequence"
    NOT_OWNER = "not_owner"
    NOT_LEADER = "not_leader"
    STALE_EPOCH = "stale_epoch"
    OVERLOADED = "overloaded"
    STORE_FULL = "store_full"
    STORE_UNAVAILABLE = "store_unavailable"
    STORE_MISCONFIGURED = "store_misconfigured"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    INTERNAL = "internal"


class CodeTraits(NamedTuple):
    """How an error code travels."""

    http_status: int
    rpc_status: str
    """The name of its gRPC status, which a foreign client sees."""
    retriable: bool
    """The same call may succeed later, and repeating it is safe."""
    title: str


ERROR_CODES: Final[dict[ErrorCode, CodeTraits]] = {
    ErrorCode.INVALID_ARGUMENT: CodeTraits(
        400, "INVALID_ARGUMENT", False, "A value is not allowed"
    ),
    ErrorCode.CORRUPT_BATCH: CodeTraits(400, "INVALID_ARGUMENT", False, "The batch is damaged"),
    ErrorCode.UNAUTHENTICATED: CodeTraits(401, "UNAUTHENTICATED", False, "No valid token"),
    ErrorCode.FORBIDDEN: CodeTraits(
        403, "PERMISSION_DENIED", False, "The token does not allow this"
    ),
    ErrorCode.NOT_FOUND: CodeTraits(404, "NOT_FOUND", False, "No such thing"),
    ErrorCode.METHOD_NOT_ALLOWED: CodeTraits(
        405, "UNIMPLEMENTED", False, "The resource has no such method"
    ),
    ErrorCode.CONFLICT: CodeTraits(409, "ALREADY_EXISTS", False, "Something else stands there"),
    ErrorCode.OFFSET_TRIMMED: CodeTraits(
        410, "OUT_OF_RANGE", False, "Retention removed the offset"
    ),
    ErrorCode.OFFSET_OUT_OF_RANGE: CodeTraits(
        416, "OUT_OF_RANGE", False, "The offset is past the end"
    ),
    ErrorCode.DATA_LOSS: CodeTraits(410, "DATA_LOSS", False, "The store lost this position"),
    ErrorCode.TOO_LARGE: CodeTraits(413, "INVALID_ARGUMENT", False, "Over a size limit"),
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: CodeTraits(
        415, "INVALID_ARGUMENT", False, "The content type is not supported"
    ),
    ErrorCode.INVALID_RECEIPT: CodeTraits(
        400, "INVALID_ARGUMENT", False, "Not a receipt of this queue"
    ),
    ErrorCode.LEASE_LOST: CodeTraits(
        409, "FAILED_PRECONDITION", False, "The lease ended before this call"
    ),
    ErrorCode.ALREADY_SETTLED: CodeTraits(
        409, "FAILED_PRECONDITION", False, "The message was settled before"
    ),
    ErrorCode.REDRIVEN: CodeTraits(
        409, "FAILED_PRECONDITION", False, "The message was redriven to another queue"
    ),
    ErrorCode.PURGED: CodeTraits(
        409, "FAILED_PRECONDITION", False, "The message was purged by an administrator"
    ),
    ErrorCode.FENCED: CodeTraits(
        409, "FAILED_PRECONDITION", False, "Another member holds the partition"
    ),
    ErrorCode.UNKNOWN_PRODUCER: CodeTraits(
        409, "FAILED_PRECONDITION", False, "The producer's state has expired"
    ),
    ErrorCode.OUT_OF_ORDER_SEQUENCE: CodeTraits(
        409, "ABORTED", True, "An earlier batch is missing"
    ),
    ErrorCode.NOT_OWNER: CodeTraits(
        503, "FAILED_PRECONDITION", True, "The partition moved to another node"
    ),
    ErrorCode.NOT_LEADER: CodeTraits(503, "FAILED_PRECONDITION", True, "Another master leads"),
    ErrorCode.STALE_EPOCH: CodeTraits(503, "ABORTED", True, "A newer owner took the partition"),
    ErrorCode.OVERLOADED: CodeTraits(429, "RESOURCE_EXHAUSTED", True, "A limit is reached"),
    ErrorCode.STORE_FULL: CodeTraits(503, "RESOURCE_EXHAUSTED", True, "The store is full"),
    ErrorCode.STORE_UNAVAILABLE: CodeTraits(503, "UNAVAILABLE", True, "The store does not answer"),
    ErrorCode.STORE_MISCONFIGURED: CodeTraits(
        503, "FAILED_PRECONDITION", True, "The store's settings are unsafe"
    ),
    ErrorCode.UNAVAILABLE: CodeTraits(503, "UNAVAILABLE", True, "No server answers"),
    ErrorCode.TIMEOUT: CodeTraits(504, "DEADLINE_EXCEEDED", True, "The time limit passed"),
    ErrorCode.INTERNAL: CodeTraits(500, "INTERNAL", False, "A defect in MOM"),
}


class MomError(Exception):
    """The root of all errors MOM raises.

    ``message`` names the thing, the reason and what to do. ``field`` names the offending input
    field in the words of the interface, if there is one. ``retry_after_ms`` is the wait asked for
    by the server. ``details`` are string facts a program can use, such as ``log_start``.
    """

    code: ErrorCode = ErrorCode.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode | None = None,
        field: str | None = None,
        retry_after_ms: int | None = None,
        details: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.message = message
        self.field = field
        self.retry_after_ms = retry_after_ms
        self.details = details or {}

    @property
    def retriable(self) -> bool:
        """Whether the same call may succeed later."""
        return ERROR_CODES[self.code].retriable

    @property
    def http_status(self) -> int:
        """The HTTP status of this error."""
        return ERROR_CODES[self.code].http_status


class InvalidArgumentError(MomError):
    """A value is outside what the interface allows."""

    code = ErrorCode.INVALID_ARGUMENT


class CorruptBatchError(MomError):
    """A record batch whose checksum or structure does not hold."""

    code = ErrorCode.CORRUPT_BATCH


class UnauthenticatedError(MomError):
    """The call carries no valid token."""

    code = ErrorCode.UNAUTHENTICATED


class ForbiddenError(MomError):
    """The token's scopes do not allow the call."""

    code = ErrorCode.FORBIDDEN


class NotFoundError(MomError):
    """The named topic, queue, subscription, partition or token does not exist."""

    code = ErrorCode.NOT_FOUND


class ConflictError(MomError):
    """Another thing stands under that name, or another writer was first."""

    code = ErrorCode.CONFLICT


class OffsetError(MomError):
    """An offset that can't be read: trimmed, past the end, or lost by the store."""

    code = ErrorCode.OFFSET_OUT_OF_RANGE


class TooLargeError(MomError):
    """A message, batch or body over its size limit."""

    code = ErrorCode.TOO_LARGE


class SettleError(MomError):
    """One receipt that could not be settled: invalid, lost or settled before."""

    code = ErrorCode.LEASE_LOST


class FencedError(MomError):
    """A group member acts on a partition that another member holds now."""

    code = ErrorCode.FENCED


class ProducerError(MomError):
    """A producer sequence the store can't accept."""

    code = ErrorCode.UNKNOWN_PRODUCER


class RoutingError(MomError):
    """The process asked is not the one responsible. Refresh the routing table and try again."""

    code = ErrorCode.NOT_OWNER


class StaleEpochError(MomError):
    """The store knows a newer owner of the partition: this one must stop serving it."""

    code = ErrorCode.STALE_EPOCH


class OverloadedError(MomError):
    """A bounded resource is full. Try again after ``retry_after_ms``."""

    code = ErrorCode.OVERLOADED


class StoreError(MomError):
    """The store failed, is unreachable, is full, or is configured unsafely."""

    code = ErrorCode.STORE_UNAVAILABLE


class UnavailableError(MomError):
    """No server answers."""

    code = ErrorCode.UNAVAILABLE


class TimedOutError(MomError):
    """The time limit of the call passed."""

    code = ErrorCode.TIMEOUT


class InternalError(MomError):
    """A defect in MOM."""

    code = ErrorCode.INTERNAL


_CLASSES: Final[dict[ErrorCode, type[MomError]]] = {
    ErrorCode.INVALID_ARGUMENT: InvalidArgumentError,
    ErrorCode.CORRUPT_BATCH: CorruptBatchError,
    ErrorCode.UNAUTHENTICATED: UnauthenticatedError,
    ErrorCode.FORBIDDEN: ForbiddenError,
    ErrorCode.NOT_FOUND: NotFoundError,
    ErrorCode.METHOD_NOT_ALLOWED: InvalidArgumentError,
    ErrorCode.CONFLICT: ConflictError,
    ErrorCode.OFFSET_TRIMMED: OffsetError,
    ErrorCode.OFFSET_OUT_OF_RANGE: OffsetError,
    ErrorCode.DATA_LOSS: OffsetError,
    ErrorCode.TOO_LARGE: TooLargeError,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: InvalidArgumentError,
    ErrorCode.INVALID_RECEIPT: SettleError,
    ErrorCode.LEASE_LOST: SettleError,
    ErrorCode.ALREADY_SETTLED: SettleError,
    ErrorCode.REDRIVEN: SettleError,
    ErrorCode.PURGED: SettleError,
    ErrorCode.FENCED: FencedError,
    ErrorCode.UNKNOWN_PRODUCER: ProducerError,
    ErrorCode.OUT_OF_ORDER_SEQUENCE: ProducerError,
    ErrorCode.NOT_OWNER: RoutingError,
    ErrorCode.NOT_LEADER: RoutingError,
    ErrorCode.STALE_EPOCH: StaleEpochError,
    ErrorCode.OVERLOADED: OverloadedError,
    ErrorCode.STORE_FULL: StoreError,
    ErrorCode.STORE_UNAVAILABLE: StoreError,
    ErrorCode.STORE_MISCONFIGURED: StoreError,
    ErrorCode.UNAVAILABLE: UnavailableError,
    ErrorCode.TIMEOUT: TimedOutError,
    ErrorCode.INTERNAL: InternalError,
}


def error_of(
    code: str,
    message: str,
    *,
    field: str | None = None,
    retry_after_ms: int | None = None,
    details: dict[str, str] | None = None,
) -> MomError:
    """Build the exception of a code that came over the wire.

    An unknown code (a newer server's) becomes an :class:`InternalError` that keeps the message.
    """
    try:
        known = ErrorCode(code)
    except ValueError:
        return InternalError(f"{message} (unknown error code {code!r})", details=details)
    return _CLASSES[known](
        message, code=known, field=field, retry_after_ms=retry_after_ms, details=details
    )
