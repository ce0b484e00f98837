"""Which nodes there should be, as whoever runs them says: kept under ``expected``.

Where nobody says so, nothing is expected and nothing is missing: nodes come and go as they like.
"""

from __future__ import annotations

from typing import Final

import msgspec

from mom_core import catalog
from mom_core.ports import KeyWrite, Store

EXPECTED_KEY: Final = "expected"


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes that should be there."""

    racks: dict[str, str] = {}
    """Failure domains by node id; an empty one is not known."""


def expected_write(expected: Expected) -> KeyWrite:
    """How to remember it; nothing expected is nothing stored."""
    return KeyWrite(EXPECTED_KEY, catalog.encode(expected) if expected.racks else None)


async def load_expected(store: Store) -> Expected:
    """What was said last."""
    entry = await store.get(EXPECTED_KEY)
    return Expected() if entry is None else catalog.decode(entry.value, Expected)
