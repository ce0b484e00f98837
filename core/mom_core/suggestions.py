"""What to write in place of a name that nobody knows. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

# Comparing takes time by the product of the lengths, and no name of ours is longer.
_COMPARED_CHARACTERS_MAX: Final = 64
_CAPITAL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def known_instead(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: ``; did you mean value? Known: key, value``.

    A name in camelCase finds its like in snake_case.
    """
    names = list(known)
    written = _CAPITAL.sub("_", name[:_COMPARED_CHARACTERS_MAX]).lower()
    near = get_close_matches(written, names, n=1)
    return f"; {f'did you mean {near[0]}? Known' if near else 'known'}: {', '.join(names)}"
