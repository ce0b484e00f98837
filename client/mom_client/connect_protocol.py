"""The Connect protocol (connectrpc.com), the part of it that MOM speaks: no I/O.

A gateway serves MOM's gRPC methods under their own paths to clients that reach no node, over plain
HTTP/1.1 that any proxy passes on. A unary call is a POST of the request message with content type
``application/proto``; the answer is the reply message with 200, or an error as JSON with the HTTP
status of its code. A server stream has content type ``application/connect+proto`` and envelopes: a
byte of flags, four bytes of length, then a message; the last envelope has the end flag and JSON.

Beside the standard headers, ``mom-target`` names the process (``host:port``) that is to get a call.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from google.protobuf.message import DecodeError

from mom_core import limits
from mom_core.errors import ERROR_CODES, MomError
from mom_process.wire_errors import from_proto, to_proto
from mom_proto.v1 import types_pb2

UNARY_TYPE: Final = "application/proto"
STREAM_TYPE: Final = "application/connect+proto"
ERROR_TYPE: Final = "application/json"
VERSION_HEADER: Final = "connect-protocol-version"
TIMEOUT_HEADER: Final = "connect-timeout-ms"
TARGET_HEADER: Final = "mom-target"

_ENVELOPE_BYTES: Final = 5
_FLAG_END: Final = 2
_DETAIL_TYPE: Final = "mom.v1.Error"


class _Detail(msgspec.Struct):
    type: str = ""
    value: str = ""


class _Error(msgspec.Struct):
    code: str = ""
    message: str = ""
    details: list[_Detail] = []


class _End(msgspec.Struct):
    error: _Error | None = None


_error_decoder: Final = msgspec.json.Decoder(_Error)
_end_decoder: Final = msgspec.json.Decoder(_End)


def error_document(error: MomError) -> dict[str, Any]:
    """An error as the protocol has it: a standard code, and ours whole in its details."""
    ours = base64.b64encode(to_proto(error).SerializeToString()).decode().rstrip("=")
    return {
        "code": ERROR_CODES[error.code].rpc_status.lower(),
        "message": error.message,
        "details": [{"type": _DETAIL_TYPE, "value": ours}],
    }


def parse_error(body: bytes) -> MomError | None:
    """The MOM error in the body of an answer; None when it is somebody else's."""
    try:
        return _ours(_error_decoder.decode(body))
    except msgspec.DecodeError:
        return None


def _ours(found: _Error) -> MomError | None:
    for detail in found.details:
        if detail.type == _DETAIL_TYPE:
            padded = detail.value + "=" * (-len(detail.value) % 4)
            try:
                wire = types_pb2.Error.FromString(base64.b64decode(padded, validate=True))
            except (DecodeError, binascii.Error):
                return None
            return from_proto(wire)
    return None


def envelope(message: bytes) -> bytes:
    """A message of a stream."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def end_envelope(error: MomError | None = None) -> bytes:
    """The end of a stream."""
    document = msgspec.json.encode({} if error is None else {"error": error_document(error)})
    return bytes((_FLAG_END,)) + len(document).to_bytes(4, "big") + document


class EnvelopeReader:
    """Bytes of a stream in, messages out. Holds at most one message that is not whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.ended = False
        """Whether the end envelope came: without it, the connection broke."""
        self.error: MomError | None = None
        """With which the stream ended."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that are whole now. Raises ValueError for bytes of another protocol."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _ENVELOPE_BYTES and not self.ended:
            flags, length = buffer[0], int.from_bytes(buffer[1:_ENVELOPE_BYTES], "big")
            if flags & ~_FLAG_END or length > limits.GRPC_MESSAGE_BYTES_MAX:
                raise ValueError(f"an envelope with flags {flags} and {length} bytes")
            if len(buffer) < _ENVELOPE_BYTES + length:
                return
            message = bytes(buffer[_ENVELOPE_BYTES : _ENVELOPE_BYTES + length])
            del buffer[: _ENVELOPE_BYTES + length]
            if flags & _FLAG_END:
                self._end(message)
            else:
                yield message

    def _end(self, document: bytes) -> None:
        self.ended = True
        try:
            error = _end_decoder.decode(document).error
        except msgspec.DecodeError as error_in_json:
            raise ValueError(f"the end of the stream is not JSON: {error_in_json}") from None
        if error is not None:
            self.error = _ours(error) or MomError(f"{error.code}: {error.message}")
