"""Where a message is: its partition and offset, by which a waiting one is cancelled or moved.

As text ``PARTITION:OFFSET``, such as ``0:42``: what publishing answers.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from mom_core.errors import InvalidArgumentError
from mom_core.limits import OFFSET_MAX, PARTITIONS_MAX

_FORM: Final = re.compile(r"([0-9]{1,4}):([0-9]{1,16})")


class Position(NamedTuple):
    """A message's place in its topic or queue."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"


def parse_position(text: str, field: str = "position") -> Position:
    """The inverse of ``str``. Raises InvalidArgumentError."""
    found = _FORM.fullmatch(text)
    if found is not None:
        position = Position(int(found[1]), int(found[2]))
        if position.partition < PARTITIONS_MAX and position.offset <= OFFSET_MAX:
            return position
    raise InvalidArgumentError(
        f"{field} {text[:40]!r} is not PARTITION:OFFSET, such as 0:42, as publishing answers it",
        field=field,
    )
