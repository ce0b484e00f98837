"""From a MomTopic or MomQueue and what stands in MOM to what is to be changed there.

Only what the resource names is managed: an absent setting keeps the value that it has, and a
subscription that is not listed is nobody's business here, since programs make their own. Nothing is
ever made smaller or thrown away to fit: that is a conflict, which a person resolves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from mom_core.topics import (
    SubscriptionConfig,
    TopicConfig,
    TopicKind,
    parse_start,
    show_subscription,
    show_topic,
)
from mom_operator import conditions
from mom_operator.conditions import READY, Condition, Status
from mom_operator.spec import QueueResource, TopicResource

AnyTopic = TopicResource | QueueResource

# Reasons; programs rely on them.
IN_SYNC: Final = "InSync"
CONFLICT: Final = "Conflict"
INVALID_SPEC: Final = "InvalidSpec"
CLUSTER_NOT_FOUND: Final = "ClusterNotFound"
CLUSTER_NOT_READY: Final = "ClusterNotReady"
NAMESPACE_NOT_ALLOWED: Final = "NamespaceNotAllowed"
REFUSED: Final = "Refused"
DELETING: Final = "Deleting"
NO_STALL: Final = "NoStall"
STALLED: Final = "Stalled"

# Not "Stalled", which tools take for a failure of the resource itself where it is True.
FLOWING: Final = "Flowing"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a resource asks for, in the shown form of :mod:`mom_core.topics`."""

    name: str
    kind: TopicKind
    settings: Mapping[str, object]
    subscriptions: Mapping[str, Mapping[str, object]] = {}


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """What waits in a queue or subscription."""

    messages: int
    """Queue mode: not acknowledged. Stream mode: not handled."""
    oldest_ms: int
    """How long ago the oldest of them came; 0: there is none."""
    dead_letters: int | None = None
    """What waits where its dead letters go; None: nowhere, or not a queue."""
    dead_letter: str = ""
    """Where they go."""
    stalled: bool = False
    """Whether it has messages and workers and makes no progress."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in MOM under that name."""

    config: TopicConfig | None = None
    subscriptions: Mapping[str, SubscriptionConfig] = {}
    backlogs: Mapping[str, Backlog] | None = None
    """By subscription; None: not known now."""


class CreateTopic(msgspec.Struct, frozen=True, tag=True):
    """Make the topic or queue."""

    settings: Mapping[str, object]


class AlterTopic(msgspec.Struct, frozen=True, tag=True):
    """Change settings of it."""

    patch: Mapping[str, object]


class CreateSubscription(msgspec.Struct, frozen=True, tag=True):
    """Make a subscription of it."""

    name: str
    settings: Mapping[str, object]


class AlterSubscription(msgspec.Struct, frozen=True, tag=True):
    """Change settings of a subscription."""

    name: str
    patch: Mapping[str, object]


Action = CreateTopic | AlterTopic | CreateSubscription | AlterSubscription


class Refusal(NamedTuple):
    """Why it can't be done, for a condition."""

    reason: str
    message: str


def wanted_of(resource: AnyTopic) -> Wanted:
    """What a resource asks for."""
    if isinstance(resource, QueueResource):
        return Wanted(
            name=resource.queue_name, kind=TopicKind.QUEUE, settings=resource.spec.settings()
        )
    return Wanted(
        name=resource.topic_name,
        kind=TopicKind.TOPIC,
        settings=resource.spec.settings(),
        subscriptions={one.name: one.settings() for one in resource.spec.subscriptions or ()},
    )


def name_of(resource: AnyTopic) -> str:
    """The name in MOM."""
    return resource.queue_name if isinstance(resource, QueueResource) else resource.topic_name


def decide(wanted: Wanted, standing: Standing) -> list[Action] | Refusal:
    """What to do next, in order; nothing when all is as wanted."""
    config = standing.config
    if config is None:
        return [CreateTopic(wanted.settings), *_new_subscriptions(wanted.subscriptions)]
    if config.kind is not wanted.kind:
        return Refusal(CONFLICT, f"a {config.kind} named {wanted.name!r} exists, no {wanted.kind}")
    patch = _differences(wanted.settings, show_topic(config))
    partitions = patch.get("partitions")
    if isinstance(partitions, int) and partitions < config.partitions:
        return Refusal(
            CONFLICT,
            f"{wanted.name!r} has {config.partitions} partitions and can't have fewer: "
            f"{partitions} are asked for",
        )
    actions: list[Action] = [AlterTopic(patch)] if patch else []
    for name, settings in wanted.subscriptions.items():
        found = standing.subscriptions.get(name)
        if found is None:
            actions.append(CreateSubscription(name, settings))
            continue
        change = _subscription_change(name, settings, found)
        if isinstance(change, Refusal):
            return change
        actions += [AlterSubscription(name, change)] if change else []
    return actions


