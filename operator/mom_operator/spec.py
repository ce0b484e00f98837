"""What users ask for: MomCluster, MomTopic and MomQueue, read from the API server's objects.

The custom resource definitions say the same in OpenAPI with CEL rules, so an object that comes from
an API server was checked already. It is read with care all the same: an older definition may still
be installed, and a wrong object must never stop the others. Unknown fields are passed over, since a
newer definition may have more.

For a topic or queue, an absent field is **unmanaged**: the cluster chooses its default when it
makes the thing, and what others set later over REST stays. So these are None here, not a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, TypeVar

import msgspec

from mom_core.errors import InvalidArgumentError
from mom_core.quantities import parse_bytes, parse_duration_ms, parse_rate_per_s

GROUP: Final = "mom.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

CLUSTER_KIND: Final = "MomCluster"
TOPIC_KIND: Final = "MomTopic"
QUEUE_KIND: Final = "MomQueue"

PAUSE_ANNOTATION: Final = f"{GROUP}/pause"
"""``"true"`` stops reconciling of the object."""
RESTART_ANNOTATION: Final = f"{GROUP}/restart"
"""A new value rolls all processes of the cluster."""
FINALIZER: Final = f"{GROUP}/cleanup"
"""Set only where deletionPolicy is Delete."""
ALL_NAMESPACES: Final = "*"
"""In ``allowedNamespaces``: topics and queues may come from everywhere."""

Object = Mapping[str, Any]
"""A Kubernetes object, as JSON gives it."""


class SpecError(InvalidArgumentError):
    """A resource that can't be read; ``field`` is its path, such as ``spec.nodes.replicas``."""


class DeletionPolicy(StrEnum):
    """What happens to the data when the resource is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


class GatewayAuth(StrEnum):
    """Whether callers of the cluster need a token."""

    REQUIRED = "Required"
    DISABLED = "Disabled"


class ScaleDownPolicy(StrEnum):
    """What a smaller number of nodes means."""

    DRAIN = "Drain"
    """Move the partitions off, then remove the node."""
    REFUSE = "Refuse"
    """Keep the nodes, and say so."""


class BudgetPolicy(StrEnum):
    """Whether PodDisruptionBudgets are made."""

    AUTO = "Auto"
    DISABLED = "Disabled"


class RedisMode(StrEnum):
    """How managed Redis runs."""

    STANDALONE = "Standalone"


class _Camel(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A part of a spec: its fields are in camelCase on the wire."""


class SecretReference(_Camel, frozen=True, kw_only=True):
    """A key of a Secret in the cluster's own namespace."""

    name: str
    key: str = "url"


class PullSecret(_Camel, frozen=True, kw_only=True):
    """A Secret with which images are pulled."""

    name: str


class Image(_Camel, frozen=True, kw_only=True):
    """The image of MOM's processes."""

    repository: str = "mom"
    tag: str = ""
    """Empty: the cluster's version."""
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[PullSecret, ...] = ()


class Nodes(_Camel, frozen=True, kw_only=True):
    """The StatefulSet of MOM nodes."""

    replicas: int = 3
    resources: dict[str, Any] = {}
    rack_topology_key: str = "topology.kubernetes.io/zone"
    """Label of Kubernetes nodes that names a failure domain. Empty: none."""
    cache_bytes: str | int = "64Mi"
    pod_template: dict[str, Any] = {}


class Master(_Camel, frozen=True, kw_only=True):
    """The Deployment of masters, of which one leads."""

    replicas: int = 2
    resources: dict[str, Any] = {}
    pod_template: dict[str, Any] = {}


class Ingress(_Camel, frozen=True, kw_only=True):
    """How the gateway is reached from outside of Kubernetes."""

    class_name: str = ""
    """Empty: the default class of the Kubernetes cluster."""
    host: str = ""
    """Empty: every host that no other Ingress has."""
    tls_secret_name: str = ""
    """Empty: plain HTTP."""
    annotations: dict[str, str] = {}
    """Over those that MOM sets."""


class Gateway(_Camel, frozen=True, kw_only=True):
    """The Deployment, Service and Ingress of the gateway."""

    replicas: int = 2
    resources: dict[str, Any] = {}
    auth: GatewayAuth = GatewayAuth.REQUIRED
    body_bytes_max: str | int = "16Mi"
    """The largest JSON body; the Ingress is told the same."""
    ingress: Ingress | None = None
    """None: no Ingress."""
    pod_template: dict[str, Any] = {}


