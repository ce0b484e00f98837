"""Positions as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mom_core.errors import InvalidArgumentError
from mom_core.limits import OFFSET_MAX, PARTITIONS_MAX
from mom_core.positions import Position, parse_position


@given(st.integers(0, PARTITIONS_MAX - 1), st.integers(0, OFFSET_MAX))
def test_text_there_and_back(partition: int, offset: int) -> None:
    position = Position(partition, offset)
    assert parse_position(str(position)) == position


@pytest.mark.parametrize(
    "text", ["", "1", "0:", ":1", "0:-1", " 0:1", "0:1\n", "1024:0", "0:9007199254740992", "٣:1"]
)
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        parse_position(text)
    assert refused.value.field == "position"
