"""From a MomTopic or MomQueue and what stands to what is changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mom_core import topics as core
from mom_core.topics import TopicKind
from mom_operator.conditions import find
from mom_operator.registry import Key, Registry
from mom_operator.spec import parse_queue, parse_topic
from mom_operator.topics import (
    AlterSubscription,
    AlterTopic,
    Backlog,
    Claim,
    CreateSubscription,
    CreateTopic,
    Difference,
    Refusal,
    Standing,
    coarse,
    conflict_with,
    decide,
    difference,
    in_sync_status,
    shown_backlog,
    wanted_of,
    with_backlogs,
)


def a_topic(resource: str = "orders", kind: str = "MomTopic", **spec: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "metadata": {
            "name": resource,
            "namespace": "ns",
            "uid": f"uid-{resource}",
            "generation": 1,
            "resourceVersion": "1",
        },
        "spec": {"clusterRef": {"name": "c"}} | spec,
    }


def standing(kind: TopicKind = TopicKind.TOPIC, **settings: Any) -> core.TopicConfig:
    return core.new_topic("orders", kind, settings, topic_id="0a" * 16, created_at_ms=1)


def subscription(name: str, **settings: Any) -> core.SubscriptionConfig:
    return core.new_subscription(name, "orders", settings, created_at_ms=1, secret=bytes(32))


def test_what_is_not_there_is_made() -> None:
    wanted = wanted_of(
        parse_topic(a_topic(partitions=3, subscriptions=[{"name": "mail", "mode": "queue"}]))
    )
    assert decide(wanted, Standing()) == [
        CreateTopic({"partitions": 3}),
        CreateSubscription("mail", {"mode": "queue"}),
    ]


def test_only_what_is_named_is_managed() -> None:
    wanted = wanted_of(parse_topic(a_topic()))
    assert decide(wanted, Standing(config=standing(partitions=7, retention_ms=5_000))) == []


def test_what_differs_is_altered() -> None:
    wanted = wanted_of(parse_topic(a_topic(partitions=4, retention={"time": "2h"})))
    config = standing(partitions=2, retention_ms=7_200_000)
    assert decide(wanted, Standing(config=config)) == [AlterTopic({"partitions": 4})]
    queue = wanted_of(parse_queue(a_topic(kind="MomQueue", ackTimeout="45s")))
    assert decide(queue, Standing(config=standing(TopicKind.QUEUE))) == [
        AlterTopic({"lease_ms": 45_000})
    ]


@pytest.mark.parametrize(
    ("spec", "config"),
    [
        ({"partitions": 2}, standing(partitions=3)),
        ({}, standing(TopicKind.QUEUE)),
    ],
)
def test_nothing_is_thrown_away_to_fit(spec: dict[str, Any], config: core.TopicConfig) -> None:
    decided = decide(wanted_of(parse_topic(a_topic(**spec))), Standing(config=config))
    assert isinstance(decided, Refusal)
    assert decided.reason == "Conflict"


def test_subscriptions_are_made_altered_and_never_removed() -> None:
    wanted = wanted_of(
        parse_topic(
            a_topic(
                subscriptions=[
                    {"name": "mail", "mode": "queue", "ackTimeout": "1m"},
                    {"name": "new", "start": "latest"},
                ]
            )
        )
    )
    found = {
        "mail": subscription("mail", mode="queue"),
        "by-hand": subscription("by-hand"),
    }
    assert decide(wanted, Standing(config=standing(), subscriptions=found)) == [
        AlterSubscription("mail", {"lease_ms": 60_000}),
        CreateSubscription("new", {"mode": "stream", "start": "latest"}),
    ]
    found["mail"] = subscription("mail")
    decided = decide(wanted, Standing(config=standing(), subscriptions=found))
    assert isinstance(decided, Refusal)
    assert "mode stream" in decided.message


def test_where_a_subscription_began_is_history() -> None:
    wanted = wanted_of(parse_topic(a_topic(subscriptions=[{"name": "mail", "start": "latest"}])))
    found = {"mail": subscription("mail", start="earliest")}
    assert decide(wanted, Standing(config=standing(), subscriptions=found)) == []


def test_the_oldest_claim_wins() -> None:
    old = Claim("2026-05-01T12:00:00Z", "b", "MomTopic", "ns", "old")
    new = Claim("2026-05-01T12:00:01Z", "a", "MomQueue", "ns", "new")
    assert conflict_with(old, [new]) is None
    refusal = conflict_with(new, [old])
    assert refusal is not None
    assert "MomTopic ns/old" in refusal.message


# The registry.


def _put(registry: Registry, obj: dict[str, Any], version: int) -> Any:
    obj["metadata"]["resourceVersion"] = str(version)
    return registry.put(obj)


def test_rivals_and_topics_of_a_cluster_are_found() -> None:
    registry = Registry()
    _put(registry, a_topic("one", name="x"), 1)
    change = _put(registry, a_topic("two", name="x"), 2)
    one, two = Key("MomTopic", "ns", "one"), Key("MomTopic", "ns", "two")
    assert change.others == (one,)
    assert [rival.name for rival in registry.rivals_of(one)] == ["two"]
    assert set(registry.topics_of(Key("MomCluster", "ns", "c"))) == {one, two}
    change = registry.remove(one)
    assert change.others == (two,)
    assert list(registry.rivals_of(two)) == []


def test_a_status_of_our_own_is_no_news() -> None:
    registry = Registry()
    assert _put(registry, a_topic(), 1).fresh
    written = a_topic() | {"status": {"partitions": 1}}
    assert not _put(registry, written, 2).fresh
    resource = registry.topic(Key("MomTopic", "ns", "orders"))
    assert resource is not None
    assert resource.status == {"partitions": 1}
    assert _put(registry, a_topic(), 2) is None
    assert _put(registry, a_topic(), 1) is None
    changed = a_topic(partitions=3)
    changed["metadata"]["generation"] = 2
    assert _put(registry, changed, 3).fresh


def test_a_listing_finds_what_was_missed() -> None:
    registry = Registry()
    _put(registry, a_topic("gone"), 1)
    _put(registry, a_topic("young"), 9)
    new = a_topic("new")
    new["metadata"]["resourceVersion"] = "4"
    changes = list(registry.replace("MomTopic", "", [new], "5"))
    assert [(change.key.name, change.fresh) for change in changes] == [
        ("new", True),
        ("gone", True),
    ]
    assert registry.get(Key("MomTopic", "ns", "young")) is not None


def test_a_topic_that_cannot_be_read_is_known_all_the_same() -> None:
    registry = Registry()
    bad = a_topic(partitions="many")
    change = _put(registry, bad, 1)
    assert change.fresh
    assert registry.topic(change.key) is None
    assert registry.get(change.key) is not None


NOW = datetime(2026, 1, 31, tzinfo=UTC)


def test_what_waits_is_told_of_managed_subscriptions_and_of_queues() -> None:
    mail = subscription("mail", mode="queue", dead_letter="mail.dlq")
    counts = {
        "orders": {
            "mail": Backlog(messages=12_345, oldest_ms=400_000),
            "own": Backlog(messages=1, oldest_ms=1),
        },
        "mail.dlq": {"mail.dlq": Backlog(messages=7, oldest_ms=1)},
    }
    known = with_backlogs(Standing(config=standing(), subscriptions={"mail": mail}), counts)
    resource = parse_topic(a_topic(subscriptions=[{"name": "mail", "mode": "queue"}]))
    status = in_sync_status(resource, known, NOW)
    told = [{"name": "mail", "messages": 12_000, "oldest": "5m", "deadLetters": 7}]
    assert status["backlogs"] == told
    queue = parse_queue(a_topic("mail", kind="MomQueue"))
    config = core.new_topic("mail", TopicKind.QUEUE, {}, topic_id="0b" * 16, created_at_ms=1)
    one = Standing(config=config, backlogs={"mail": Backlog(messages=99, oldest_ms=59_999)})
    assert in_sync_status(queue, one, NOW)["backlog"] == {"messages": 99, "oldest": "0s"}


def test_a_topic_tells_the_furthest_behind_and_each_dead_letter_once() -> None:
    subscriptions = {
        "mail": subscription("mail", mode="queue", dead_letter="dlq"),
        "push": subscription("push", mode="queue", dead_letter="dlq"),
        "reader": subscription("reader"),
    }
    counts = {
        "orders": {
            "mail": Backlog(messages=5, oldest_ms=70_000),
            "push": Backlog(messages=7, oldest_ms=1),
            "reader": Backlog(messages=3, oldest_ms=400_000),
            "own": Backlog(messages=1_000, oldest_ms=10**9),
        },
        "dlq": {"dlq": Backlog(messages=2, oldest_ms=1)},
    }
    known = with_backlogs(Standing(config=standing(), subscriptions=subscriptions), counts)
    managed = [{"name": name} for name in subscriptions]
    status = in_sync_status(parse_topic(a_topic(subscriptions=managed)), known, NOW)
    assert status["backlog"] == {"messages": 7, "oldest": "5m", "deadLetters": 2}
    without = in_sync_status(parse_topic(a_topic()), known, NOW)
    assert not {"backlog", "backlogs"} & set(without)
    assert not find(without, "Flowing"), "nothing is managed that could stand still"


def test_a_stall_is_a_condition_until_it_is_over() -> None:
    managed = [{"name": "mail", "mode": "queue"}, {"name": "reader"}]

    def after(before: dict[str, Any], later_s: int, **stalled: bool) -> dict[str, Any]:
        backlogs = {
            name: Backlog(messages=1, oldest_ms=1, stalled=one) for name, one in stalled.items()
        }
        known = Standing(config=standing(), backlogs=backlogs if stalled else None)
        obj = a_topic(subscriptions=managed) | {"status": before}
        return in_sync_status(parse_topic(obj), known, NOW + timedelta(seconds=later_s))

    flows = after({}, 0, mail=False, reader=False, own=True)
    assert find(flows, "Flowing")["status"] == "True"
    stands = after(flows, 60, mail=True, reader=False)
    found = find(stands, "Flowing")
    assert (found["status"], found["reason"]) == ("False", "Stalled")
    assert found["message"].startswith("mail: messages and workers are there")
    assert after(stands, 120, mail=True, reader=False) == stands, "written once"
    assert after(stands, 120) == stands, "kept, while nobody knows"
    assert find(stands, "Ready")["status"] == "True"
    again = after(stands, 180, mail=False, reader=False)
    assert find(again, "Flowing")["lastTransitionTime"] == "2026-01-31T00:03:00Z"


def test_a_queue_that_was_just_made_has_its_dead_letters_told() -> None:
    config = core.new_topic(
        "mail", TopicKind.QUEUE, {"dead_letter": "dlq"}, topic_id="0b" * 16, created_at_ms=1
    )
    counts = {
        "mail": {"mail": Backlog(messages=0, oldest_ms=0)},
        "dlq": {"dlq": Backlog(messages=3, oldest_ms=1)},
    }
    known = with_backlogs(Standing(config=config), counts)
    status = in_sync_status(parse_queue(a_topic("mail", kind="MomQueue")), known, NOW)
    assert status["backlog"]["deadLetters"] == 3


def test_a_status_differs_when_it_would_be_written_otherwise_and_then_only() -> None:
    managed = [{"name": "mail", "mode": "queue"}]

    def known(messages: int, *, stalled: bool = False, oldest_ms: int = 1) -> Standing:
        backlog = Backlog(messages=messages, oldest_ms=oldest_ms, stalled=stalled)
        return Standing(config=standing(), backlogs={"mail": backlog})

    def after(status: dict[str, Any], of: Standing) -> tuple[dict[str, Any], Difference]:
        resource = parse_topic(a_topic(subscriptions=managed) | {"status": status})
        return in_sync_status(resource, of, NOW), difference(resource, of)

    status, found = after({}, known(120))
    assert found == Difference(counts=True, flow=True)
    for same in (known(120), known(129, oldest_ms=59_999), Standing(config=standing())):
        again, found = after(status, same)
        assert again == status
        assert found == Difference(counts=False, flow=False)
    for other in (known(130), known(120, oldest_ms=60_000)):
        again, found = after(status, other)
        assert again != status
        assert found == Difference(counts=True, flow=False)
    _, found = after(status, known(120, stalled=True))
    assert found == Difference(counts=False, flow=True)


def test_a_long_list_of_stalls_does_not_differ_for_ever() -> None:
    managed = [{"name": f"subscription-{number:04}", "mode": "queue"} for number in range(100)]
    stalls = {str(one["name"]): Backlog(messages=1, oldest_ms=1, stalled=True) for one in managed}
    known = Standing(config=standing(), backlogs=stalls)
    first = in_sync_status(parse_topic(a_topic(subscriptions=managed)), known, NOW)
    resource = parse_topic(a_topic(subscriptions=managed) | {"status": first})
    assert difference(resource, known) == Difference(counts=False, flow=False)


def test_what_waited_stays_told_while_nobody_knows() -> None:
    before = {"backlogs": [{"name": "mail", "messages": 5, "oldest": "1m"}]}
    obj = a_topic(subscriptions=[{"name": "mail"}]) | {"status": before}
    status = in_sync_status(parse_topic(obj), Standing(config=standing()), NOW)
    assert status["backlogs"] == before["backlogs"]


@pytest.mark.parametrize(
    ("count", "told"), [(0, 0), (99, 99), (100, 100), (119, 110), (9_999, 9_900), (10**9, 10**9)]
)
def test_counts_are_told_with_two_digits(count: int, told: int) -> None:
    assert coarse(count) == told
    assert shown_backlog(Backlog(messages=count, oldest_ms=0))["messages"] == told
