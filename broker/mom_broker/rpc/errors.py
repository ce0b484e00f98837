"""MomError over gRPC: a status for any client, and the whole error in trailing metadata for ours.

The broker's one boundary of errors. The status code is what a foreign client sees; MOM's own client
and peers read the ``Error`` message in the trailing metadata ``mom-error-bin`` and raise the same
exception again.
"""

from __future__ import annotations

from typing import Final

import grpc

from mom_core.errors import ERROR_CODES, ErrorCode, MomError, error_of
from mom_process.wire_errors import METADATA_KEY, code_of_bare_status, from_metadata, to_proto

# HTTP/2 peers commonly refuse metadata over 8 KiB in all; an error has to fit beside the rest.
ERROR_BYTES_MAX: Final = 4_096
_MESSAGE_CHARACTERS_MAX: Final = 1_024


def status_of(code: ErrorCode) -> grpc.StatusCode:
    """The gRPC status that an error code travels under."""
    return grpc.StatusCode[ERROR_CODES[code].rpc_status]


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
    whole = from_metadata(error.trailing_metadata())
    if whole is not None:
        return whole
    status = error.code().name
    reason = error.details() or status.lower()
    return error_of(code_of_bare_status(status).value, f"the call to {peer} failed: {reason}")
