"""A redrive: dead letters of one queue sent back to where they died, or elsewhere, exactly once.

Batches leave the queue through its journal (:mod:`mom_core.delivery.leaving`), and are sent by a
producer that the target never forgets, under their number: one that is sent again, by this node or
by the queue's next owner, lands once. How many have landed is in the same journal. The operation's
record says how far the search for dead letters is; it may lag behind, and costs then a second look.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, NamedTuple

from mom_broker.node.dead_letters import RETRY_MS, RETRY_MS_MAX, Target
from mom_broker.node.ownership import OwnedPartition
from mom_broker.node.progress import Progress
from mom_broker.node.queue import QueueReader
from mom_broker.storage.catalog_view import CatalogView
from mom_core import batch as codec
from mom_core.dead_letters import DeathFacts, alive_again, facts_of
from mom_core.delivery.leaving import LeavingBatch
from mom_core.errors import ErrorCode, MomError, NotFoundError
from mom_core.ids import uuid7
from mom_core.limits import REDRIVE_BATCH_BYTES_MAX, REDRIVE_BATCH_MESSAGES_MAX
from mom_core.message import Message
from mom_core.names import PartitionId
from mom_core.operations import OperationRecord, OperationState
from mom_core.partitioner import Partitioner, murmur2
from mom_core.ports import Clock
from mom_core.producers import LASTING_PRODUCER
from mom_core.topics import TopicConfig, TopicKind

_log = logging.getLogger(__name__)

# With a rate, so many batches a second: the pauses are short, and a takeover bursts little.
STEPS_PER_SECOND: Final = 10
# How long a slow redrive sleeps before it looks whether it was cancelled.
_NAP_MS: Final = 250


class _DeadLetter(NamedTuple):
    offset: int
    message: Message
    facts: DeathFacts


class _Page(NamedTuple):
    """What was found from an offset on."""

    end_offset: int
    found: list[_DeadLetter]


class Redrive:
    """One operation, on the queue's partition that this node owns."""

    def __init__(
        self,
        owned: OwnedPartition,
        reader: QueueReader,
        progress: Progress,
        *,
        view: CatalogView,
        target: Target,
        clock: Clock,
    ) -> None:
        self._log = owned.log
        self._reader = reader
        self._delivery = reader.delivery
        self._progress = progress
        self._view = view
        self._target = target
        self._clock = clock
        self._next_ms = 0.0

    async def run(self) -> None:
        """Do what is left to do. Raises what ended the ownership, or made the store fail."""
        await self._reader.caught_up()
        await self.finish_leaving()
        if self._record.end_offset is None:
            await self._count()
        while not self._cancelled():
            page = await self._page(self._record.next_offset)
            if page is None:
                await self._end(OperationState.DONE)
                return
            if not await self._send_page(page):
                break
            await self._tell(next_offset=page.end_offset)
        if self._record.state.is_open:
            await self._end(OperationState.CANCELLED)

    @property
    def _record(self) -> OperationRecord:
        return self._progress.record

    def _cancelled(self) -> bool:
        found = self._view.operations.get(self._record.topic_id, {}).get(self._record.operation_id)
        states = [self._record.state, *([found.state] if found is not None else [])]
        return any(one is not OperationState.RUNNING for one in states)

    # Finding.

    async def _count(self) -> None:
        """Learn how many there are; those that come from now on are not of this redrive."""
        end_offset = self._log.high_watermark
        await self._progress.write(end_offset=end_offset)
        offset = total = 0
        while (page := await self._page(offset)) is not None:
            total += len(page.found)
            offset = page.end_offset
        await self._progress.write(total=total)

    async def _page(self, first: int) -> _Page | None:
        """The dead letters of the next few messages; None at the end."""
        self._check_owned()
        end = self._record.end_offset or 0
        shown = self._reader.outstanding(first, REDRIVE_BATCH_MESSAGES_MAX)
        shown = [one for one in shown if one.first < end]
        if not shown:
            return None
        found: list[_DeadLetter] = []
        room = REDRIVE_BATCH_BYTES_MAX
        for one in shown:
            if one.state not in ("ready", "delayed"):
                continue
            for offset in range(one.first, min(one.end, end)):
                message = await self._reader.message(offset)
                facts = facts_of(message.headers) if message is not None else None
                if message is None or facts is None:
                    continue
                if self._record.filter.holds(offset, message, facts):
                    found.append(_DeadLetter(offset, message, facts))
                    room -= len(message.value)
                if room <= 0:
                    return _Page(offset + 1, found)
        return _Page(min(shown[-1].end, end), found)

    def _lane(self, one: _DeadLetter) -> str:
        """Where it goes: a topic's id and a partition. Raises MomError when it has no place."""
        topic = self._destination(one)
        size = len(one.message.value)
        if size > topic.message_bytes_max:
            raise MomError(
                f"dead letter {one.offset} has {size} bytes, and {topic.name!r} takes at most "
                f"{topic.message_bytes_max} (message_bytes_max)"
            )
        if one.message.key is None:
            index = one.facts.partition % topic.partitions
        else:
            index = Partitioner.equal(topic.partitions).choose(one.message.key)
        return f"{topic.topic_id}/{index}"

    def _destination(self, one: _DeadLetter) -> TopicConfig:
        name = self._record.to or one.facts.topic
        topic = self._view.topics.get(name)
        if topic is None:
            raise NotFoundError(
                f"dead letter {one.offset} would go to {name[:256]!r}, which is no more; name "
                "another topic or queue"
            )
        others = len(self._view.subscriptions.get(topic.topic_id, {})) > 1
        if topic.kind is TopicKind.TOPIC and others and not self._record.to:
            raise MomError(
                f"dead letter {one.offset} died for subscription {one.facts.subscription!r} alone, "
                f"and topic {name!r} has others that would get it again; name a topic or queue to "
                "send it to"
            )
        return topic

    # Sending.

    async def _send_page(self, page: _Page) -> bool:
        """Send what was found; False when it was cancelled meanwhile."""
        rate = self._record.rate_per_s
        step = len(page.found) or 1
        if rate:
            step = max(1, min(step, int(rate / STEPS_PER_SECOND)))
        for begin in range(0, len(page.found), step):
            sent = 0
            if not await self._pace():
                return False
            for lane, offsets in self._by_lane(page.found[begin : begin + step]).items():
                sent += await self._send(lane, offsets)
            if rate:
                now_ms = self._clock.monotonic_ms()
                self._next_ms = max(self._next_ms, now_ms) + sent / rate * 1000
            await self._tell()
        return True

    async def _pace(self) -> bool:
        """Wait for the next turn; False when there is none, since it was cancelled."""
        while not self._cancelled():
            self._check_owned()
            left_ms = self._next_ms - self._clock.monotonic_ms()
            if left_ms <= 0:
                return True
            await self._clock.sleep(max(1, min(_NAP_MS, int(left_ms))))
            await self._tell()
        return False

    def _by_lane(self, found: Iterable[_DeadLetter]) -> dict[str, list[int]]:
        lanes: dict[str, list[int]] = {}
        for one in found:
            try:
                lanes.setdefault(self._lane(one), []).append(one.offset)
            except MomError as error:
                self._progress.stays(error.message)
        return lanes

    async def _send(self, lane: str, offsets: list[int]) -> int:
        """Let one batch leave and land; how many messages it had."""
        self._check_owned()
        before = self._done
        self._reader.note(self._delivery.leave(self._record.operation_id, lane, offsets))
        await self.finish_leaving()
        return self._done - before

    @property
    def _done(self) -> int:
        return self._delivery.redrives.done_of(self._record.operation_id)

    async def finish_leaving(self) -> None:
        """See the batch that is on its way, if there is one, to its end."""
        retry_ms = RETRY_MS
        while (batch := self._delivery.leaving) is not None:
            # What left must have left for the next owner, too, before anybody else can have it.
            await self._reader.durable()
            self._check_owned()
            error = await self._try_send(batch)
            if error is None:
                continue
            self._progress.waits(error.message)
            await self._tell()
            _log.warning("a redrive of %r waits: %s", self._record.queue, error.message)
            await self._clock.sleep(error.retry_after_ms or retry_ms)
            retry_ms = min(2 * retry_ms, RETRY_MS_MAX)
        self._progress.waits("")
        await self._reader.durable()
        self._check_owned()

    async def _try_send(self, batch: LeavingBatch) -> MomError | None:
        topic_id, _, index = batch.lane.partition("/")
        data = await self._batch_data(batch)
        if data is None:
            # Retention or the store took all of it.
            self._leave_ended(landed=False)
            return None
        (error,) = await self._target.append(PartitionId(topic_id, int(index)), [data])
        if error is None:
            self._leave_ended(landed=True)
        elif error.code is ErrorCode.NOT_FOUND and topic_id not in self._view.topics_by_id:
            self._progress.stays(error.message)
            self._leave_ended(landed=False)
            return None
        return error

    def _leave_ended(self, *, landed: bool) -> None:
        self._check_owned()
        if self._delivery.leaving is not None:
            self._reader.note(self._delivery.left(landed))

    async def _batch_data(self, batch: LeavingBatch) -> bytes | None:
        """The messages as a batch; None when all of them are gone."""
        builder = codec.BatchBuilder()
        topic_id, _, _ = batch.lane.partition("/")
        fair_header = self._target.fair_header(topic_id)
        timestamp_ms = 0
        for offset in batch.offsets:
            message = await self._reader.message(offset)
            if message is None:
                self._reader.note(self._delivery.skip(offset, offset + 1))
                continue
            alive = alive_again(message)
            timestamp_ms = timestamp_ms or alive.timestamp_ms or 0
            builder.add(
                alive,
                None if alive.key is None else murmur2(alive.key),
                codec.group_of(alive, fair_header) if fair_header else None,
            )
        if not builder.count:
            return None
        lane = self._delivery.redrives.lane(batch.lane)
        producer_id = self._producer_id(batch.lane, lane.generation)
        return builder.build(
            base_id=uuid7(timestamp_ms, producer_id.to_bytes(8, "big") + bytes(2)),
            timestamp_ms=timestamp_ms,
            producer_id=producer_id,
            sequence=lane.sequence,
        )

    def _producer_id(self, lane: str, generation: int) -> int:
        """The same for every owner of the queue."""
        said = f"{self._log.id} {lane} {generation}"
        digest = blake2b(said.encode(), digest_size=8, person=b"mom-redrive").digest()
        return int.from_bytes(digest, "big") | LASTING_PRODUCER

    def _check_owned(self) -> None:
        if self._log.lost is not None:
            raise self._log.lost

    # Telling.

    async def _tell(self, next_offset: int | None = None) -> None:
        if next_offset is None:
            next_offset = self._record.next_offset
        if self._record.operation_id:
            await self._progress.tell(done=self._done, next_offset=next_offset)

    async def _end(self, state: OperationState) -> None:
        self._check_owned()
        done = self._done
        left = max(0, self._record.total - done)
        if state is OperationState.DONE and self._record.to not in ("", *self._view.topics):
            state = OperationState.FAILED
        await self._progress.end(state, done=done, left=left)
