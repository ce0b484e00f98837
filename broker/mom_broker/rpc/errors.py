"""MomError over gRPC: a status for any client, and the whole error in trailing metadata for ours.

The broker's one boundary of errors. The status code is what a foreign client sees; MOM's own client
and peers read the ``Error`` message in the trailing metadata ``mom-error-bin`` and raise the same
exception again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import grpc
from google.protobuf.message import DecodeError

from mom_core.errors import ERROR_CODES, ErrorCode, MomError, error_of
from mom_proto.v1 import types_pb2

METADATA_KEY: Final = "mom-error-bin"

# HTTP/2 peers commonly refuse metadata over 8 KiB in all; an error has to fit beside the rest.
ERROR_BYTES_MAX: Final = 4_096
_MESSAGE_CHARACTERS_MAX: Final = 1_024

# What a bare status means when no Error came along: the transport itself failed, or a proxy spoke.
_CODE_OF_BARE_STATUS: Final[dict[grpc.StatusCode, ErrorCode]] = {
    grpc.StatusCode.INVALID_ARGUMENT: ErrorCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNAUTHENTICATED: ErrorCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED: ErrorCode.FORBIDDEN,
    grpc.StatusCode.NOT_FOUND: ErrorCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED: ErrorCode.METHOD_NOT_ALLOWED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ErrorCode.OVERLOADED,
    grpc.StatusCode.DEADLINE_EXCEEDED: ErrorCode.TIMEOUT,
    grpc.StatusCode.UNAVAILABLE: ErrorCode.UNAVAILABLE,
    # A peer that goes away in the middle of a call shows as one of these.
    grpc.StatusCode.CANCELLED: ErrorCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED: ErrorCode.UNAVAILABLE,
}


def status_of(code: ErrorCode) -> grpc.StatusCode:
    """The gRPC status that an error code travels under."""
    return grpc.StatusCode[ERROR_CODES[code].rpc_status]


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


def trailing_metadata(error: MomError) -> tuple[tuple[str, bytes], ...]:
    """The metadata that carries an error, kept to ERROR_BYTES_MAX."""
    wire = to_proto(error)
    if wire.ByteSize() > ERROR_BYTES_MAX:
        wire.message = wire.message[:_MESSAGE_CHARACTERS_MAX]
        if wire.ByteSize() > ERROR_BYTES_MAX:
            wire.details.clear()
    return ((METADATA_KEY, wire.SerializeToString()),)


def from_rpc_error(error: grpc.aio.AioRpcError, peer: str = "the server") -> MomError:
    """The exception that the peer reported, or what the failed transport comes down to."""
    # grpcio's stubs hide that metadata may be absent.
    metadata: Iterable[tuple[str, str | bytes]] = error.trailing_metadata() or ()
    for key, value in metadata:
        if key == METADATA_KEY and isinstance(value, bytes):
            try:
                return from_proto(types_pb2.Error.FromString(value))
            except DecodeError:
                break
    code = _CODE_OF_BARE_STATUS.get(error.code(), ErrorCode.INTERNAL)
    reason = error.details() or error.code().name.lower()
    return error_of(code.value, f"the call to {peer} failed: {reason}")
