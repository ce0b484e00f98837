"""From a MomTopic or MomQueue and what stands in MOM to what is to be changed there.

Only what the resource names is managed: an absent setting keeps the value that it has, and a
subscription that is not listed is nobody's business here, since programs make their own. Nothing is
ever made smaller or thrown away to fit: that is a conflict, which a person resolves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a resource asks for, in the shown form of :mod:`mom_core.topics`."""

    name: str
    kind: TopicKind
    settings: Mapping[str, object]
    subscriptions: Mapping[str, Mapping[str, object]] = {}


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in MOM under that name."""

    config: TopicConfig | None = None
    subscriptions: Mapping[str, SubscriptionConfig] = {}


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


# Status.


def in_sync_status(resource: AnyTopic, standing: Standing, now: datetime) -> Status:
    """The status of a resource that stands in MOM as it asks for."""
    config = standing.config
    assert config is not None, "what is in sync stands"
    ready = Condition(READY, True, IN_SYNC, f"{config.partitions} partitions")
    status = {
        "observedGeneration": resource.generation,
        "name": config.name,
        "topicId": config.topic_id,
        "partitions": config.partitions,
        "conditions": conditions.shown([ready], resource.status, resource.generation, now),
    }
    if isinstance(resource, TopicResource) and resource.spec.subscriptions is not None:
        managed = {one.name for one in resource.spec.subscriptions}
        status["subscriptions"] = sorted(managed & standing.subscriptions.keys())
    return status


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
