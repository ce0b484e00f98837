"""Which batches of producers a partition holds already, as far as its owner has seen.

The store alone decides what is sent again (:mod:`mom_core.producers`). But a full queue refuses new
messages without asking it, and a batch that landed and whose answer was lost is nothing new: the
one that filled the queue would be refused for as long as nobody makes room.
"""

from __future__ import annotations

from mom_core.batch import BatchHeader
from mom_core.limits import PRODUCER_WINDOW_BATCHES, PRODUCERS_PER_PARTITION_MAX


class LandedSequences:
    """The newest sequence of each producer, those that sent longest ago forgotten at a bound."""

    def __init__(self) -> None:
        self._newest: dict[int, int] = {}

    def note(self, header: BatchHeader) -> None:
        """A batch has landed."""
        if not header.producer_id:
            return
        newest = self._newest.pop(header.producer_id, header.sequence)
        self._newest[header.producer_id] = max(newest, header.sequence)
        if len(self._newest) > PRODUCERS_PER_PARTITION_MAX:
            del self._newest[next(iter(self._newest))]

    def landed(self, header: BatchHeader) -> bool:
        """Whether the store will know this batch again, and append nothing."""
        newest = self._newest.get(header.producer_id)
        return newest is not None and 0 <= newest - header.sequence < PRODUCER_WINDOW_BATCHES
