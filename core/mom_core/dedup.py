"""The window in which a second message with the same dedup_id is not stored again. Pure.

Ids are known by the 16 bytes that a batch's column has of each (:func:`mom_core.batch.dedup_hash`).
Only messages that have landed are in the window. A batch that is sent again after its answer was
lost finds its own ids there: :meth:`DedupWindow.duplicates_of_landed` tells them from others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from mom_core.batch import NO_DEDUP

_HASH_BYTES: Final = 16


class BatchIds(NamedTuple):
    """The dedup ids of a batch."""

    hashes: list[bytes]
    """Of each message; zeros for one without."""
    distinct: frozenset[bytes]
    """The ids themselves."""


def ids_of(hashes: list[bytes]) -> BatchIds:
    """The ids of a batch by its column."""
    distinct = frozenset(hashes)
    return BatchIds(hashes, distinct - {NO_DEDUP} if NO_DEDUP in distinct else distinct)


class Landing(msgspec.Struct):
    """The messages of one batch that landed with a dedup_id."""

    time_ms: int
    """When it was appended."""
    offsets: Sequence[int]
    """Ascending."""
    hashes: list[bytes]
    """One for each offset."""


class _StoredLanding(msgspec.Struct, array_like=True, frozen=True):
    time_ms: int
    first: int
    offsets: list[int] | None
    """None: one after the other from the first on."""
    hashes: bytes


_stored_decoder: Final = msgspec.msgpack.Decoder(list[_StoredLanding])


class DedupWindow:
    """The ids that landed within the window. Bounded by its user, by the number of ids."""

    def __init__(self) -> None:
        self.landings: deque[Landing] = deque()
        """In the order of their times."""
        self._ids: dict[bytes, Landing] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def expire(self, before_ms: int) -> int:
        """Forget what landed before a time; return how many ids that were."""
        known = len(self._ids)
        while self.landings and self.landings[0].time_ms < before_ms:
            landing = self.landings.popleft()
            for one in landing.hashes:
                if self._ids.get(one) is landing:
                    del self._ids[one]
        return known - len(self._ids)

    def duplicates(self, ids: BatchIds) -> tuple[int, ...]:
        """The places in a new batch whose ids landed before, or stand before in the same batch."""
        hashes, distinct = ids
        # By the view: a set would go through all of the dict.
        if len(distinct) == len(hashes) and self._ids.keys().isdisjoint(distinct):
            return ()
        found: list[int] = []
        before: set[bytes] = set()
        for place, one in enumerate(hashes):
            if one == NO_DEDUP:
                continue
            if one in self._ids or one in before:
                found.append(place)
            before.add(one)
        return tuple(found)

    def landed(
        self, time_ms: int, base_offset: int, hashes: Sequence[bytes], left_out: Sequence[int] = ()
    ) -> int:
        """Remember a batch from its base offset on, of which some places were left out.

        Returns how many ids are new.
        """
        stored = list(hashes)
        for place in reversed(left_out):
            del stored[place]
        if NO_DEDUP not in stored:
            offsets = range(base_offset, base_offset + len(stored))
            return self.remember(Landing(time_ms, offsets, stored))
        places = [base_offset + place for place, one in enumerate(stored) if one != NO_DEDUP]
        return self.remember(Landing(time_ms, places, [one for one in stored if one != NO_DEDUP]))

    def remember(self, landing: Landing) -> int:
        """Take in a landing, later than all before. Returns how many ids are new."""
        if not landing.hashes:
            return 0
        known = len(self._ids)
        self.landings.append(landing)
        # The last one counts, where the window was shorter once: it is remembered longest.
        self._ids.update(dict.fromkeys(landing.hashes, landing))
        return len(self._ids) - known

    def offset_of(self, one: bytes) -> int | None:
        """Where the first message with an id is; None when it is not in the window."""
        landing = self._ids.get(one)
        return landing.offsets[landing.hashes.index(one)] if landing is not None else None

    def duplicates_of_landed(
        self, base_offset: int, hashes: Sequence[bytes]
    ) -> list[tuple[int, int]]:
        """Which places of a batch that landed from a base offset on were left out of it, each with
        the offset of the first message with its id."""
        found: list[tuple[int, int]] = []
        following = base_offset
        for place, one in enumerate(hashes):
            first = None if one == NO_DEDUP else self.offset_of(one)
            if first is None or first == following:
                following += 1
            else:
                found.append((place, first))
        return found


def encode_landings(landings: Sequence[Landing]) -> bytes:
    """Landings as they are kept beside the log."""
    return msgspec.msgpack.encode(
        [
            _StoredLanding(
                one.time_ms,
                one.offsets[0],
                None if isinstance(one.offsets, range) else list(one.offsets),
                b"".join(one.hashes),
            )
            for one in landings
        ]
    )


def decode_landings(data: bytes) -> list[Landing]:
    """What :func:`encode_landings` wrote."""
    return [_landing(one) for one in _stored_decoder.decode(data)]


def _landing(stored: _StoredLanding) -> Landing:
    blob = stored.hashes
    hashes = [blob[at : at + _HASH_BYTES] for at in range(0, len(blob), _HASH_BYTES)]
    offsets = stored.offsets or range(stored.first, stored.first + len(hashes))
    return Landing(stored.time_ms, offsets, hashes)