class Storage(_Camel, frozen=True, kw_only=True):
    """The volume of managed Redis."""

    size: str | int = "10Gi"
    class_name: str = ""
    """Empty: the default class of the Kubernetes cluster."""


class ManagedRedis(_Camel, frozen=True, kw_only=True):
    """A Redis that the operator runs."""

    mode: RedisMode = RedisMode.STANDALONE
    image: str = ""
    """Empty: what the operator was told, ``redis:8.0`` by default."""
    storage: Storage = Storage()
    resources: dict[str, Any] = {}
    pod_template: dict[str, Any] = {}


class ExternalRedis(_Camel, frozen=True, kw_only=True):
    """A Redis or Valkey that someone else runs."""

    url_secret_ref: SecretReference
    key_prefix: str = ""
    """Before all keys, so that clusters can share a Redis. Empty: namespace and name."""
    durability: str = "fsync"
    """The weakest level that is acceptable."""
    declared_durability: str = ""
    """What a service that forbids CONFIG is trusted to have. Empty: it is asked."""
    replicas_required: int = 0


class Redis(_Camel, frozen=True, kw_only=True):
    """The store: exactly one of both."""

    managed: ManagedRedis | None = None
    external: ExternalRedis | None = None


class Rollout(_Camel, frozen=True, kw_only=True):
    """How nodes are restarted."""

    max_unavailable: int = 1


class ScaleDown(_Camel, frozen=True, kw_only=True):
    """How nodes are removed."""

    policy: ScaleDownPolicy = ScaleDownPolicy.DRAIN
    timeout_seconds: int = 600


class Availability(_Camel, frozen=True, kw_only=True):
    """What drains of Kubernetes nodes may take away at once."""

    pod_disruption_budget: BudgetPolicy = BudgetPolicy.AUTO


class Switch(_Camel, frozen=True, kw_only=True):
    """Something that is on or off; absent counts as off."""

    enabled: bool = False


class ClusterSpec(_Camel, frozen=True, kw_only=True):
    """The spec of a MomCluster."""

    version: str
    redis: Redis
    image: Image = Image()
    nodes: Nodes = Nodes()
    master: Master = Master()
    gateway: Gateway = Gateway()
    rollout: Rollout = Rollout()
    scale_down: ScaleDown = ScaleDown()
    availability: Availability = Availability()
    network_policy: Switch = Switch(enabled=True)
    monitoring: Switch = Switch()
    log_level: str = "info"
    allowed_namespaces: tuple[str, ...] = ()
    """Besides the cluster's own."""
    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN


class ClusterReference(_Camel, frozen=True, kw_only=True):
    """Which MomCluster a topic or queue belongs to."""

    name: str
    namespace: str = ""
    """Empty: the resource's own. Another one must allow it in ``allowedNamespaces``."""


class Retention(_Camel, frozen=True, kw_only=True):
    """How long messages are kept."""

    time: str | None = None
    """``"0"``: no limit by time."""
    bytes: str | int | None = None
    """Of each partition."""


class DeliverySpec(_Camel, frozen=True, kw_only=True):
    """How messages of a queue, or of a queue-mode subscription, are delivered."""

    ack_timeout: str | None = None
    """The lease that a receive gets unless it asks for another."""
    ordering: str | None = None
    """Which comes next: ``priority``, ``fifo`` or ``fair``. Can't change."""
    dead_letter: str | None = None
    """Where messages go that can't be handled; empty: they come again for ever."""
    max_deliveries: int | None = None
    dead_letter_expired: bool | None = None
    retry_backoff: str | None = None
    retry_backoff_multiplier: float | None = None
    retry_backoff_max: str | None = None
    message_ttl: str | None = None
    paused: bool | None = None
    """Whether nothing is delivered for now."""
    rate: str | None = None
    """Messages handed out at the most, such as ``100/s``."""
    fair_by: str | None = None
    """With fair ordering, what has a turn: ``key`` or ``header:NAME``. Can't change."""

    def delivery_settings(self) -> dict[str, object]:
        """What is managed, in the shown form of :mod:`mom_core.topics`."""
        return _given(
            lease_ms=_milliseconds(self.ack_timeout, "ackTimeout"),
            ordering=self.ordering,
            dead_letter=self.dead_letter,
            max_deliveries=self.max_deliveries,
            dead_letter_expired=self.dead_letter_expired,
            retry_backoff_ms=_milliseconds(self.retry_backoff, "retryBackoff"),
            retry_backoff_multiplier=self.retry_backoff_multiplier,
            retry_backoff_max_ms=_milliseconds(self.retry_backoff_max, "retryBackoffMax"),
            message_ttl_ms=_milliseconds(self.message_ttl, "messageTtl"),
            paused=self.paused,
            rate_per_s=None if self.rate is None else parse_rate_per_s(self.rate, "rate"),
            fair_by=self.fair_by,
        )


