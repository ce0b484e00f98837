"""MomError on the wire, the same for servers, clients and peers.

An error travels whole as the ``Error`` message: in replies with a result for each item, and for a
call that failed in the trailing metadata ``mom-error-bin``. What a foreign server or a proxy says
comes without it and is told by the name of its gRPC status. Does not import grpc, so that a client
over plain HTTP goes without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from google.protobuf.message import DecodeError

from mom_core.errors import ErrorCode, MomError, error_of
from mom_proto.v1 import types_pb2

METADATA_KEY: Final = "mom-error-bin"

# What a bare status means when no Error came along: the transport itself failed, or a proxy spoke.
_CODES_OF_BARE_STATUS: Final = {
    "INVALID_ARGUMENT": ErrorCode.INVALID_ARGUMENT,
    "UNAUTHENTICATED": ErrorCode.UNAUTHENTICATED,
    "PERMISSION_DENIED": ErrorCode.FORBIDDEN,
    "NOT_FOUND": ErrorCode.NOT_FOUND,
    "UNIMPLEMENTED": ErrorCode.METHOD_NOT_ALLOWED,
    "RESOURCE_EXHAUSTED": ErrorCode.OVERLOADED,
    "DEADLINE_EXCEEDED": ErrorCode.TIMEOUT,
    "UNAVAILABLE": ErrorCode.UNAVAILABLE,
    # A peer that goes away in the middle of a call shows as one of these.
    "CANCELLED": ErrorCode.UNAVAILABLE,
    "ABORTED": ErrorCode.UNAVAILABLE,
}


def to_proto(error: MomError) -> types_pb2.Error:
    """The wire form of an error."""
    return types_pb2.Error(
        code=error.code.value,
        message=error.message,
        field=error.field or "",
        retry_after_ms=error.retry_after_ms or 0,
        details=error.details,
    )


def from_proto(error: types_pb2.Error) -> MomError:
    """The exception of a wire form."""
    return error_of(
        error.code,
        error.message,
        field=error.field or None,
        retry_after_ms=error.retry_after_ms or None,
        details=dict(error.details),
    )


def from_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> MomError | None:
    """The error in the trailing metadata of a call that failed; None: a foreigner's, without."""
    for key, value in metadata or ():
        if key == METADATA_KEY and isinstance(value, bytes):
            try:
                return from_proto(types_pb2.Error.FromString(value))
            except DecodeError:
                return None
    return None


def code_of_bare_status(status: str) -> ErrorCode:
    """What the name of a gRPC status means when no error came with it."""
    return _CODES_OF_BARE_STATUS.get(status, ErrorCode.INTERNAL)