def _new_subscriptions(wanted: Mapping[str, Mapping[str, object]]) -> list[Action]:
    return [CreateSubscription(name, settings) for name, settings in wanted.items()]


def _subscription_change(
    name: str, settings: Mapping[str, object], found: SubscriptionConfig
) -> dict[str, object] | Refusal:
    shown = show_subscription(found)
    if settings.get("mode", shown["mode"]) != shown["mode"]:
        return Refusal(
            CONFLICT,
            f"subscription {name!r} exists in mode {shown['mode']}, which can't change",
        )
    # Where it began is history: it says nothing about a subscription that stands.
    return _differences(
        {key: value for key, value in settings.items() if key not in ("mode", "start")}, shown
    )


def _differences(wanted: Mapping[str, object], shown: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in wanted.items() if shown.get(key) != value}


def normal_start(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings with the start position in its normal form. Raises InvalidArgumentError."""
    start = settings.get("start")
    return dict(settings) | ({"start": str(parse_start(start))} if start is not None else {})


# Who may have a name.


class Claim(NamedTuple):
    """A resource that asks for a name of a cluster. The lowest is the oldest."""

    creation_timestamp: str
    uid: str
    kind: str
    namespace: str
    name: str


def claim_of(resource: AnyTopic) -> Claim:
    """What a resource claims a name with."""
    kind = "MomQueue" if isinstance(resource, QueueResource) else "MomTopic"
    return Claim(resource.creation_timestamp, resource.uid, kind, resource.namespace, resource.name)


def conflict_with(own: Claim, others: Iterable[Claim]) -> Refusal | None:
    """Why ``own`` has to stand back, if an older resource asks for the same name."""
    oldest = min([own, *others])
    if oldest.uid == own.uid:
        return None
    return Refusal(
        CONFLICT, f"{oldest.kind} {oldest.namespace}/{oldest.name} is older and has this name"
    )


# What waits.


Counts = Mapping[str, Mapping[str, Backlog]]
"""What waits in a whole cluster, by topic and subscription."""


def with_backlogs(standing: Standing, counts: Counts) -> Standing:
    """A topic with what waits in each of its subscriptions, and among their dead letters."""
    if standing.config is None:
        return standing
    own = counts.get(standing.config.name, {})
    backlogs = {
        name: _with_dead_letters(backlog, _dead_letter_of(standing, name), counts)
        for name, backlog in own.items()
    }
    return msgspec.structs.replace(standing, backlogs=backlogs)


def _dead_letter_of(standing: Standing, name: str) -> str:
    config = standing.config
    if config is not None and config.queue is not None:
        return config.queue.dead_letter
    subscription = standing.subscriptions.get(name)
    return subscription.queue.dead_letter if subscription is not None else ""


def _with_dead_letters(backlog: Backlog, target: str, counts: Counts) -> Backlog:
    dead = counts.get(target, {}).get(target)
    if dead is None:
        return backlog
    return msgspec.structs.replace(backlog, dead_letters=dead.messages, dead_letter=target)


# Status.


def in_sync_status(resource: AnyTopic, standing: Standing, now: datetime) -> Status:
    """The status of a resource that stands in MOM as it asks for."""
    config = standing.config
    assert config is not None, "what is in sync stands"
    ready = Condition(READY, True, IN_SYNC, f"{config.partitions} partitions")
    managed = _managed(resource)
    status: Status = {
        "observedGeneration": resource.generation,
        "name": config.name,
        "topicId": config.topic_id,
        "partitions": config.partitions,
    }
    if isinstance(resource, TopicResource) and resource.spec.subscriptions is not None:
        status["subscriptions"] = sorted(set(managed) & standing.subscriptions.keys())
    backlogs, flowing = _what_waits(resource, standing, managed)
    known = [ready, *flowing]
    return (
        status
        | backlogs
        | {"conditions": conditions.shown(known, resource.status, resource.generation, now)}
    )


def _managed(resource: AnyTopic) -> list[str]:
    """The subscriptions that a resource speaks of."""
    if isinstance(resource, QueueResource):
        return [resource.queue_name]
    return sorted(one.name for one in resource.spec.subscriptions or ())


def _what_waits(
    resource: AnyTopic, standing: Standing, managed: Collection[str]
) -> tuple[Status, list[Condition]]:
    """What waits, and whether it moves; what was told before, while it is not known."""
    if standing.backlogs is None:
        before = resource.status
        return {
            field: before[field] for field in ("backlog", "backlogs") if field in before
        }, conditions.kept(before, FLOWING)
    known = {name: one for name, one in sorted(standing.backlogs.items()) if name in managed}
    status: Status = {}
    if isinstance(resource, TopicResource) and resource.spec.subscriptions is not None:
        status["backlogs"] = [{"name": name} | shown_backlog(one) for name, one in known.items()]
    if not known:
        return status, []
    status["backlog"] = shown_backlog(_together(known.values()))
    return status, [_flowing(name for name, one in known.items() if one.stalled)]


class Difference(NamedTuple):
    """What a status tells otherwise than what was counted."""

    counts: bool
    flow: bool
    """Whether messages move."""


def difference(resource: AnyTopic, standing: Standing) -> Difference:
    """How the status of a resource differs from what waits; not at all while that is not known."""
    before = resource.status
    told, flowing = _what_waits(resource, standing, _managed(resource))
    counts = any(told.get(field) != before.get(field) for field in ("backlog", "backlogs"))
    return Difference(counts, _outcomes(flowing) != _outcomes(conditions.kept(before, FLOWING)))


def _outcomes(found: Iterable[Condition]) -> list[tuple[bool, str]]:
    return [(one.holds, one.message[: conditions.MESSAGE_LENGTH_MAX]) for one in found]


def _together(backlogs: Collection[Backlog]) -> Backlog:
    """The furthest behind of several subscriptions, and the dead letters of all of them."""
    dead = {one.dead_letter: one.dead_letters for one in backlogs if one.dead_letters is not None}
    return Backlog(
        messages=max(one.messages for one in backlogs),
        oldest_ms=max(one.oldest_ms for one in backlogs),
        dead_letters=sum(dead.values()) if dead else None,
    )


def _flowing(stalled: Iterable[str]) -> Condition:
    named = ", ".join(stalled)
    if not named:
        return Condition(FLOWING, True, NO_STALL, "nothing stands still")
    return Condition(
        FLOWING,
        False,
        STALLED,
        f"{named}: messages and workers are there, and nothing is received, settled or committed. "
        "Look whether its handlers hang",
    )


# Ages are told in these steps, so that a status is not written again for each second.
_AGE_STEPS: Final = (
    ("7d", 7 * 86_400_000),
    ("1d", 86_400_000),
    ("6h", 6 * 3_600_000),
    ("1h", 3_600_000),
    ("30m", 1_800_000),
    ("10m", 600_000),
    ("5m", 300_000),
    ("1m", 60_000),
)
_EXACT_MAX: Final = 100


def shown_backlog(backlog: Backlog) -> Status:
    """A backlog as a status tells it: about how much, and at least how old."""
    shown: Status = {
        "messages": coarse(backlog.messages),
        "oldest": next((text for text, ms in _AGE_STEPS if backlog.oldest_ms >= ms), "0s"),
    }
    if backlog.dead_letters is not None:
        shown["deadLetters"] = coarse(backlog.dead_letters)
    return shown


def coarse(count: int) -> int:
    """A count of which only two digits are exact, rounded down."""
    unit = 1
    while count // unit >= _EXACT_MAX:
        unit *= 10
    return count // unit * unit


def waiting_status(before: Status, generation: int, refusal: Refusal, now: datetime) -> Status:
    """The status of a resource that can't be served now; what it was stays shown."""
    ready = Condition(READY, False, refusal.reason, refusal.message)
    return before | {
        "observedGeneration": generation,
        "conditions": conditions.shown([ready], before, generation, now),
    }


def is_settled(resource: AnyTopic) -> bool:
    """Whether the status says that this generation stands in MOM."""
    ready = conditions.find(resource.status, READY)
    current = ready.get("observedGeneration") == resource.generation
    return current and ready.get("status") == "True"