class Subscription(DeliverySpec, frozen=True, kw_only=True):
    """A durable reader of a topic. What it inherits is of queue mode."""

    name: str
    mode: str = "stream"
    start: str | None = None
    session_timeout: str | None = None
    """Stream mode: how long a member may stay silent."""

    def settings(self) -> dict[str, object]:
        """What is managed, in the shown form of :mod:`mom_core.topics`."""
        return {"mode": self.mode} | _given(
            start=self.start,
            session_ms=_milliseconds(self.session_timeout, "sessionTimeout"),
            **self.delivery_settings(),
        )


class TopicSpec(_Camel, frozen=True, kw_only=True):
    """The spec of a MomTopic."""

    cluster_ref: ClusterReference
    name: str = ""
    """Empty: the resource's own name."""
    partitions: int | None = None
    retention: Retention = Retention()
    message_bytes_max: str | int | None = None
    retain_until_acked: bool | None = None
    """Whether a message goes when all subscriptions have handled it, and not before."""
    dedup_window: str | None = None
    subscriptions: tuple[Subscription, ...] | None = None
    """None: unmanaged."""
    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN

    def settings(self) -> dict[str, object]:
        """What is managed, in the shown form of :mod:`mom_core.topics`."""
        log = _log_settings(
            self.partitions, self.retention, self.message_bytes_max, self.dedup_window
        )
        return log | _given(retain_until_acked=self.retain_until_acked)


class QueueSpec(DeliverySpec, frozen=True, kw_only=True):
    """The spec of a MomQueue."""

    cluster_ref: ClusterReference
    name: str = ""
    """Empty: the resource's own name."""
    partitions: int | None = None
    retention: Retention = Retention()
    message_bytes_max: str | int | None = None
    messages_max: int | None = None
    """New messages are refused while it holds so many; 0: no bound."""
    dedup_window: str | None = None
    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN

    def settings(self) -> dict[str, object]:
        """What is managed, in the shown form of :mod:`mom_core.topics`."""
        log = _log_settings(
            self.partitions, self.retention, self.message_bytes_max, self.dedup_window
        )
        return log | _given(messages_max=self.messages_max) | self.delivery_settings()


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """What every resource of ours has besides its spec."""

    name: str
    namespace: str
    uid: str
    generation: int
    annotations: dict[str, str]
    labels: dict[str, str]
    finalizers: tuple[str, ...]
    resource_version: str
    creation_timestamp: str
    """RFC 3339."""
    deletion_timestamp: str | None
    """RFC 3339; None: it is not being deleted."""
    status: dict[str, Any]
    """As it stands, in camelCase."""

    @property
    def paused(self) -> bool:
        """Whether its user asked not to touch it."""
        return self.annotations.get(PAUSE_ANNOTATION, "").lower() == "true"

    @property
    def deleting(self) -> bool:
        """Whether it is going away."""
        return self.deletion_timestamp is not None


class Cluster(Resource, frozen=True, kw_only=True):
    """A MomCluster."""

    spec: ClusterSpec

    def allows(self, namespace: str) -> bool:
        """Whether topics and queues may come from this namespace."""
        allowed = self.spec.allowed_namespaces
        return namespace == self.namespace or namespace in allowed or ALL_NAMESPACES in allowed


