"""Reading of MomCluster, MomTopic and MomQueue."""

from __future__ import annotations

from typing import Any

import pytest
from operator_objects import cluster_object, make_cluster

from mom_core.topics import TopicKind, new_topic
from mom_operator.names import Names
from mom_operator.spec import SpecError, parse_cluster, parse_queue, parse_topic


def _topic(spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "orders", "namespace": "shop", **metadata},
        "spec": {"clusterRef": {"name": "my-mom"}, **spec},
    }


def test_unknown_fields_are_passed_over() -> None:
    """A newer definition may be installed than the operator knows."""
    spec = {"version": "9.9.9", "redis": {"managed": {"shards": 3}}, "future": {"a": 1}}
    assert parse_cluster(cluster_object(spec)).spec.version == "9.9.9"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"version": 1}, "spec.version"),
        ({"redis": {}}, "spec.redis"),
        ({"redis": {"managed": {}, "external": {"urlSecretRef": {"name": "r"}}}}, "spec.redis"),
        ({"redis": {"external": {}}}, "spec.redis.external"),
        ({"nodes": {"replicas": "three"}}, "spec.nodes.replicas"),
        ({"gateway": {"auth": "Maybe"}}, "spec.gateway.auth"),
        ({"image": {"pullSecrets": [{"name": "a"}, {}]}}, "spec.image.pullSecrets[1]"),
    ],
)
def test_a_wrong_cluster_names_its_field(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_cluster(cluster_object(spec))
    assert caught.value.field == field
    assert field in caught.value.message


def test_absent_settings_are_unmanaged() -> None:
    assert parse_topic(_topic({})).spec.settings() == {}
    assert parse_topic(_topic({})).spec.subscriptions is None
    assert parse_queue(_topic({})).spec.settings() == {}


def test_settings_are_those_of_rest() -> None:
    topic = parse_topic(
        _topic(
            {
                "partitions": 3,
                "retention": {"time": "168h", "bytes": "10Gi"},
                "messageBytesMax": 2048,
                "dedupWindow": "1h",
                "subscriptions": [
                    {"name": "billing", "start": "latest", "sessionTimeout": "15s"},
                    {"name": "mail", "mode": "queue", "ackTimeout": "1m30s"},
                ],
                "retainUntilAcked": True,
            }
        )
    )
    assert topic.spec.settings() == {
        "partitions": 3,
        "retention_ms": 7 * 24 * 3_600_000,
        "retention_bytes": 10 << 30,
        "message_bytes_max": 2048,
        "retain_until_acked": True,
        "dedup_window_ms": 3_600_000,
    }
    billing, mail = topic.spec.subscriptions or ()
    assert billing.settings() == {"mode": "stream", "start": "latest", "session_ms": 15_000}
    assert mail.settings() == {"mode": "queue", "lease_ms": 90_000}
    unlimited = parse_queue(_topic({"retention": {"time": "0"}, "ackTimeout": "30s"}))
    assert unlimited.spec.settings() == {"retention_ms": 0, "lease_ms": 30_000}


def test_how_a_queue_delivers() -> None:
    queue = parse_queue(
        _topic(
            {
                "ordering": "fair",
                "fairBy": "header:tenant",
                "rate": "6000/m",
                "deadLetter": "mail.dlq",
                "maxDeliveries": 7,
                "deadLetterExpired": True,
                "retryBackoff": "1s",
                "retryBackoffMultiplier": 2,
                "retryBackoffMax": "10m",
                "messageTtl": "2h",
                "messagesMax": 1_000,
                "paused": True,
            }
        )
    )
    settings = queue.spec.settings()
    assert settings == {
        "ordering": "fair",
        "fair_by": "header:tenant",
        "rate_per_s": 100.0,
        "dead_letter": "mail.dlq",
        "max_deliveries": 7,
        "dead_letter_expired": True,
        "retry_backoff_ms": 1_000,
        "retry_backoff_multiplier": 2,
        "retry_backoff_max_ms": 600_000,
        "message_ttl_ms": 7_200_000,
        "messages_max": 1_000,
        "paused": True,
    }
    # They are the settings that MOM takes.
    made = new_topic("q", TopicKind.QUEUE, settings, topic_id="0" * 32, created_at_ms=0)
    assert made.queue is not None
    assert made.queue.policy.max_deliveries == 7


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"retention": {"time": "7 days"}}, "spec.retention.time"),
        ({"messageBytesMax": "big"}, "spec.messageBytesMax"),
        ({"subscriptions": [{"name": "a", "ackTimeout": "?"}]}, "spec.subscriptions[a].ackTimeout"),
        ({"clusterRef": {}}, "spec.clusterRef"),
    ],
)
def test_a_wrong_topic_names_its_field(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_topic(_topic(spec))
    assert caught.value.field == field


def test_names_and_clusters_of_topics() -> None:
    own = parse_topic(_topic({}))
    assert (own.topic_name, own.cluster_key) == ("orders", ("shop", "my-mom"))
    elsewhere = {"clusterRef": {"name": "big", "namespace": "infra"}, "name": "Orders.v2"}
    other = parse_queue(_topic(elsewhere))
    assert (other.queue_name, other.cluster_key) == ("Orders.v2", ("infra", "big"))


def test_a_cluster_allows_its_own_namespace_and_those_it_names() -> None:
    cluster = make_cluster({"allowedNamespaces": ["web"]})
    assert [cluster.allows(one) for one in ("shop", "web", "other")] == [True, True, False]
    assert make_cluster({"allowedNamespaces": ["*"]}).allows("other")


def test_metadata() -> None:
    cluster = make_cluster(
        annotations={"mom.dev/pause": "true"}, deletionTimestamp="2026-01-31T00:00:00Z"
    )
    assert cluster.paused
    assert cluster.deleting
    assert not make_cluster().paused
    assert not make_cluster().deleting


def test_ordinals_of_nodes() -> None:
    names = Names("my-mom", "shop")
    assert names.node_ordinal("my-mom-node-12") == 12
    assert names.node_ordinal(names.node_pod(0)) == 0
    assert names.node_ordinal("my-mom-gateway-7d9f-x2x") is None
    assert names.node_ordinal("other-node-1") is None
    assert names.node_address("my-mom-node-1") == (
        "my-mom-node-1.my-mom-node.shop.svc.cluster.local:7071"
    )


def test_names_stay_within_the_limits_of_kubernetes() -> None:
    """The definition allows clusters 40 characters: no name or label value then exceeds 63, also
    with what a StatefulSet (11) or Deployment (17) adds for its revisions and pods."""
    names = Names("m" * 40, "n" * 63)
    for name in (names.master, names.gateway, names.admin_token, names.cluster_token):
        assert len(name) <= 63
    assert max(len(names.redis), len(names.node)) + 11 <= 63
