"""The murmur2 vectors come from a C program written from the published algorithm; those of "21",
"foobar" and the long ones equal the values that Kafka's own tests state."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mom_core.errors import InvalidArgumentError
from mom_core.partitioner import HASH_SPACE, HashRange, Partitioner, hash_range, murmur2

VECTORS = [
    (b"", 0x106E08D9),
    (b"a", 0xA2D0B27C),
    (b"ab", 0x12D8262A),
    (b"abc", 0x1C94221B),
    (b"abcd", 0xB11AB5F4),
    (b"21", 0xC5F2F8EC),
    (b"foobar", 0xD0E47BBE),
    (b"a-little-bit-long-string", 0xC53B1DA0),
    (b"a-little-bit-longer-string", 0xA768C9C3),
    (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", 0xFC7D49CD),
    (bytes(range(256)), 0x8BDE9476),
    (b"\xff" * 7, 0xFBC02593),
    ("Київ".encode(), 0xC67DAE2A),
]


@pytest.mark.parametrize(("key", "expected"), VECTORS)
def test_murmur2_vectors(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected
    assert murmur2(key) == expected  # and again, now from the cache


@given(st.integers(1, 1024))
def test_equal_ranges_cover_the_space_once(count: int) -> None:
    ranges = [hash_range(index, count) for index in range(count)]
    assert ranges[0].first == 0
    assert ranges[-1].end == HASH_SPACE
    assert all(a.end == b.first for a, b in pairwise(ranges))
    sizes = [r.end - r.first for r in ranges]
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 1024), st.integers(0, HASH_SPACE - 1))
def test_a_hash_falls_into_its_own_range(count: int, key_hash: int) -> None:
    first, end = hash_range(Partitioner.equal(count).of_hash(key_hash), count)
    assert first <= key_hash < end


@given(st.binary(max_size=300), st.integers(1, 64))
def test_a_key_always_goes_to_one_partition(key: bytes, count: int) -> None:
    one, other = Partitioner.equal(count), Partitioner.equal(count, start=3)
    other.rotate()
    assert one.choose(key) == other.choose(key)


@given(st.integers(1, 16), st.integers(0, 1000), st.integers(1, 50))
def test_no_key_rotates_from_the_start(count: int, start: int, messages: int) -> None:
    partitioner = Partitioner.equal(count, start)
    chosen = [partitioner.choose(None) for _ in range(messages)]
    assert chosen == [(start + i) % count for i in range(messages)]


def test_a_keyed_message_does_not_disturb_the_rotation() -> None:
    partitioner = Partitioner.equal(4)
    assert [partitioner.choose(k) for k in (None, b"k", None)][::2] == [0, 1]


def test_a_split_partition_keeps_the_keys_of_the_others() -> None:
    before = Partitioner.equal(3)
    low, middle, high = (hash_range(index, 3) for index in range(3))
    half = (middle.first + middle.end) // 2
    after = Partitioner([low, HashRange(middle.first, half), high, HashRange(half, middle.end)])
    for number in range(1000):
        key = b"%d" % number
        was, now = before.choose(key), after.choose(key)
        assert was == now or (was, now) == (1, 3)


@pytest.mark.parametrize(
    "ranges",
    [
        [],
        [HashRange(0, HASH_SPACE - 1)],
        [HashRange(1, HASH_SPACE)],
        [HashRange(0, 10), HashRange(11, HASH_SPACE)],
        [HashRange(0, 10), HashRange(9, HASH_SPACE)],
        [HashRange(0, 0), HashRange(0, HASH_SPACE)],
    ],
)
def test_ranges_that_do_not_cover_the_space_are_refused(ranges: list[HashRange]) -> None:
    with pytest.raises(InvalidArgumentError, match="ranges"):
        Partitioner(ranges)
