"""The stored form of a commit's outcome, by which a repeated commit gets its first answer.

One word a batch, a letter for the outcome and then the base offset: ``a17 d3 o-1``. SQLite writes
it from Python, Redis from Lua.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mom_core.ports import Appended, AppendOutcome

_LETTERS: Final = {
    AppendOutcome.APPENDED: "a",
    AppendOutcome.DUPLICATE: "d",
    AppendOutcome.OUT_OF_ORDER: "o",
    AppendOutcome.UNKNOWN_PRODUCER: "u",
}
_OUTCOMES: Final = {letter: outcome for outcome, letter in _LETTERS.items()}


def outcomes_to_text(appended: Iterable[Appended]) -> str:
    """The stored form of ``appended``."""
    return " ".join(f"{_LETTERS[one.outcome]}{one.base_offset}" for one in appended)


def outcomes_of_text(text: str) -> tuple[Appended, ...]:
    """The inverse of :func:`outcomes_to_text`."""
    return tuple(Appended(_OUTCOMES[word[0]], int(word[1:])) for word in text.split())


def gaps_to_text(gaps: Iterable[tuple[int, int]]) -> str:
    """Skipped offset ranges as ``first-end`` words."""
    return " ".join(f"{first}-{end}" for first, end in gaps)


def gaps_of_text(text: str) -> tuple[tuple[int, int], ...]:
    """The inverse of :func:`gaps_to_text`."""
    pairs = (word.split("-") for word in text.split())
    return tuple((int(first), int(end)) for first, end in pairs)
