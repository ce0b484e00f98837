"""Creating, altering and deleting topics, queues and their subscriptions.

Each is one atomic write, decided by the view of the leader: a topic comes with its first owners, a
queue with its subscription, and what is refused leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from mom_broker.master.deletions import Deletions, deletion_write
from mom_broker.master.placer import Placer
from mom_broker.master.writer import ControlWriter
from mom_broker.storage.catalog_view import CatalogView
from mom_broker.storage.starts import StartOffsets, find_starts
from mom_core import catalog, topics
from mom_core.errors import (
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
)
from mom_core.limits import SUBSCRIPTIONS_PER_TOPIC_MAX, TOPICS_MAX
from mom_core.ports import KeyWrite, Random, Store
from mom_core.topics import QueueSettings, SubscriptionConfig, TopicConfig, TopicKind

TOPIC_ID_BYTES: Final = 16
# How often the start of a subscription is looked up anew since its topic changed meanwhile: it was
# made again, or got more partitions.
LOOKUPS_MAX: Final = 5


class TopicAdmin:
    """Changes topics, queues and subscriptions."""

    def __init__(
        self,
        store: Store,
        view: CatalogView,
        writer: ControlWriter,
        placer: Placer,
        deletions: Deletions,
        random: Random,
    ) -> None:
        self._store = store
        self._view = view
        self._writer = writer
        self._placer = placer
        self._deletions = deletions
        self._random = random

    def get(self, name: str, kind: TopicKind | None = None) -> TopicConfig:
        """A topic or queue. Raises NotFoundError."""
        found = self._view.topics.get(name)
        if found is None:
            what = kind.value if kind is not None else "topic or queue"
            raise NotFoundError(f"no {what} {name[:256]!r}; create it first", field="name")
        if kind is not None and found.kind is not kind:
            raise NotFoundError(
                f"no {kind} {name!r}: there is a {found.kind} of that name", field="name"
            )
        return found

    async def create(
        self, name: str, kind: TopicKind, wanted: Mapping[str, object]
    ) -> tuple[TopicConfig, bool]:
        """Create a topic or queue; whether it is new.

        Raises InvalidArgumentError, or ConflictError whose ``differences`` tell what stands there.
        """
        new = topics.new_topic(
            name,
            kind,
            wanted,
            topic_id=self._random.bytes(TOPIC_ID_BYTES).hex(),
            created_at_ms=self._store.now_ms(),
        )
        secret = self._random.bytes(topics.SECRET_BYTES)
        limit_bytes = (await self._store.usage()).limit_bytes

        def plan() -> tuple[Sequence[KeyWrite], tuple[TopicConfig, bool]]:
            existing = self._view.topics.get(name)
            if existing is not None:
                topics.refuse_differences(existing, new, wanted)
                return (), (existing, False)
            if len(self._view.topics) >= TOPICS_MAX:
                raise OverloadedError(
                    f"there are {TOPICS_MAX} topics and queues, the most that a cluster holds. "
                    "Delete some first"
                )
            topics.check_budget(self._view.topics.values(), new, limit_bytes)
            writes = self._creation(new, secret)
            if new.queue is not None:
                writes += self._dead_letters(new, new.queue, limit_bytes)
            return writes, (new, True)

        return await self._writer.apply(plan)

    def _creation(self, new: TopicConfig, secret: bytes) -> list[KeyWrite]:
        assignment = self._placer.assignment_for(new)
        writes = [
            KeyWrite(catalog.topic_key(new.name), topics.encode_topic(new), 0),
            KeyWrite(catalog.assignment_key(new.topic_id), catalog.encode(assignment), 0),
        ]
        if new.kind is TopicKind.QUEUE:
            subscription = topics.queue_subscription(new, secret)
            writes.append(_subscription_write(new, subscription, 0))
        return writes

    def _dead_letters(
        self, topic: TopicConfig, settings: QueueSettings, limit_bytes: int | None
    ) -> list[KeyWrite]:
        """Make the queue for dead letters where it is missing.

        Raises InvalidArgumentError when they would come back to ``topic``.
        """
        name = settings.dead_letter
        if not name:
            return []
        self._refuse_cycle(topic.name, name)
        if name in self._view.topics:
            return []
        made = topics.new_topic(
            name,
            TopicKind.QUEUE,
            # They all go to its first partition, and may be as many bytes as their origin's.
            {
                "retention_bytes": topic.retention_bytes,
                "message_bytes_max": topic.message_bytes_max,
            },
            topic_id=self._random.bytes(TOPIC_ID_BYTES).hex(),
            created_at_ms=self._store.now_ms(),
        )
        topics.check_budget([*self._view.topics.values(), topic], made, limit_bytes)
        return self._creation(made, self._random.bytes(topics.SECRET_BYTES))

    def _refuse_cycle(self, name: str, dead_letter: str) -> None:
        places = [dead_letter]
        seen = set(places)
        while places:
            place = places.pop()
            if place == name:
                raise InvalidArgumentError(
                    f"dead letters of {name!r} would come back to it by way of {dead_letter!r}: "
                    "a message that can't be handled would go round for ever. Choose another "
                    "dead_letter, or take it out there",
                    field="dead_letter",
                )
            further = self._dead_letters_of(place) - seen
            seen |= further
            places += further

    def _dead_letters_of(self, name: str) -> set[str]:
        """Where the dead letters of a queue, or of a topic's subscriptions, go."""
        found = self._view.topics.get(name)
        if found is None:
            return set()
        subscriptions = self._view.subscriptions.get(found.topic_id, {}).values()
        return {one.queue.dead_letter for one in subscriptions} - {""}

    async def alter(self, name: str, kind: TopicKind | None, patch: bytes) -> TopicConfig:
        """Apply a JSON merge patch of the shown form.

        Raises NotFoundError, or InvalidArgumentError that names the field.
        """
        changes = _decode_patch(patch)
        limit_bytes = (await self._store.usage()).limit_bytes

        def plan() -> tuple[Sequence[KeyWrite], TopicConfig]:
            before = self.get(name, kind)
            after = topics.patch_topic(before, changes)
            if after == before:
                return (), before
            topics.check_budget(self._view.topics.values(), after, limit_bytes)
            writes = self._alteration(before, after)
            if after.queue is not None:
                writes += self._dead_letters(after, after.queue, limit_bytes)
            return writes, after

        return await self._writer.apply(plan)

    def _alteration(self, before: TopicConfig, after: TopicConfig) -> list[KeyWrite]:
        key = catalog.topic_key(after.name)
        writes = [KeyWrite(key, topics.encode_topic(after), self._view.revisions[key])]
        if after.partitions > before.partitions:
            found = self._view.assignments.get(after.topic_id)
            assignment = self._placer.assignment_for(after)
            writes.append(
                KeyWrite(
                    catalog.assignment_key(after.topic_id),
                    catalog.encode(assignment),
                    found.revision if found is not None else 0,
                )
            )
        if after.queue is not None and after.queue != before.queue:
            subscription = self._view.subscriptions[after.topic_id][after.name]
            changed = msgspec.structs.replace(subscription, queue=after.queue)
            writes.append(_subscription_write(after, changed, None))
        return writes

    async def delete(self, name: str, kind: TopicKind | None) -> None:
        """Delete a topic or queue with all that belongs to it. Raises NotFoundError."""

        def plan() -> tuple[Sequence[KeyWrite], None]:
            topic = self.get(name, kind)
            key = catalog.topic_key(name)
            subscriptions = self._view.subscriptions.get(topic.topic_id, {})
            return [
                KeyWrite(key, None, self._view.revisions[key]),
                # Whatever revision it has: an owner that raises an epoch meanwhile loses.
                KeyWrite(catalog.assignment_key(topic.topic_id), None),
                *(
                    KeyWrite(catalog.subscription_key(topic.topic_id, one), None)
                    for one in subscriptions
                ),
                deletion_write(topic.topic_id, topic.partitions),
            ], None

        await self._writer.apply(plan)
        self._deletions.wake()

    # Subscriptions.

    async def create_subscription(
        self, topic_name: str, name: str, wanted: Mapping[str, object]
    ) -> tuple[SubscriptionConfig, bool]:
        """Create a subscription; whether it is new.

        Where it begins is looked up before it is written, once for ever. So ``latest`` is past what
        was acknowledged before this call, and not past what is published after it.

        Raises NotFoundError for the topic, InvalidArgumentError, StoreError, or ConflictError whose
        ``differences`` tell what stands there.
        """
        new = topics.new_subscription(
            name,
            topic_name,
            wanted,
            created_at_ms=self._store.now_ms(),
            secret=self._random.bytes(topics.SECRET_BYTES),
        )

        limit_bytes = (await self._store.usage()).limit_bytes
        starts = StartOffsets("", ())

        def plan() -> tuple[Sequence[KeyWrite], tuple[SubscriptionConfig, bool] | None]:
            topic = self.get(topic_name)
            standing = self._view.subscriptions.get(topic.topic_id, {})
            existing = standing.get(name)
            if existing is not None:
                topics.refuse_differences(existing, new, wanted)
                return (), (existing, False)
            self._check_takes_subscription(topic, new, len(standing))
            topics.refuse_second_fair_header(standing.values(), new)
            dead_letters = self._dead_letters(topic, new.queue, limit_bytes)
            if not starts.cover(topic):
                return (), None
            begun = msgspec.structs.replace(new, start_offsets=starts.offsets)
            return [_subscription_write(topic, begun, 0), *dead_letters], (begun, True)

        # Not within the plan: other changes need not wait while many partitions are looked at.
        for _ in range(LOOKUPS_MAX):
            made = await self._writer.apply(plan)
            if made is not None:
                return made
            topic = self.get(topic_name)
            starts = await find_starts(self._store, topic, topics.parse_start(new.start))
        raise ConflictError(f"topic {topic_name!r} kept changing; try again")

    def _check_takes_subscription(
        self, topic: TopicConfig, new: SubscriptionConfig, standing: int
    ) -> None:
        if topic.kind is TopicKind.QUEUE:
            raise InvalidArgumentError(
                f"{topic.name!r} is a queue and has the one subscription of its own name. Make a "
                "topic for several subscriptions",
                field="topic",
            )
        if standing >= SUBSCRIPTIONS_PER_TOPIC_MAX:
            raise OverloadedError(
                f"topic {topic.name!r} has {standing} subscriptions, the most that are allowed. "
                f"Delete one before creating {new.name!r}"
            )

    async def alter_subscription(
        self, topic_name: str, name: str, patch: bytes
    ) -> SubscriptionConfig:
        """Apply a JSON merge patch of the shown form.

        Raises NotFoundError, or InvalidArgumentError that names the field, or says that a queue's
        own subscription is altered with the queue.
        """
        changes = _decode_patch(patch)
        limit_bytes = (await self._store.usage()).limit_bytes

        def plan() -> tuple[Sequence[KeyWrite], SubscriptionConfig]:
            topic = self.get(topic_name)
            if topic.kind is TopicKind.QUEUE:
                raise InvalidArgumentError(
                    f"alter the queue {topic.name!r} itself: its subscription follows",
                    field="topic",
                )
            before = self._view.subscriptions.get(topic.topic_id, {}).get(name)
            if before is None:
                raise _no_subscription(topic_name, name)
            after = topics.patch_subscription(before, changes)
            if after == before:
                return (), before
            key = catalog.subscription_key(topic.topic_id, name)
            dead_letters = self._dead_letters(topic, after.queue, limit_bytes)
            write = _subscription_write(topic, after, self._view.revisions[key])
            return [write, *dead_letters], after

        return await self._writer.apply(plan)

    async def delete_subscription(self, topic_name: str, name: str) -> None:
        """Delete a subscription. Raises NotFoundError, and InvalidArgumentError for a queue's."""

        def plan() -> tuple[Sequence[KeyWrite], None]:
            topic = self.get(topic_name)
            if topic.kind is TopicKind.QUEUE:
                raise InvalidArgumentError(
                    f"a queue can't be without its subscription; delete the queue {topic.name!r} "
                    "itself",
                    field="topic",
                )
            if name not in self._view.subscriptions.get(topic.topic_id, {}):
                raise _no_subscription(topic_name, name)
            return [KeyWrite(catalog.subscription_key(topic.topic_id, name), None)], None

        await self._writer.apply(plan)


def _no_subscription(topic: str, name: str) -> NotFoundError:
    return NotFoundError(f"topic {topic!r} has no subscription {name[:256]!r}", field="name")


def _subscription_write(
    topic: TopicConfig, subscription: SubscriptionConfig, revision: int | None
) -> KeyWrite:
    key = catalog.subscription_key(topic.topic_id, subscription.name)
    return KeyWrite(key, topics.encode_subscription(subscription), revision)


def _decode_patch(patch: bytes) -> Any:
    try:
        return msgspec.json.decode(patch)
    except msgspec.DecodeError as error:
        raise InvalidArgumentError(
            f"merge_patch is no JSON: {error}", field="merge_patch"
        ) from None
