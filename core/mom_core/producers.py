"""Idempotent producers: which batch is new, which was seen, and which must be refused.

A producer numbers its batches of one partition 0, 1, 2 and so on. The store remembers, for each
producer, the last sequence and where its last batches landed, so that a batch that is sent again
after a lost reply gets its first offset and is not appended twice. The window is Kafka's (KIP-98).
The Redis engine states the same rule in Lua; ``tests/conformance`` holds both to it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mom_core.limits import PRODUCER_WINDOW_BATCHES
from mom_core.ports import AppendOutcome

LASTING_PRODUCER: Final = 1 << 63
"""Producer ids from here on are never forgotten: MOM's own, of which there are few. Clients make
theirs below."""


class ProducerState(NamedTuple):
    """What a partition remembers of one producer."""

    last_sequence: int
    base_offsets: tuple[int, ...]
    """Where its last batches landed, oldest first; at most PRODUCER_WINDOW_BATCHES."""

    def to_text(self) -> str:
        """A compact stored form: the last sequence, then the offsets, with spaces between."""
        return " ".join(map(str, (self.last_sequence, *self.base_offsets)))


def state_of_text(text: str) -> ProducerState:
    """The inverse of :meth:`ProducerState.to_text`."""
    last_sequence, *base_offsets = map(int, text.split())
    return ProducerState(last_sequence, tuple(base_offsets))


class SequenceCheck(NamedTuple):
    """What to do with a batch. ``base_offset`` is that of a duplicate, else -1."""

    outcome: AppendOutcome
    base_offset: int = -1


def check_sequence(state: ProducerState | None, sequence: int) -> SequenceCheck:
    """Judge the next batch of a producer; ``state`` is None for one that is not known."""
    if state is None:
        new = AppendOutcome.APPENDED if sequence == 0 else AppendOutcome.UNKNOWN_PRODUCER
        return SequenceCheck(new)
    if sequence == state.last_sequence + 1:
        return SequenceCheck(AppendOutcome.APPENDED)
    back = state.last_sequence - sequence
    if 0 <= back < len(state.base_offsets):
        return SequenceCheck(AppendOutcome.DUPLICATE, state.base_offsets[-1 - back])
    return SequenceCheck(AppendOutcome.OUT_OF_ORDER)


def appended(state: ProducerState | None, sequence: int, base_offset: int) -> ProducerState:
    """The state after a batch that :func:`check_sequence` let through has landed."""
    before = state.base_offsets if state else ()
    return ProducerState(sequence, (*before, base_offset)[-PRODUCER_WINDOW_BATCHES:])
