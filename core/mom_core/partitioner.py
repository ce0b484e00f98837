"""Which partition a message goes to.

A key is hashed with Kafka's murmur2 (32 bits, seed 0x9747b28c) and the unsigned hash falls into
exactly one partition's range. Ranges, and not ``hash % partitions``, so that one partition can be
split later without moving the keys of the others. A topic begins with equal ranges: partition i of
n owns ``[i * 2^32 // n, (i + 1) * 2^32 // n)``.

Without a key, messages rotate over the partitions.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from mom_core.errors import InvalidArgumentError
from mom_core.limits import HASH_CACHE_KEY_BYTES_MAX, HASH_CACHE_KEYS_MAX, PARTITIONS_MAX

HASH_SPACE: Final = 1 << 32

_MASK: Final = HASH_SPACE - 1
_SEED: Final = 0x9747B28C
_MULTIPLIER: Final = 0x5BD1E995


class HashRange(NamedTuple):
    """The hashes ``first <= hash < end``."""

    first: int
    end: int


def hash_range(index: int, count: int) -> HashRange:
    """The range that partition ``index`` owns in a topic of ``count`` equal partitions."""
    assert 0 <= index < count, "no such partition"
    return HashRange(index * HASH_SPACE // count, (index + 1) * HASH_SPACE // count)


def murmur2(key: bytes) -> int:
    """The unsigned 32-bit murmur2 of ``key``. Short keys are remembered, up to a bound."""
    if len(key) <= HASH_CACHE_KEY_BYTES_MAX:
        return _murmur2_cached(key)
    return _murmur2(key)


def _murmur2(key: bytes) -> int:
    length = len(key)
    words = length >> 2
    result = _SEED ^ length
    for word in struct.unpack_from(f"<{words}I", key):
        mixed = word * _MULTIPLIER & _MASK
        mixed = (mixed ^ mixed >> 24) * _MULTIPLIER
        result = (result * _MULTIPLIER ^ mixed) & _MASK
    if length & 3:
        rest = int.from_bytes(key[words << 2 :], "little")
        result = (result ^ rest) * _MULTIPLIER & _MASK
    result = (result ^ result >> 13) * _MULTIPLIER & _MASK
    return result ^ result >> 15


_murmur2_cached = lru_cache(maxsize=HASH_CACHE_KEYS_MAX)(_murmur2)


class Partitioner:
    """Chooses the partition of each message of one topic. Not safe for concurrent use.

    ``ranges[i]`` is the range of partition i; together they cover the hash space once.
    ``start`` is the partition of the first message without a key: many short-lived producers that
    each begin at a random one spread their load.
    """

    __slots__ = ("_count", "_firsts", "_next", "_owners")

    def __init__(self, ranges: Sequence[HashRange], start: int = 0) -> None:
        """Raises InvalidArgumentError unless the ranges cover the hash space exactly once."""
        by_first = sorted((key_range, index) for index, key_range in enumerate(ranges))
        _check_cover([key_range for key_range, _ in by_first])
        self._firsts = [key_range.first for key_range, _ in by_first]
        self._owners = [index for _, index in by_first]
        self._count = len(by_first)
        self._next = start % self._count

    @classmethod
    def equal(cls, count: int, start: int = 0) -> Partitioner:
        """A partitioner over ``count`` equal ranges."""
        return cls([hash_range(index, count) for index in range(count)], start)

    def choose(self, key: bytes | None) -> int:
        """The partition of a message with this key, or the next one in turn without a key."""
        if key is None:
            return self.rotate()
        return self.of_hash(murmur2(key))

    def of_hash(self, key_hash: int) -> int:
        """The partition that owns a 32-bit hash."""
        return self._owners[bisect_right(self._firsts, key_hash) - 1]

    def rotate(self) -> int:
        """The next partition in turn."""
        chosen = self._next
        self._next = (chosen + 1) % self._count
        return chosen


def _check_cover(ranges: Sequence[HashRange]) -> None:
    if not 0 < len(ranges) <= PARTITIONS_MAX:
        raise InvalidArgumentError(
            f"{len(ranges)} partition ranges; 1 to {PARTITIONS_MAX} are allowed", field="ranges"
        )
    expected = 0
    for key_range in ranges:
        if key_range.first != expected or key_range.end <= key_range.first:
            raise InvalidArgumentError(
                f"the partition ranges do not cover the hash space once: a range begins at "
                f"{key_range.first} and ends at {key_range.end} where {expected} is the next "
                "hash; fetch the routing table again",
                field="ranges",
            )
        expected = key_range.end
    if expected != HASH_SPACE:
        raise InvalidArgumentError(
            f"the partition ranges end at {expected} and not at {HASH_SPACE}; fetch the routing "
            "table again",
            field="ranges",
        )
