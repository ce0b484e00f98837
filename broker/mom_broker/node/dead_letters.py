"""The way of messages to the dead letters: exactly one copy of each, whatever fails on the way.

A dead message has a number that its delivery state gave it, and stays there until its copy has
landed. Copies are sent by a producer that the target's store never forgets, under their numbers: so
one that is sent again, by this node or by the next owner, lands once (:mod:`mom_core.producers`).
All of a queue go to partition 0 of the target, which is there whatever becomes of its partitions.

A copy is the message as it came, with an id and time of its own where it had none, and headers that
tell why it is there, how often it was tried, when, and where it comes from.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from itertools import islice
from typing import Final, Protocol

import msgspec

from mom_core import batch as codec
from mom_core.delivery import Change, DeadAddress, DeadMessage, DeadReason, Delivery
from mom_core.errors import MomError, NotFoundError
from mom_core.ids import uuid7
from mom_core.limits import PRODUCER_WINDOW_BATCHES
from mom_core.message import Message
from mom_core.names import PartitionId
from mom_core.partitioner import murmur2
from mom_core.ports import Clock
from mom_core.producers import LASTING_PRODUCER
from mom_core.topics import TopicConfig

_log = logging.getLogger(__name__)

RETRY_MS: Final = 100
RETRY_MS_MAX: Final = 5_000

HEADER_PREFIX: Final = "mom-dead-"
_REASONS: Final = {
    DeadReason.MAX_DELIVERIES: "max_deliveries",
    DeadReason.EXPIRED: "expired",
}


class Target(Protocol):
    """Where dead letters are sent."""

    def topic(self, name: str) -> TopicConfig | None:
        """A topic or queue; None when there is none."""

    def fair_header(self, topic: TopicConfig) -> str:
        """The header by which a subscription of it takes turns; empty: none does."""

    async def append(
        self, partition: PartitionId, batches: Sequence[bytes]
    ) -> list[MomError | None]:
        """Append batches at their owner; an error for each that did not land."""


class Origin(msgspec.Struct, frozen=True):
    """Where dead letters come from."""

    topic: str
    subscription: str
    created_at_ms: int
    partition: PartitionId


class DeadLetters:
    """Sends the dead of one subscription on one partition, in the background."""

    def __init__(
        self,
        origin: Origin,
        delivery: Delivery,
        *,
        find: Callable[[int], Awaitable[Message | None]],
        journal: Callable[[Sequence[Change]], None],
        durable: Callable[[], Awaitable[None]],
        target: Target,
        clock: Clock,
    ) -> None:
        """``find`` gives the message of an offset, None when it is no more; ``durable`` waits until
        all that was journalled is."""
        self._origin = origin
        self._delivery = delivery
        self._find = find
        self._journal = journal
        self._durable = durable
        self._target = target
        self._clock = clock
        self._sending: asyncio.Task[None] | None = None
        self.name = ""
        """The topic or queue that they go to; empty: they wait."""

    def kick(self) -> None:
        """Begin to send, if there is something and nothing is being sent."""
        if self._delivery.has_dead and self.name and self._sending is None:
            self._sending = asyncio.create_task(
                self._send_all(), name=f"dead letters of {self._origin.partition}"
            )

    def close(self) -> None:
        """Stop. What is under way is sent again by the next owner, and lands once."""
        if self._sending is not None:
            self._sending.cancel()

    async def _send_all(self) -> None:
        retry_ms = RETRY_MS
        try:
            while self._delivery.has_dead and self.name:
                try:
                    await self._send_some()
                    retry_ms = RETRY_MS
                except MomError as error:
                    _log.warning(
                        "dead letters of %r wait: %s", self._origin.subscription, error.message
                    )
                    await self._clock.sleep(retry_ms)
                    retry_ms = min(2 * retry_ms, RETRY_MS_MAX)
        finally:
            self._sending = None

    async def _send_some(self) -> None:
        """Send the next few. Raises MomError for the first that did not land."""
        topic = self._target.topic(self.name)
        if topic is None:
            raise NotFoundError(
                f"there is no topic or queue {self.name!r} for dead letters; create it, or name "
                "another one in dead_letter"
            )
        # What died must have died for the next owner, too, and under the same number.
        self._journal(self._delivery.address_dead(topic.topic_id))
        await self._durable()
        sent, batches = await self._next_copies(self._target.fair_header(topic))
        if not sent:
            return
        results = await self._target.append(PartitionId(topic.topic_id, 0), batches)
        for one, error in zip(sent, results, strict=True):
            if error is not None:
                raise error
            self._journal(self._delivery.dead_sent(one.number + 1))

    async def _next_copies(self, fair_header: str) -> tuple[list[DeadMessage], list[bytes]]:
        """The next few with numbers in a row, as batches; what retention removed is skipped."""
        sent: list[DeadMessage] = []
        batches: list[bytes] = []
        number = self._delivery.dead_address.next_number
        for one in list(islice(self._delivery.dead(), PRODUCER_WINDOW_BATCHES)):
            if one.number != number:
                break
            message = await self._find(one.offset)
            if message is None:
                self._journal(self._delivery.skip(one.offset, one.offset + 1))
                break
            sent.append(one)
            batches.append(self._copy(one, message, fair_header))
            number += 1
        return sent, batches

    def _copy(self, one: DeadMessage, message: Message, fair_header: str) -> bytes:
        origin = self._origin
        facts = {
            "reason": _REASONS[one.reason],
            "deliveries": one.deliveries,
            "first-delivered-at-ms": one.first_leased_ms,
            "at-ms": one.died_ms,
            "topic": origin.topic,
            "subscription": origin.subscription,
            "partition": origin.partition.index,
            "offset": one.offset,
        }
        headers = dict(message.headers or {})
        headers |= {HEADER_PREFIX + name: str(value) for name, value in facts.items()}
        copy = Message(
            message.value,
            message.key,
            headers,
            message.content_type,
            message.timestamp_ms,
            message.id,
        )
        builder = codec.BatchBuilder()
        builder.add(
            copy,
            None if message.key is None else murmur2(message.key),
            codec.group_of(copy, fair_header) if fair_header else None,
        )
        address = self._delivery.dead_address
        producer_id = _producer_id(origin, address)
        return builder.build(
            base_id=uuid7(one.died_ms, producer_id.to_bytes(8, "big") + bytes(2)),
            timestamp_ms=one.died_ms,
            producer_id=producer_id,
            sequence=one.number - address.base,
        )


def _producer_id(origin: Origin, address: DeadAddress) -> int:
    """The same for every owner of the origin, and another one whenever numbers begin anew."""
    said = (
        f"{origin.partition.topic_id} {origin.partition.index} {origin.subscription} "
        f"{origin.created_at_ms} {address.topic_id} {address.base}"
    )
    digest = blake2b(said.encode(), digest_size=8, person=b"mom-dead").digest()
    return int.from_bytes(digest, "big") | LASTING_PRODUCER
