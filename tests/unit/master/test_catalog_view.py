"""The view of the control plane that nodes and masters share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from mom_broker.storage.catalog_view import CatalogView
from mom_broker.storage.memory import MemoryStore
from mom_core import catalog, topics
from mom_core.catalog import Assignment, LeaderRecord, NodeRecord, Owner
from mom_core.ports import KeyWrite
from mom_core.topics import TopicKind
from mom_process.system import SystemClock

QUEUE = topics.new_topic("mail", TopicKind.QUEUE, {}, topic_id="a" * 32, created_at_ms=1)
SUBSCRIPTION = topics.queue_subscription(QUEUE, b"s" * topics.SECRET_BYTES)
ASSIGNMENT = Assignment(topic_id=QUEUE.topic_id, owners=(Owner("node", 1),))
NODE = NodeRecord(node_id="node", address="127.0.0.1:1")
LEADER = LeaderRecord(master_id="one", address="127.0.0.1:2", token=1)
ENTRIES = {
    catalog.topic_key("mail"): topics.encode_topic(QUEUE),
    catalog.subscription_key(QUEUE.topic_id, "mail"): topics.encode_subscription(SUBSCRIPTION),
    catalog.assignment_key(QUEUE.topic_id): catalog.encode(ASSIGNMENT),
    catalog.node_key("node"): catalog.encode(NODE),
    catalog.LEADER_KEY: catalog.encode(LEADER),
}


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    one = MemoryStore(SystemClock())
    yield one
    await one.close()


@pytest.fixture
async def view(store: MemoryStore) -> AsyncIterator[CatalogView]:
    one = CatalogView(store, SystemClock())
    await one.start()
    yield one
    await one.close()


def _writes(*, delete: bool = False) -> list[KeyWrite]:
    return [KeyWrite(key, None if delete else value) for key, value in ENTRIES.items()]


def _check_full(view: CatalogView, revision: int) -> None:
    assert view.topics == {"mail": QUEUE}
    assert view.topics_by_id == {QUEUE.topic_id: QUEUE}
    assert view.subscriptions == {QUEUE.topic_id: {"mail": SUBSCRIPTION}}
    assert view.assignments == {QUEUE.topic_id: (ASSIGNMENT, revision)}
    assert view.nodes == {"node": NODE}
    assert view.leader == LEADER
    assert view.revision == revision
    assert view.revisions == dict.fromkeys(ENTRIES, revision)


async def test_what_stands_is_shown_when_start_returns(store: MemoryStore) -> None:
    revision = await store.write(_writes())
    view = CatalogView(store, SystemClock())
    await view.start()
    _check_full(view, revision)
    await view.close()


async def test_changes_are_followed_and_told_together(
    store: MemoryStore, view: CatalogView
) -> None:
    told: list[frozenset[str] | None] = []
    unsubscribe = view.subscribe(told.append)
    await view.reached(await store.write(_writes()))
    _check_full(view, view.revision)
    assert told == [frozenset(ENTRIES)]
    await view.reached(await store.write(_writes(delete=True)))
    shown = (view.topics, view.topics_by_id, view.subscriptions, view.assignments)
    assert shown == ({}, {}, {}, {})
    assert (view.nodes, view.leader, view.revisions) == ({}, None, {})
    unsubscribe()
    await view.reached(await store.write(_writes()))
    assert len(told) == 2


async def test_what_cannot_be_read_hides_nothing_else(
    store: MemoryStore, view: CatalogView
) -> None:
    newer = KeyWrite(catalog.topic_key("newer"), b'{"format": 999}')
    unknown = KeyWrite("something/else", b"\0")
    await view.reached(await store.write([*_writes(), newer, unknown]))
    _check_full(view, view.revision)


async def test_a_topic_made_again_is_another(store: MemoryStore, view: CatalogView) -> None:
    again = topics.new_topic("mail", TopicKind.QUEUE, {}, topic_id="b" * 32, created_at_ms=2)
    await store.write(_writes())
    key = catalog.topic_key("mail")
    await view.reached(await store.write([KeyWrite(key, topics.encode_topic(again))]))
    assert view.topics == {"mail": again}
    assert view.topics_by_id == {again.topic_id: again}