class TopicResource(Resource, frozen=True, kw_only=True):
    """A MomTopic."""

    spec: TopicSpec

    @property
    def topic_name(self) -> str:
        """The topic's name in MOM."""
        return self.spec.name or self.name

    @property
    def cluster_key(self) -> tuple[str, str]:
        """Namespace and name of its cluster."""
        return _cluster_key(self.spec.cluster_ref, self.namespace)


class QueueResource(Resource, frozen=True, kw_only=True):
    """A MomQueue."""

    spec: QueueSpec

    @property
    def queue_name(self) -> str:
        """The queue's name in MOM."""
        return self.spec.name or self.name

    @property
    def cluster_key(self) -> tuple[str, str]:
        """Namespace and name of its cluster."""
        return _cluster_key(self.spec.cluster_ref, self.namespace)


def parse_cluster(obj: Object) -> Cluster:
    """Read a MomCluster of the API server. Raises SpecError that names the field."""
    spec = _spec(obj, ClusterSpec)
    if (spec.redis.managed is None) == (spec.redis.external is None):
        raise SpecError(
            "spec.redis: exactly one of managed and external must be there", field="spec.redis"
        )
    return Cluster(spec=spec, **_metadata(obj))


def parse_topic(obj: Object) -> TopicResource:
    """Read a MomTopic of the API server. Raises SpecError that names the field."""
    spec = _spec(obj, TopicSpec)
    _check("spec", spec.settings)
    for subscription in spec.subscriptions or ():
        _check(f"spec.subscriptions[{subscription.name}]", subscription.settings)
    return TopicResource(spec=spec, **_metadata(obj))


def parse_queue(obj: Object) -> QueueResource:
    """Read a MomQueue of the API server. Raises SpecError that names the field."""
    spec = _spec(obj, QueueSpec)
    _check("spec", spec.settings)
    return QueueResource(spec=spec, **_metadata(obj))


_Spec = TypeVar("_Spec", ClusterSpec, TopicSpec, QueueSpec)


def _spec(obj: Object, kind: type[_Spec]) -> _Spec:
    try:
        return msgspec.convert(obj.get("spec", {}), kind)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        field = "spec" + path.rstrip("`")
        raise SpecError(f"{field}: {problem}", field=field) from None


def _metadata(obj: Object) -> dict[str, Any]:
    """The fields of :class:`Resource`. What the API server always sets may be absent in tests."""
    metadata = obj.get("metadata", {})
    return {
        "name": metadata.get("name", ""),
        "namespace": metadata.get("namespace", ""),
        "uid": metadata.get("uid", ""),
        "generation": metadata.get("generation", 0),
        "annotations": dict(metadata.get("annotations") or {}),
        "labels": dict(metadata.get("labels") or {}),
        "finalizers": tuple(metadata.get("finalizers") or ()),
        "resource_version": metadata.get("resourceVersion", ""),
        "creation_timestamp": metadata.get("creationTimestamp", ""),
        "deletion_timestamp": metadata.get("deletionTimestamp"),
        "status": dict(obj.get("status") or {}),
    }


def _check(where: str, settings: Any) -> None:
    """Raise SpecError when a duration or size can't be read."""
    try:
        settings()
    except InvalidArgumentError as error:
        raise SpecError(f"{where}: {error.message}", field=f"{where}.{error.field}") from None


def _cluster_key(reference: ClusterReference, own_namespace: str) -> tuple[str, str]:
    return reference.namespace or own_namespace, reference.name


def _log_settings(
    partitions: int | None,
    retention: Retention,
    message_bytes_max: str | int | None,
    dedup_window: str | None,
) -> dict[str, object]:
    return _given(
        partitions=partitions,
        retention_ms=_milliseconds(retention.time, "retention.time"),
        retention_bytes=_bytes(retention.bytes, "retention.bytes"),
        message_bytes_max=_bytes(message_bytes_max, "messageBytesMax"),
        dedup_window_ms=_milliseconds(dedup_window, "dedupWindow"),
    )


def _given(**settings: object) -> dict[str, object]:
    return {name: value for name, value in settings.items() if value is not None}


def _milliseconds(value: str | None, field: str) -> int | None:
    return None if value is None else parse_duration_ms(value, field)


def _bytes(value: str | int | None, field: str) -> int | None:
    return None if value is None else parse_bytes(value, field)
