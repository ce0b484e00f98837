"""Carrying bodies over, so that messages that wait long do not hold the log behind them.

First the bodies become durable beside the log, in bounded steps; then the subscriptions that need
them say so, in a snapshot: once the log is trimmed nothing else tells of these messages. Only then
the log may go. A node that dies in between leaves bodies that nobody needs, which the next owner
drops.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence

from mom_broker.node.bodies import cut_body
from mom_broker.node.partition import Partition
from mom_broker.node.queue import QueueReader
from mom_core import limits
from mom_core.delivery.carrying import lowest, worth_carrying
from mom_core.errors import ErrorCode, StoreError
from mom_core.ranges import RangeSet

_log = logging.getLogger(__name__)


async def carry_of_queue(log: Partition, readers: Sequence[QueueReader]) -> bool:
    """Carry over what holds a log that is kept until acknowledged, though little of it is needed.

    One bounded pass; returns whether it freed any. Raises what ended the ownership.
    """
    if log.size_bytes < limits.CARRY_LOG_BYTES_MIN:
        return False
    end = min((one.delivery.arrived for one in readers), default=0)
    needed = RangeSet(one for reader in readers for one in reader.delivery.pinning(end))
    return await _carry(log, readers, worth_carrying(needed, log.log_start, end))


async def carry_of_topic(
    log: Partition, readers: Sequence[QueueReader], below: int, now_ms: int
) -> bool:
    """Carry over what retention is about to remove and nobody could have had: what is delayed,
    leased, or on its way to the dead letters.

    One bounded pass; returns whether it carried any. Raises what ended the ownership.
    """
    held = RangeSet(one for reader in readers for one in reader.delivery.held_back(below, now_ms))
    return await _carry(log, readers, lowest(held, limits.CARRY_MESSAGES_MAX))


async def _carry(
    log: Partition, readers: Sequence[QueueReader], ranges: Sequence[tuple[int, int]]
) -> bool:
    if not ranges:
        return False
    try:
        async for values, times_ms in _bodies(log, ranges):
            await log.keep_bodies(values, times_ms)
    except StoreError as error:
        if error.code is not ErrorCode.STORE_FULL:
            raise
        _log.info("the log of %s stays as it is: %s", log.id, error.message)
    carried = [_count_on(log, reader, ranges) for reader in readers]
    log.drop_unneeded(ranges)
    if any(carried):
        await log.write_snapshot()
    return any(carried)


async def _bodies(
    log: Partition, ranges: Sequence[tuple[int, int]]
) -> AsyncIterator[tuple[dict[int, bytes], list[int]]]:
    """Bodies of these offsets that are not kept yet with their times, in steps; as many as the
    partition may keep."""
    values: dict[int, bytes] = {}
    times_ms: list[int] = []
    size = 0
    room = log.config.retention_bytes or limits.RETENTION_BYTES_MAX
    for offset in (one for first, end in ranges for one in range(first, end)):
        if log.bodies.next_from(offset) == offset:
            continue
        batch = await log.find(offset, 1)
        if batch is None or batch.base_offset > offset:
            continue
        value = cut_body(batch, offset)
        if len(log.bodies) + len(values) >= limits.KEPT_BODIES_MAX:
            break
        if log.bodies.bytes + size + len(value) > room:
            break
        values[offset] = value
        times_ms.append(batch.append_time_ms)
        size += len(value)
        if size >= limits.CARRY_BYTES_MAX or len(values) >= limits.KEPT_VALUES_PER_COMMIT_MAX:
            yield values, times_ms
            values, times_ms, size = {}, [], 0
    if values:
        yield values, times_ms


def _count_on(log: Partition, reader: QueueReader, ranges: Sequence[tuple[int, int]]) -> bool:
    """Let a subscription count on what is kept of these ranges; whether it needs any."""
    needed = RangeSet(reader.delivery.pinning(max(end for _, end in ranges)))
    kept = [
        one
        for first, end in ranges
        for low, high in needed.within(first, end)
        for one in log.bodies.within(low, high)
    ]
    for first, end in kept:
        log.bodies.hold(first, end)
    reader.note(reader.delivery.carry(kept))
    return bool(kept)
