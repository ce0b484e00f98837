"""Receipts: what goes in comes out, and nothing else is taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mom_core.errors import ErrorCode, SettleError
from mom_core.receipts import Receipt, decode_receipt, encode_receipt

TOPIC_ID = bytes(range(16))
NAMES = st.text("abcXYZ019._-", min_size=1, max_size=30)
U64 = st.integers(0, 2**64 - 1)


@given(st.binary(min_size=16, max_size=16), NAMES, st.integers(0, 1023), U64, U64)
def test_round_trip(topic_id: bytes, name: str, partition: int, offset: int, lease_id: int) -> None:
    text = encode_receipt(topic_id, name, partition, offset, lease_id)
    assert decode_receipt(text, topic_id, name) == Receipt(partition, offset, lease_id)


@given(st.integers(0, 65), st.sampled_from("ABab01-_=+/ é"))
def test_any_changed_character_is_refused(place: int, character: str) -> None:
    text = encode_receipt(TOPIC_ID, "orders", 3, 42, 7)
    changed = text[:place] + character + text[place + 1 :]
    if changed == text:
        return
    with pytest.raises(SettleError) as caught:
        decode_receipt(changed, TOPIC_ID, "orders")
    assert caught.value.code is ErrorCode.INVALID_RECEIPT


@pytest.mark.parametrize("text", ["", "x", "é" * 66, "A" * 65, "A" * 67, "A" * 66])
def test_malformed(text: str) -> None:
    with pytest.raises(SettleError, match="malformed"):
        decode_receipt(text, TOPIC_ID, "orders")


def test_another_queues_receipt_says_so() -> None:
    text = encode_receipt(TOPIC_ID, "orders", 0, 1, 7)
    with pytest.raises(SettleError, match="another topic or queue, or to one of this name"):
        decode_receipt(text, bytes(16), "orders")
    with pytest.raises(SettleError, match="another subscription"):
        decode_receipt(text, TOPIC_ID, "mail")
