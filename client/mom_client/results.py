"""What calls return: plain typed values, the same for the engine, the gateway and the SDK."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from mom_core.dead_letters import DeadLetterFilter, DeathFacts
from mom_core.ids import id_text, message_id
from mom_core.message import Message
from mom_core.positions import Position
from mom_core.topics import TopicConfig

_NO_ID: Final = bytes(16)


class Places(NamedTuple):
    """Where the messages of a batch are, of which some had landed before under their dedup_id."""

    offsets: Sequence[int]
    """By the message's place in the batch; of a duplicate the offset of the first one."""
    duplicates: frozenset[int]
    """The places of those that were not stored."""


class PublishedBatch(msgspec.Struct, frozen=True):
    """Where a batch landed; shared by the results of its messages."""

    partition: int
    base_offset: int
    epoch: int
    base_id: bytes
    durability: str
    duplicate: bool
    created: bool = False
    own_ids: dict[int, bytes] | None = None
    """Ids that producers gave themselves, by the message's place in the batch."""
    places: Places | None = None
    """None: one after the other from the base offset on."""


class Published(msgspec.Struct, frozen=True, gc=False):
    """Where one message landed. Durable at the level that ``durability`` names."""

    batch: PublishedBatch
    index: int
    """The message's place in its batch."""

    @property
    def partition(self) -> int:
        """The partition."""
        return self.batch.partition

    @property
    def offset(self) -> int:
        """The offset in the partition."""
        places = self.batch.places
        return self.batch.base_offset + self.index if places is None else places.offsets[self.index]

    @property
    def position(self) -> str:
        """Partition and offset as text, such as ``0:42``: by it a message is cancelled or moved."""
        return str(Position(self.partition, self.offset))

    @property
    def epoch(self) -> int:
        """The owner's epoch: with topic and offset it is a position."""
        return self.batch.epoch

    @property
    def id(self) -> bytes:
        """The message's id: 16 bytes, a UUIDv7 unless the producer gave another.

        Zeros for a message that was not stored, as one with its dedup_id was there: the offset
        tells which.
        """
        if not self.stored:
            return _NO_ID
        own_ids, places = self.batch.own_ids, self.batch.places
        if own_ids is not None and self.index in own_ids:
            return own_ids[self.index]
        stored = self.index if places is None else self.offset - self.batch.base_offset
        return message_id(self.batch.base_id, stored)

    @property
    def id_text(self) -> str:
        """The message's id in the usual form; empty for one that was not stored."""
        return id_text(self.id) if self.id != _NO_ID else ""

    @property
    def durability(self) -> str:
        """``memory``, ``os``, ``fsync``, ``replicated`` or ``provider``."""
        return self.batch.durability

    @property
    def duplicate(self) -> bool:
        """Whether an earlier try of the same batch, or one with its dedup_id, had landed."""
        return self.batch.duplicate or not self.stored

    @property
    def stored(self) -> bool:
        """False: a message with its dedup_id was there, and this one was left out."""
        places = self.batch.places
        return places is None or self.index not in places.duplicates

    @property
    def created(self) -> bool:
        """Whether this publish made the topic (``auto_create`` only)."""
        return self.batch.created

    def __repr__(self) -> str:
        return (
            f"Published(partition={self.partition}, offset={self.offset}, id={self.id_text}, "
            f"durability={self.durability!r})"
        )


class FetchedBatch(NamedTuple):
    """A record batch with its place in the log."""

    base_offset: int
    append_time_ms: int
    data: bytes


class Fetched(NamedTuple):
    """What a fetch of one partition gave. The first batch may begin below the wanted offset."""

    batches: list[FetchedBatch]
    start_offset: int
    """The offset at which the read began: records below it are to be skipped."""
    next_offset: int
    """Where to go on."""
    high_watermark: int
    """The offset after the last message that can be read."""
    log_start: int
    """The lowest offset that can be read."""


class Identity(NamedTuple):
    """Who a token stands for."""

    name: str
    scopes: tuple[str, ...]
    cache_ms: int
    """How long the answer may be kept, milliseconds."""


class TopicPage(NamedTuple):
    """One page of a listing."""

    topics: list[TopicConfig]
    next_page_token: str
    """Empty at the end."""


class DeadLetter(NamedTuple):
    """A message that could not be handled, as its queue holds it."""

    offset: int
    """In the queue that holds it."""
    state: str
    """``ready``, ``delayed``, ``leased``, ``dead`` or ``leaving``, as browsing shows it."""
    message: Message
    facts: DeathFacts
    """Why, when and where it died."""

    @property
    def id(self) -> str:
        """The message's id, as text."""
        return id_text(self.message.id) if self.message.id else ""


class DeadLetterPage(NamedTuple):
    """One page of dead letters."""

    dead_letters: list[DeadLetter]
    next_offset: int
    """Where the next page begins; 0 at the end."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """Work that goes on by itself: a redrive of dead letters."""

    operation_id: str
    kind: str
    queue: str
    """The queue that holds the dead letters."""
    state: str
    """``running``, ``cancelling``, ``done``, ``cancelled`` or ``failed``."""
    total: int
    """Dead letters that it was asked for; 0 until they are counted."""
    done: int
    left: int
    """At the end: those that stayed. A worker had them, or the error says why."""
    error: str
    """The last thing that stood in the way; empty: nothing."""
    created_at_ms: int
    ended_at_ms: int | None
    """None: it goes on."""
    to: str
    """Where they go; empty: each to where it died."""
    rate_per_s: float
    """0: as fast as it goes."""
    filter: DeadLetterFilter
    """Which ones; ids as text."""

    @property
    def goes_on(self) -> bool:
        """Whether it has not ended."""
        return self.ended_at_ms is None and self.state != "failed"


class Sought(NamedTuple):
    """Where a seek lets one partition go on."""

    partition: int
    offset: int
    lag: int
    """Messages that are not handled from there."""
    lag_ms: int
    """How long ago the first of them was appended, milliseconds; 0 when there is none."""
