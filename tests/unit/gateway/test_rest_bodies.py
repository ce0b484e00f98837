"""Messages as JSON, streams as lines, ranges of receipts: the pure parts of the gateway."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mom_core.errors import InvalidArgumentError, MomError
from mom_core.ids import id_text, message_id
from mom_core.message import Message
from mom_core.receipts import Receipt
from mom_gateway.bodies import (
    MessageIn,
    decode_item,
    decode_items,
    message_of,
    rfc3339,
    show_record,
)
from mom_gateway.publishing import BatchIds, LineSplitter
from mom_gateway.routes.messages import ranges_of
from mom_proto.v1 import broker_pb2


def stored(body: bytes) -> Message:
    item = decode_item(body)
    assert isinstance(item, MessageIn), item
    return message_of(item, 1_000)


def shown(message: Message) -> Any:
    return msgspec.json.decode(msgspec.json.encode(show_record(3, message)))


@pytest.mark.parametrize(
    ("body", "value", "content_type"),
    [
        (b'{"value": "text"}', b"text", "text/plain"),
        (b'{"value": ""}', b"", "text/plain"),
        ('{"value": "ä\\n\\u00e4"}'.encode(), "ä\nä".encode(), "text/plain"),
        (b'{"value": {"a": 1.50}}', b'{"a": 1.50}', "application/json"),
        (b'{"value": null}', b"null", "application/json"),
        (b'{"value": 12345678901234567890123}', b"12345678901234567890123", "application/json"),
        (b'{"value_base64": "AAH/"}', b"\0\1\xff", None),
        (b'{"value": "<a/>", "content_type": "text/xml"}', b"<a/>", "text/xml"),
        (b'{"value": "x", "content_type": "application/json"}', b'"x"', "application/json"),
    ],
)
def test_a_value_is_stored_as_its_form_says(
    body: bytes, value: bytes, content_type: str | None
) -> None:
    message = stored(body)
    assert message.value == value
    assert message.content_type == content_type


@pytest.mark.parametrize(
    ("value", "content_type", "expected"),
    [
        (b"text", "text/plain", {"value": "text"}),
        (b'{"a": 1}', "application/json", {"value": {"a": 1}}),
        (b"null", "application/json", {"value": None}),
        (b'{"a": 1}', "application/problem+json; charset=utf-8", {"value": {"a": 1}}),
        (b"\xff", "text/plain", {"value_base64": "/w=="}),
        (b"{", "application/json", {"value_base64": "ew=="}),
        (b'"\xff"', "application/json", {"value_base64": "Iv8i"}),
        (b"text", "image/png", {"value_base64": "dGV4dA=="}),
        (b"text", None, {"value_base64": "dGV4dA=="}),
    ],
)
def test_a_value_is_shown_as_its_content_type_says(
    value: bytes, content_type: str | None, expected: dict[str, Any]
) -> None:
    record = shown(Message(value, content_type=content_type, id=bytes(16), timestamp_ms=1))
    assert {name: record[name] for name in record if name.startswith("value")} == expected
    assert record.get("content_type") == content_type


@given(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers()),
        st.none(),
        st.booleans(),
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
def test_any_json_value_comes_back_as_it_went(value: Any, key: str) -> None:
    message = stored(msgspec.json.encode({"value": value, "key": key}))
    record = shown(msgspec.structs.replace(message, id=bytes(16), timestamp_ms=1))
    assert record["value"] == value
    assert record["key"] == key


@given(st.binary())
def test_any_bytes_come_back_as_they_went(value: bytes) -> None:
    body = msgspec.json.encode({"value_base64": value, "key_base64": b"\xff" + value})
    message = stored(body)
    assert message.value == value
    record = shown(msgspec.structs.replace(message, id=bytes(16), timestamp_ms=1))
    assert msgspec.convert(record["value_base64"], bytes) == value
    assert msgspec.convert(record["key_base64"], bytes) == b"\xff" + value


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{}", "value"),
        (b'{"value": 1, "value_base64": "AA=="}', "value_base64"),
        (b'{"value_base64": "?"}', "value_base64"),
        (b'{"value": 1, "content_type": "text/plain"}', "value"),
        (b'{"value": 1, "vaule": 2}', "vaule"),
        (b'{"value": 1, "key": 2}', "key"),
        (b'{"value": 1, "headers": {"a": 1}}', "headers"),
        (b'{"value": 1, "timestamp_ms": -1}', "timestamp_ms"),
        (b'{"value": 1, "id": "x"}', "id"),
        (b'{"value": 1, "delay_ms": -1}', "delay_ms"),
        (b'{"value": 1, "delay_ms": 5, "deliver_at_ms": 9}', "delay_ms"),
        (b'{"value": 1, "ttl_ms": 300000000000000}', "ttl_ms"),
        (b'"text"', "body"),
    ],
)
def test_a_wrong_item_names_its_field(body: bytes, field: str) -> None:
    item = decode_item(body)
    if isinstance(item, MessageIn):
        with pytest.raises(InvalidArgumentError) as caught:
            message_of(item, 1_000)
        assert caught.value.field == field
    else:
        assert item.field == field


def test_waits_count_from_now() -> None:
    item = decode_item(b'{"value": 1, "delay_ms": 5, "ttl_ms": 50, "priority": 3}')
    assert isinstance(item, MessageIn)
    message = message_of(item, 1_000)
    assert (message.deliver_at_ms, message.expires_at_ms, message.priority) == (1_005, 1_050, 3)


@pytest.mark.parametrize(
    ("body", "position"),
    [
        (b'{"records": [{"value": 1,}]}', 25),
        (b'{"records": [', 13),
        (b"", 0),
        (b'{"value": "\xff"}', 11),
        (b'{"value" 1}', 9),
    ],
)
def test_wrong_json_names_the_position(body: bytes, position: int) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        decode_items(body, queue=False)
    assert caught.value.details["position"] == str(position)
    assert caught.value.field == "body"


def test_one_wrong_item_spares_the_others() -> None:
    items, single = decode_items(
        b'{"messages": [{"value": 1}, {"key": 1}, {"value": 2}]}', queue=True
    )
    assert not single
    assert [isinstance(item, MomError) for item in items] == [False, True, False]


def test_a_body_has_a_batch_or_one_message() -> None:
    items, single = decode_items(b'{"value": 1}', queue=False)
    assert single
    assert len(items) == 1
    with pytest.raises(InvalidArgumentError):
        decode_items(b'{"value": 1, "records": []}', queue=False)
    with pytest.raises(InvalidArgumentError) as caught:
        decode_items(b'{"messages": []}', queue=False)
    assert caught.value.field == "messages"


@given(st.lists(st.binary(max_size=12).map(lambda text: text + b"\n"), max_size=8), st.data())
def test_lines_do_not_depend_on_how_they_come(pieces: list[bytes], data: st.DataObject) -> None:
    text = b"".join(pieces) + data.draw(st.binary(max_size=5))
    expected = text.split(b"\n")
    if not expected[-1]:
        expected.pop()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    splitter = LineSplitter(1000)
    lines = []
    for first, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        lines += splitter.feed(text[first:end])
    assert lines + splitter.finish() == expected


def test_a_line_over_the_limit_is_skipped_to_its_end() -> None:
    splitter = LineSplitter(4)
    lines = splitter.feed(b"12345") + splitter.feed(b"6") + splitter.feed(b"7\n1234\n12")
    assert lines == [None, b"1234"]
    assert splitter.feed(b"345") == []
    assert splitter.finish() == [None]


@given(st.binary(min_size=16, max_size=16), st.integers(0, 70_000))
def test_ids_of_a_batch_as_text(base_id: bytes, index: int) -> None:
    assert BatchIds(base_id).text(index) == id_text(message_id(base_id, index))


def test_receipts_of_consecutive_offsets_become_one_range() -> None:
    receipts = [
        Receipt(0, 5, 1),
        Receipt(0, 4, 1),
        Receipt(0, 4, 1),
        Receipt(0, 6, 2),
        Receipt(1, 7, 1),
    ]
    ranges = ranges_of(receipts, broker_pb2.SETTLE_ACTION_ACK, 9)
    assert [(one.partition, one.first_offset, one.count, one.lease_id) for one in ranges] == [
        (0, 4, 2, 1),
        (0, 6, 1, 2),
        (1, 7, 1, 1),
    ]


def test_times_are_rfc_3339_to_the_millisecond() -> None:
    assert rfc3339(1_700_000_000_042) == "2023-11-14T22:13:20.042Z"
