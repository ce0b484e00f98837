"""Which partitions this node has, and how it comes to have them.

The assignments in the store say what is ours. For each of those the node claims the partition under
the assigned epoch, loads its delivery state and serves it. When an assignment names another node,
or a write learns of a newer owner, the partition is let go at once: its epoch protects the data, so
there is nothing to hand over.

A claim needs a strictly greater epoch than any before. After this node's own restart, or after a
write with an open outcome, the assigned epoch is used up: then the node itself writes the next one
into the assignment, under the revision it has seen, and needs no master for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from mom_broker.node.cache import BatchCache
from mom_broker.node.dead_letters import Target
from mom_broker.node.dedup import DedupBudget
from mom_broker.node.partition import Partition, PendingBudget
from mom_broker.node.rates import QueueRates
from mom_broker.node.signal import Signal
from mom_broker.node.subscriptions import Subscriptions
from mom_broker.storage.catalog_view import CatalogView
from mom_core import catalog
from mom_core.catalog import ASSIGNMENTS_PREFIX, SUBSCRIPTIONS_PREFIX, TOPICS_PREFIX, Owner
from mom_core.errors import (
    ConflictError,
    ErrorCode,
    MomError,
    NotFoundError,
    RoutingError,
    StaleEpochError,
)
from mom_core.names import PartitionId
from mom_core.ports import Clock, KeyWrite, PartitionState, Random, Store

_log = logging.getLogger(__name__)

# Partitions that are opened at the same time: enough to hide the store's latency, few enough that a
# node with thousands does not flood it.
OPENING_AT_ONCE: Final = 16
# Between two attempts to open a partition.
RETRY_MS: Final = 100
RETRY_MS_MAX: Final = 2_000
# How long a call waits for a partition that is being opened before it is sent elsewhere.
OPENING_WAIT_MS: Final = 3_000


class OwnedPartition(NamedTuple):
    """A partition that this node serves."""

    log: Partition
    subscriptions: Subscriptions


class Ownership:
    """Follows the assignments and keeps the partitions of one node open."""

    def __init__(
        self,
        node_id: str,
        view: CatalogView,
        store: Store,
        cache: BatchCache,
        *,
        clock: Clock,
        random: Random,
    ) -> None:
        self.owned: dict[PartitionId, OwnedPartition] = {}
        self.budget = PendingBudget()
        self.dedup_budget = DedupBudget()
        self.changed = Signal()
        """Wakes everyone who waits when partitions came or went."""
        self.dead_letters: Target
        """Where messages that can't be handled are sent; set before the start."""
        self.on_opened: list[Callable[[OwnedPartition], None]] = []
        """Told of each partition as it begins to be served."""
        self.tails_lost = 0
        """How often a partition was opened whose newest messages the store may have lost."""
        self._node_id = node_id
        self._view = view
        self._store = store
        self._cache = cache
        self._clock = clock
        self._random = random
        self.rates = QueueRates(store.now_ms)
        self._opening: dict[PartitionId, asyncio.Task[None]] = {}
        self._errors: dict[PartitionId, MomError] = {}
        self._slots = asyncio.Semaphore(OPENING_AT_ONCE)
        self._changed = asyncio.Event()
        self._unsubscribe: Callable[[], None] | None = None
        self._closed = False

    def start(self) -> None:
        """Begin to follow the view."""
        self._unsubscribe = self._view.subscribe(self._on_change)
        self._reconcile(None)

    async def close(self) -> None:
        """Commit what was accepted, then let everything go."""
        self._closed = True
        if self._unsubscribe is not None:
            self._unsubscribe()
        for task in self._opening.values():
            task.cancel()
        await asyncio.gather(*self._opening.values(), return_exceptions=True)
        await asyncio.gather(*(one.log.finish() for one in self.owned.values()))
        for one in tuple(self.owned.values()):
            one.log.lose(RoutingError("the node stops; another one takes over"))

    @property
    def opening_count(self) -> int:
        """Partitions that are ours but not served yet."""
        return len(self._opening)

    def wanted_epoch(self, partition: PartitionId) -> int | None:
        """The epoch under which the partition is assigned to this node, None when it is not."""
        found = self._view.assignments.get(partition.topic_id)
        if found is None or partition.index >= len(found.assignment.owners):
            return None
        if partition.topic_id not in self._view.topics_by_id:
            return None
        owner = found.assignment.owners[partition.index]
        return owner.epoch if owner.node_id == self._node_id else None

    async def get(self, partition: PartitionId, *, wait: bool = True) -> OwnedPartition:
        """The partition, waiting a little while it is being opened.

        Raises RoutingError when it is not this node's, or why it can't be opened.
        """
        owned = self.owned.get(partition)
        if owned is not None:
            return owned
        deadline_ms = self._clock.monotonic_ms() + OPENING_WAIT_MS
        while wait and self.wanted_epoch(partition) is not None:
            left_ms = deadline_ms - self._clock.monotonic_ms()
            if left_ms <= 0:
                break
            changed = self._changed
            try:
                await asyncio.wait_for(changed.wait(), left_ms / 1000)
            except TimeoutError:
                break
            owned = self.owned.get(partition)
            if owned is not None:
                return owned
        error = self._errors.get(partition)
        if error is not None:
            raise error
        raise RoutingError(
            f"node {self._node_id} does not own partition {partition.index} of topic "
            f"{self._name(partition.topic_id)}; ask for the routing table again",
            retry_after_ms=50,
        )

    def _name(self, topic_id: str) -> str:
        config = self._view.topics_by_id.get(topic_id)
        return repr(config.name) if config is not None else topic_id

    # Following the assignments.

    def _on_change(self, keys: frozenset[str] | None) -> None:
        if keys is None:
            self._reconcile(None)
            return
        topic_ids = {
            key.split("/")[1]
            for key in keys
            if key.startswith((ASSIGNMENTS_PREFIX, SUBSCRIPTIONS_PREFIX))
        }
        if any(key.startswith(TOPICS_PREFIX) for key in keys):
            topic_ids |= {partition.topic_id for partition in self.owned}
        if topic_ids:
            self._reconcile(topic_ids)

    def _reconcile(self, topic_ids: set[str] | None) -> None:
        """Let go what is not ours any more, and open what is."""
        if self._closed:
            return
        for partition, owned in list(self.owned.items()):
            if topic_ids is not None and partition.topic_id not in topic_ids:
                continue
            if self.wanted_epoch(partition) != owned.log.epoch:
                owned.log.lose(self._moved(partition))
            else:
                owned.subscriptions.follow(self._view.subscriptions.get(partition.topic_id, {}))
        # Sorted, so that a simulation runs the same each time.
        for topic_id in self._view.assignments if topic_ids is None else sorted(topic_ids):
            found = self._view.assignments.get(topic_id)
            owners = found.assignment.owners if found is not None else ()
            for index, owner in enumerate(owners):
                if owner.node_id == self._node_id:
                    self._open_soon(PartitionId(topic_id, index))
        self._wake()

    def _moved(self, partition: PartitionId) -> MomError:
        if partition.topic_id not in self._view.assignments:
            return NotFoundError(f"topic {self._name(partition.topic_id)} was deleted")
        return RoutingError(
            f"partition {partition.index} of topic {self._name(partition.topic_id)} moved to "
            "another node; ask for the routing table again",
            retry_after_ms=50,
        )

    def _wake(self) -> None:
        self.changed.wake_all()
        self._changed.set()
        self._changed = asyncio.Event()

    def _open_soon(self, partition: PartitionId) -> None:
        if partition not in self.owned and partition not in self._opening:
            task = asyncio.create_task(self._open(partition), name=f"open {partition}")
            self._opening[partition] = task

    # Opening one partition.

    async def _open(self, partition: PartitionId) -> None:
        retry_ms = RETRY_MS
        try:
            while (epoch := self.wanted_epoch(partition)) is not None:
                try:
                    async with self._slots:
                        await self._try_open(partition, epoch)
                    return
                except StaleEpochError:
                    await self._raise_epoch(partition, epoch)
                except NotFoundError:
                    return
                except MomError as error:
                    self._errors[partition] = error
                    _log.warning("partition %s can't be opened yet: %s", partition, error.message)
                    await self._clock.sleep(retry_ms)
                    retry_ms = min(2 * retry_ms, RETRY_MS_MAX)
        finally:
            self._opening.pop(partition, None)
            self._wake()

    async def _try_open(self, partition: PartitionId, epoch: int) -> None:
        state = await self._store.claim(partition, epoch)
        if state.tail_lost:
            self.tails_lost += 1
            _log.error(
                "data loss: the store lost the end of partition %s; offsets go on at %d",
                partition,
                state.next_offset,
            )
        loaded = await self._store.load(partition, epoch)
        if self.wanted_epoch(partition) != epoch:
            return
        log, subscriptions = self._made(partition, state)
        try:
            await subscriptions.restore(
                loaded, log, self._view.subscriptions.get(partition.topic_id, {})
            )
            if self.wanted_epoch(partition) != epoch:
                return
            subscriptions.follow(self._view.subscriptions.get(partition.topic_id, {}))
            self.owned[partition] = OwnedPartition(log, subscriptions)
        finally:
            if partition not in self.owned:
                log.dedup.close()
        self._errors.pop(partition, None)
        for listener in self.on_opened:
            listener(self.owned[partition])

    def _made(
        self, partition: PartitionId, state: PartitionState
    ) -> tuple[Partition, Subscriptions]:
        subscriptions = Subscriptions(
            now_ms=self._store.now_ms,
            clock=self._clock,
            random=self._random,
            index=partition.index,
            dead_letters=self.dead_letters,
            rates=self.rates,
        )
        log = Partition(
            partition,
            state,
            config=lambda: self._view.topics_by_id[partition.topic_id],
            store=self._store,
            cache=self._cache,
            budget=self.budget,
            dedup_budget=self.dedup_budget,
            on_lost=self._on_lost,
            snapshot=subscriptions.snapshot,
        )
        return log, subscriptions

    async def _raise_epoch(self, partition: PartitionId, used_epoch: int) -> None:
        """Write the next epoch into our own assignment, unless it changed meanwhile."""
        found = self._view.assignments.get(partition.topic_id)
        if found is None or self.wanted_epoch(partition) != used_epoch:
            return
        owners = list(found.assignment.owners)
        owners[partition.index] = Owner(self._node_id, used_epoch + 1)
        key = catalog.assignment_key(partition.topic_id)
        changed = msgspec.structs.replace(found.assignment, owners=tuple(owners))
        try:
            revision = await self._store.write(
                [KeyWrite(key, catalog.encode(changed), found.revision)]
            )
        except ConflictError:
            # Somebody else wrote it: what the view shows next decides.
            await self._clock.sleep(RETRY_MS)
            return
        except MomError as error:
            self._errors[partition] = error
            await self._clock.sleep(RETRY_MS)
            return
        await self._view.reached(revision)

    def _on_lost(self, log: Partition, error: MomError) -> None:
        if self.owned.get(log.id, (None,))[0] is log:
            del self.owned[log.id]
        if error.code not in (ErrorCode.NOT_OWNER, ErrorCode.NOT_FOUND):
            _log.warning("partition %s is given up and opened again: %s", log.id, error.message)
        if not self._closed and self.wanted_epoch(log.id) is not None:
            self._open_soon(log.id)
        self._wake()
