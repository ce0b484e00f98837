"""The bytes of the Connect protocol."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mom_client import connect_protocol as connect
from mom_core.errors import ErrorCode, MomError, OverloadedError

ERROR = OverloadedError(
    "the queue is full", field="queue", retry_after_ms=200, details={"limit_bytes": "10"}
)


def test_an_error_travels_whole_and_has_a_standard_code() -> None:
    document = connect.error_document(ERROR)
    assert document["code"] == "resource_exhausted"
    assert document["message"] == "the queue is full"
    found = connect.parse_error(json.dumps(document).encode())
    assert isinstance(found, OverloadedError)
    assert found.message == ERROR.message
    assert (found.field, found.retry_after_ms, found.details) == (
        "queue",
        200,
        {"limit_bytes": "10"},
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>502 Bad Gateway</html>",
        b"[]",
        b'{"code": "unavailable"}',
        b'{"details": [{"type": "mom.v1.Error", "value": "!"}]}',
        b'{"details": [{"type": "mom.v1.Error", "value": "/////w"}]}',
    ],
)
def test_what_others_say_is_no_error_of_ours(body: bytes) -> None:
    assert connect.parse_error(body) is None


@given(
    messages=st.lists(st.binary(max_size=300), max_size=6),
    cuts=st.lists(st.integers(1, 40), min_size=1),
    failed=st.booleans(),
)
def test_a_stream_comes_out_however_it_was_cut(
    messages: list[bytes], cuts: list[int], failed: bool
) -> None:
    data = b"".join(map(connect.envelope, messages))
    data += connect.end_envelope(ERROR if failed else None)
    reader = connect.EnvelopeReader()
    found: list[bytes] = []
    turn = 0
    while data:
        assert not reader.ended
        cut = cuts[turn % len(cuts)]
        found += reader.feed(data[:cut])
        data = data[cut:]
        turn += 1
    assert found == messages
    assert reader.ended
    assert (reader.error is not None) == failed
    if failed:
        assert isinstance(reader.error, OverloadedError)


def test_an_error_of_another_server_ends_a_stream_too() -> None:
    document = b'{"error": {"code": "internal", "message": "oops"}}'
    reader = connect.EnvelopeReader()
    assert list(reader.feed(b"\x02" + len(document).to_bytes(4, "big") + document)) == []
    assert isinstance(reader.error, MomError)
    assert reader.error.code is ErrorCode.INTERNAL


@pytest.mark.parametrize("data", [b"HTTP/1.1 200 OK", b"\0\xff\xff\xff\xff", b"\x02\0\0\0\x01{"])
def test_bytes_of_another_protocol_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"envelope|JSON"):
        list(connect.EnvelopeReader().feed(data))
