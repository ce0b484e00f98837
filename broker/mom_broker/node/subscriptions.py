"""All subscriptions' states on one partition, and their place in its journal.

:mod:`mom_broker.node.journal` has the entries. A snapshot holds every state under the same names.

Queue-mode subscriptions have a state on each partition. A stream-mode one has a single state for
the whole topic, on partition 0: its owner coordinates the group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from mom_broker.node.bodies import KeptBody
from mom_broker.node.dead_letters import DeadLetters, Origin, Target
from mom_broker.node.dedup import DedupState
from mom_broker.node.group import GroupCoordinator
from mom_broker.node.journal import Entry, EntryKind, decode_entries, encode_entry
from mom_broker.node.partition import Arrived, Partition
from mom_broker.node.queue import QueueReader, catch_up
from mom_broker.node.rates import QueueRates
from mom_core import delivery, group
from mom_core.delivery import Delivery, Policy, TtlFrom
from mom_core.delivery.rate import Loan
from mom_core.errors import ErrorCode, StoreError
from mom_core.group import GroupState
from mom_core.ports import Clock, Loaded, Random
from mom_core.topics import SubscriptionConfig, SubscriptionMode

SNAPSHOT_FORMAT: Final = 3
# What a snapshot without anything beside the log has: an older version can read it.
_PLAIN_FORMAT: Final = 2


class _State(msgspec.Struct, array_like=True):
    name: str
    created_at_ms: int
    mode: SubscriptionMode
    snapshot: bytes
    loan: Loan | None = None
    """Of a queue: what is lent of its share of the rate."""


class _Snapshot(msgspec.Struct, array_like=True):
    snapshot_format: int
    states: list[_State]
    bodies: list[KeptBody] = []
    dedup: DedupState | None = None


_snapshot_decoder: Final = msgspec.msgpack.Decoder(_Snapshot)


class _QueueLife:
    """A queue-mode subscription as the store tells of it, from its beginning on."""

    def __init__(self, begun: bytes | int, loan: Loan | None = None) -> None:
        """``begun`` is a snapshot, or the first offset."""
        self._begun = begun
        self.loan = loan
        self.changes: list[delivery.Change] = []
        self.ttls: list[TtlFrom] = []

    def delivery(self, policy: Policy) -> Delivery:
        """The state before the changes, but for those that the arrival of the log depends on."""
        if isinstance(self._begun, bytes):
            state = Delivery.restore(self._begun, policy)
        else:
            state = Delivery(self._begun, policy)
        for one in self.ttls:
            state.set_ttl(one)
        return state


def policy_of(config: SubscriptionConfig | None) -> Policy:
    """What decides for a subscription; one that is gone ends soon."""
    return config.queue.policy if config is not None else Policy()


class Subscriptions:
    """The subscriptions of one partition that this node owns."""

    def __init__(
        self,
        *,
        now_ms: Callable[[], int],
        clock: Clock,
        random: Random,
        index: int,
        dead_letters: Target,
        rates: QueueRates,
    ) -> None:
        self.readers: dict[str, QueueReader] = {}
        self.groups: dict[str, GroupCoordinator] = {}
        self._now_ms = now_ms
        self._clock = clock
        self._random = random
        self._dead_letters = dead_letters
        self._rates = rates
        self._index = index
        self._created: dict[str, int] = {}
        self._partition: Partition | None = None

    # Coming back.

    async def restore(
        self, loaded: Loaded, partition: Partition, configs: Mapping[str, SubscriptionConfig]
    ) -> None:
        """Bring the states back from what the store holds, and take in the log. Raises StoreError.

        A queue's state is what its snapshot holds, then what the log holds, then what its journal
        says of both.
        """
        self._partition = partition
        queues: dict[str, _QueueLife] = {}
        groups: dict[str, GroupState] = {}
        if loaded.snapshot is not None:
            self._restore_snapshot(loaded.snapshot, queues, groups)
        for blob in loaded.journal:
            for entry in decode_entries(blob):
                self._replay(entry, queues, groups)
        partition.journal_bytes = sum(map(len, loaded.journal))
        await partition.dedup.read_again(partition)
        deliveries = {
            name: life.delivery(policy_of(configs.get(name))) for name, life in queues.items()
        }
        await catch_up(partition, list(deliveries.values()), self._now_ms)
        for name, state in deliveries.items():
            for change in queues[name].changes:
                state.apply(change)
            state.bodies_to_drop.clear()
            for first, end in state.carried():
                partition.bodies.hold(first, end)
        for name, state in deliveries.items():
            self._add_reader(name, state, loan=queues[name].loan)
        for name, group_state in groups.items():
            group_state.resume(self._now_ms())
            self._add_group(name, group_state)
        partition.on_arrival.append(self._arrive)
        # A body whose subscription was done with it, or never came to know of it.
        partition.drop_unneeded(partition.bodies.ranges)

    def _restore_snapshot(
        self, data: bytes, queues: dict[str, _QueueLife], groups: dict[str, GroupState]
    ) -> None:
        snapshot = _snapshot_decoder.decode(data)
        if not _PLAIN_FORMAT <= snapshot.snapshot_format <= SNAPSHOT_FORMAT:
            raise StoreError(
                f"the delivery state has format {snapshot.snapshot_format}; this version reads "
                f"up to {SNAPSHOT_FORMAT}. Start the version of MOM that wrote it, or a newer one",
                code=ErrorCode.STORE_MISCONFIGURED,
            )
        assert self._partition is not None, "restored into a partition"
        self._partition.bodies.add(snapshot.bodies)
        self._partition.dedup.restore(snapshot.dedup)
        for state in snapshot.states:
            self._created[state.name] = state.created_at_ms
            if state.mode is SubscriptionMode.QUEUE:
                queues[state.name] = _QueueLife(state.snapshot, state.loan)
            else:
                groups[state.name] = GroupState.restore(state.snapshot)

    def _replay(
        self, entry: Entry, queues: dict[str, _QueueLife], groups: dict[str, GroupState]
    ) -> None:
        name, payload = entry.name, entry.payload
        match entry.kind:
            case EntryKind.QUEUE_STARTED:
                assert isinstance(payload, int), "a queue starts at an offset"
                queues[name] = _QueueLife(payload)
                self._created[name] = entry.created_at_ms
            case EntryKind.QUEUE_CHANGED:
                assert isinstance(payload, bytes), "changes are bytes"
                queues[name].changes += delivery.decode_changes(payload)
                if entry.ttl is not None:
                    queues[name].ttls.append(entry.ttl)
                queues[name].loan = entry.loan or queues[name].loan
            case EntryKind.GROUP_STARTED:
                assert isinstance(payload, int), "a group starts with a number of partitions"
                groups[name] = GroupState(payload)
                self._created[name] = entry.created_at_ms
            case EntryKind.GROUP_CHANGED:
                assert isinstance(payload, bytes), "changes are bytes"
                for group_change in group.decode_changes(payload):
                    groups[name].apply(group_change)
            case EntryKind.ENDED:
                queues.pop(name, None)
                groups.pop(name, None)
                self._created.pop(name, None)
            case EntryKind.BODIES_KEPT | EntryKind.BODIES_DROPPED:
                assert self._partition is not None, "restored into a partition"
                self._partition.bodies.replay(entry)
            case EntryKind.IDS_SEEN | EntryKind.IDS_KEPT | EntryKind.IDS_DROPPED:
                assert self._partition is not None, "restored into a partition"
                self._partition.dedup.replay(entry)

    def snapshot(self) -> bytes:
        """All states now."""
        states = [
            _State(
                name,
                self._created[name],
                SubscriptionMode.QUEUE,
                reader.delivery.snapshot(),
                reader.loan,
            )
            for name, reader in self.readers.items()
        ]
        states += [
            _State(name, self._created[name], SubscriptionMode.STREAM, one.state.snapshot())
            for name, one in self.groups.items()
        ]
        assert self._partition is not None, "restored before it is told of"
        bodies = self._partition.bodies.stored
        dedup = self._partition.dedup.state(self._partition.high_watermark)
        plain = not bodies and dedup is None
        return msgspec.msgpack.encode(
            _Snapshot(_PLAIN_FORMAT if plain else SNAPSHOT_FORMAT, states, bodies, dedup)
        )

    # Following the control plane.

    def follow(self, configs: Mapping[str, SubscriptionConfig]) -> None:
        """Begin the subscriptions that are new, end those that are gone."""
        assert self._partition is not None, "restored before it follows"
        if self._partition.lost is not None:
            return
        for name, created_at_ms in list(self._created.items()):
            config = configs.get(name)
            if config is None or config.created_at_ms != created_at_ms:
                self._end(name)
        for name, config in configs.items():
            if name not in self._created:
                self._begin(config)
            if name in self.readers:
                self._settle_settings(self.readers[name], config)
        for coordinator in self.groups.values():
            coordinator.grow(self._partition.config.partitions)

    def _begin(self, config: SubscriptionConfig) -> None:
        assert self._partition is not None, "restored before it begins"
        if config.mode is SubscriptionMode.QUEUE:
            starts = config.start_offsets
            start = starts[self._index] if self._index < len(starts) else 0
            self._created[config.name] = config.created_at_ms
            self._record(config.name, EntryKind.QUEUE_STARTED, start)
            self._add_reader(config.name, Delivery(start, policy_of(config)), is_new=True)
        elif self._index == 0:
            partitions = self._partition.config.partitions
            self._created[config.name] = config.created_at_ms
            self._record(config.name, EntryKind.GROUP_STARTED, partitions)
            self._add_group(config.name, GroupState(partitions))

    def _end(self, name: str) -> None:
        assert self._partition is not None, "restored before anything ends"
        self._record(name, EntryKind.ENDED)
        del self._created[name]
        reader = self.readers.pop(name, None)
        if reader is not None:
            reader.close()
            self._partition.release_bodies(reader.delivery.carried())
        self.groups.pop(name, None)

    def _add_reader(
        self, name: str, state: Delivery, *, loan: Loan | None = None, is_new: bool = False
    ) -> None:
        assert self._partition is not None, "restored before a reader is added"

        def journal(changes: Sequence[delivery.Change]) -> asyncio.Future[None]:
            return self._record(name, EntryKind.QUEUE_CHANGED, delivery.encode_changes(changes))

        reader = QueueReader(
            self._partition,
            state,
            journal=journal,
            now_ms=self._now_ms,
            new_lease_id=lambda: int.from_bytes(self._random.bytes(8), "big") | 1,
            rate=self._rates.of(self._partition.id.topic_id, name, self._created[name]),
            loan=loan,
            is_new=is_new,
        )
        reader.dead_letters = DeadLetters(
            Origin(self._partition.config.name, name, self._created[name], self._partition.id),
            state,
            find=reader.message,
            journal=reader.note,
            durable=reader.durable,
            target=self._dead_letters,
            clock=self._clock,
        )
        self.readers[name] = reader
        if name == self._partition.config.name:
            self._partition.backlog = lambda: state.backlog

    def _settle_settings(self, reader: QueueReader, config: SubscriptionConfig) -> None:
        assert self._partition is not None, "restored before it follows"
        reader.policy = policy_of(config)
        self._keep_ttl(config.name, reader.delivery)
        partitions = self._partition.config.partitions
        reader.rate.set(reader, config.queue.rate_per_s, partitions, is_new=reader.is_new)
        if reader.dead_letters is not None:
            reader.dead_letters.name = config.queue.dead_letter
            reader.dead_letters.kick()
        reader.wake()  # After a restart, time may have passed over some of it.

    def _keep_ttl(self, name: str, state: Delivery) -> None:
        """Journal a changed time to live with where it begins, for those who read the log again."""
        assert self._partition is not None, "restored before it follows"
        change = state.ttl_change(self._partition.high_watermark)
        if change is not None:
            state.set_ttl(change)
            none: list[delivery.Change] = []
            self._record(name, EntryKind.QUEUE_CHANGED, delivery.encode_changes(none), ttl=change)

    async def lend_rate(self, name: str, created_at_ms: int, borrower: str) -> Loan | None:
        """Lend another node what is not used of a queue's share of its rate; None: nothing.

        Durable on return, so that the next owner knows of it. Raises what ended the ownership.
        """
        reader = self.readers.get(name)
        if reader is None or self._created[name] != created_at_ms:
            return None
        loan = reader.lend_rate(borrower)
        if loan is not None:
            none: list[delivery.Change] = []
            changes = delivery.encode_changes(none)
            await asyncio.shield(self._record(name, EntryKind.QUEUE_CHANGED, changes, loan=loan))
        return loan

    def _add_group(self, name: str, state: GroupState) -> None:
        def journal(changes: Sequence[group.Change]) -> asyncio.Future[None]:
            return self._record(name, EntryKind.GROUP_CHANGED, group.encode_changes(changes))

        self.groups[name] = GroupCoordinator(state, journal=journal, now_ms=self._now_ms)

    def _record(
        self,
        name: str,
        kind: EntryKind,
        payload: bytes | int | None = None,
        *,
        ttl: TtlFrom | None = None,
        loan: Loan | None = None,
    ) -> asyncio.Future[None]:
        assert self._partition is not None, "restored before it records"
        entry = Entry(name, self._created[name], kind, payload, ttl, loan)
        return self._partition.journal(encode_entry(entry))

    def _arrive(self, batches: Sequence[Arrived]) -> None:
        for reader in self.readers.values():
            reader.arrive(batches)
            reader.wake()
