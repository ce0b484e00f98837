"""The custom resource definitions, the examples and the operator's manifests on a real API server:
what it accepts, what it refuses and with which words.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from contradictions import OF_DELIVERY, OF_QUEUES, Contradiction, in_resource

import kube_api_server
from kube_api_server import KubeApiServer, path_of
from mom_core.topics import QueueSettings
from mom_operator.resources import Inputs, OperatorSettings, desired
from mom_operator.spec import parse_cluster, parse_queue, parse_topic

ROOT = Path(__file__).resolve().parents[2]
DEFINITIONS = sorted((ROOT / "deploy/helm/mom/crds").glob("*.yaml"))
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))

CLUSTER: dict[str, Any] = {
    "apiVersion": "mom.dev/v1alpha1",
    "kind": "MomCluster",
    "metadata": {"name": "one", "namespace": "default"},
    "spec": {"version": "0.1.0", "redis": {"managed": {}}},
}
TOPIC: dict[str, Any] = {
    "apiVersion": "mom.dev/v1alpha1",
    "kind": "MomTopic",
    "metadata": {"name": "orders", "namespace": "default"},
    "spec": {
        "clusterRef": {"name": "one"},
        "partitions": 4,
        "subscriptions": [{"name": "billing", "start": "latest"}],
    },
}
QUEUE: dict[str, Any] = {
    "apiVersion": "mom.dev/v1alpha1",
    "kind": "MomQueue",
    "metadata": {"name": "jobs", "namespace": "default"},
    "spec": {"clusterRef": {"name": "one"}, "partitions": 4},
}


@pytest.fixture(
    scope="module",
    params=[kube_api_server.API_SERVER, kube_api_server.OLDEST_API_SERVER],
    ids=["newest", "oldest"],
)
def api(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KubeApiServer]:
    """An API server with our definitions, of the newest Kubernetes and of the oldest one."""
    if not kube_api_server.is_installed(request.param):
        pytest.skip(f"no etcd and {request.param}: `make e2e` builds them")
    server = KubeApiServer(tmp_path_factory.mktemp("kubernetes"), request.param)
    try:
        server.start()
        for file in DEFINITIONS:
            server.establish(yaml.safe_load(file.read_text()))
        yield server
    finally:
        server.stop()


def _changed(base: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """``base`` with another value at a dotted path; None removes."""
    result = copy.deepcopy(base)
    *parents, last = path.split(".")
    at = result
    for part in parents:
        at = at[int(part)] if part.isdigit() else at.setdefault(part, {})
    if value is None:
        del at[last]
    else:
        at[last] = value
    return result


def _refusal(response: httpx.Response) -> str:
    """The words with which the API server refused a manifest."""
    assert response.status_code == 422, response.text
    message: str = response.json()["message"]
    return message


def _accept(api: KubeApiServer, manifest: dict[str, Any]) -> dict[str, Any]:
    response = api.apply(manifest)
    assert response.status_code in (200, 201), response.text
    accepted: dict[str, Any] = response.json()
    return accepted


def test_a_second_apply_of_the_definitions_changes_nothing(api: KubeApiServer) -> None:
    for file in DEFINITIONS:
        definition = yaml.safe_load(file.read_text())
        before = api.client.get(path_of(definition)).json()["metadata"]["resourceVersion"]
        assert _accept(api, definition)["metadata"]["resourceVersion"] == before


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_examples_are_accepted_as_they_stand(api: KubeApiServer, file: Path) -> None:
    manifest = yaml.safe_load(file.read_text())
    manifest["metadata"]["namespace"] = "default"
    response = api.apply(manifest, dryRun="All", fieldValidation="Strict")
    assert response.status_code in (200, 201), response.text
    readers = {"MomCluster": parse_cluster, "MomTopic": parse_topic, "MomQueue": parse_queue}
    readers[manifest["kind"]](response.json())


def test_defaults_of_the_definition_are_those_of_the_operator(api: KubeApiServer) -> None:
    for manifest in (
        CLUSTER,
        _changed(CLUSTER, "spec.gateway", {"ingress": {}}),
        _changed(CLUSTER, "spec.redis", {"external": {"urlSecretRef": {"name": "redis"}}}),
    ):
        served = api.apply(manifest, dryRun="All").json()
        assert parse_cluster(served).spec == parse_cluster(manifest).spec
    for manifest in (TOPIC, QUEUE):
        served = api.apply(manifest, dryRun="All").json()
        parse = parse_topic if manifest is TOPIC else parse_queue
        assert parse(served).spec == parse(manifest).spec


REFUSED_AT_CREATION = [
    (CLUSTER, "metadata.name", "a" * 41, "may have 40 characters at most"),
    (CLUSTER, "metadata.name", "1mom", "must begin with a letter"),
    (CLUSTER, "metadata.name", "my.mom", "must begin with a letter and have only"),
    (CLUSTER, "spec.version", None, "spec.version: Required value"),
    (CLUSTER, "spec.version", "latest", "spec.version"),
    (CLUSTER, "spec.redis", {}, "exactly one of redis.managed and redis.external must be there"),
    (
        CLUSTER,
        "spec.redis.external",
        {"urlSecretRef": {"name": "redis"}},
        "exactly one of redis.managed and redis.external must be there",
    ),
    (CLUSTER, "spec.redis.managed.mode", "Cluster", 'supported values: "Standalone"'),
    (CLUSTER, "spec.redis.managed.storage", {"size": "1Ki"}, "must be from 64Mi to 1Pi"),
    (CLUSTER, "spec.redis.managed.storage", {"size": "much"}, "storage.size"),
    (
        CLUSTER,
        "spec.redis.managed.resources",
        {"limits": {"memory": "64Mi"}},
        "Redis needs a memory limit of at least 128Mi",
    ),
    (
        CLUSTER,
        "spec.nodes.resources",
        {"limits": {"memory": "1Gi"}, "requests": {"memory": "2Gi"}},
        "requests must not be above limits",
    ),
    (CLUSTER, "spec.nodes.replicas", 0, "should be greater than or equal to 1"),
    (CLUSTER, "spec.nodes.replicas", 201, "should be less than or equal to 200"),
    (CLUSTER, "spec.master.replicas", 6, "should be less than or equal to 5"),
    (CLUSTER, "spec.gateway.auth", "Maybe", 'supported values: "Required", "Disabled"'),
    (CLUSTER, "spec.gateway.bodyBytesMax", "1Gi", "must be from 1Ki to 256Mi"),
    (CLUSTER, "spec.gateway.ingress", {"host": "Not A Host"}, "spec.gateway.ingress.host"),
    (CLUSTER, "spec.rollout.maxUnavailable", 0, "should be greater than or equal to 1"),
    (CLUSTER, "spec.deletionPolicy", "Recycle", 'supported values: "Retain", "Delete"'),
    (CLUSTER, "spec.allowedNamespaces", ["Shop"], "spec.allowedNamespaces[0]"),
    (TOPIC, "spec.clusterRef", None, "spec.clusterRef: Required value"),
    (TOPIC, "spec.partitions", 0, "should be greater than or equal to 1"),
    (TOPIC, "spec.partitions", 1025, "should be less than or equal to 1024"),
    (TOPIC, "spec.name", "-orders", "spec.name"),
    (TOPIC, "metadata.name", "a" * 250, "may have 249 characters at most: set spec.name"),
    (TOPIC, "spec.retention.time", "7 days", "spec.retention.time"),
    (TOPIC, "spec.retention.time", "10ms", 'must be from 1s to 878400h, or "0"'),
    (TOPIC, "spec.retention.bytes", "1Ki", "must be from 1Mi to 1Pi"),
    (TOPIC, "spec.messageBytesMax", 9_000_000, "must be from 1Ki to 8Mi"),
    (TOPIC, "spec.dedupWindow", "25h", 'must be from 1s to 24h, or "0" for none'),
    (QUEUE, "spec.dedupWindow", "10ms", 'must be from 1s to 24h, or "0" for none'),
    (TOPIC, "spec.subscriptions.0.start", "yesterday", "spec.subscriptions[0].start"),
    (TOPIC, "spec.subscriptions.0.ackTimeout", "30s", "ackTimeout is a setting of queue mode"),
    (TOPIC, "spec.subscriptions.0.sessionTimeout", "6m", "must be from 1s to 5m"),
    (
        TOPIC,
        "spec.subscriptions",
        [{"name": "mail", "mode": "queue", "sessionTimeout": "10s"}],
        "sessionTimeout is a setting of stream mode",
    ),
    (TOPIC, "spec.subscriptions", [{"name": "a"}, {"name": "a"}], "Duplicate value"),
    (QUEUE, "spec.ackTimeout", "13h", "must be from 1s to 12h"),
    (QUEUE, "spec.ackTimeout", "0", "spec.ackTimeout"),
    (QUEUE, "spec.ordering", "random", "spec.ordering"),
    (QUEUE, "spec.maxDeliveries", 0, "spec.maxDeliveries"),
    (QUEUE, "spec.retryBackoff", "25h", "must be from 1ms to 24h"),
    (QUEUE, "spec.retryBackoffMultiplier", 0.5, "spec.retryBackoffMultiplier"),
    (QUEUE, "spec.messageTtl", "1ms", "must be from 100ms"),
    (QUEUE, "spec.messagesMax", -1, "spec.messagesMax"),
    (QUEUE, "spec.paused", "yes", "spec.paused"),
    (TOPIC, "spec.subscriptions.0.paused", True, "settings of queue mode"),
    (QUEUE, "spec.deadLetter", "not a name", "spec.deadLetter"),
    (QUEUE, "spec.rate", "fast", "spec.rate"),
    (QUEUE, "spec.rate", "100/d", "spec.rate"),
    (QUEUE, "spec.rate", "2000000/s", "spec.rate"),
    (QUEUE, "spec.fairBy", "tenant", "spec.fairBy"),
    (QUEUE, "spec.fairBy", "header:tenant", "needs ordering fair"),
    (TOPIC, "spec.subscriptions.0.rate", "1/s", "are settings of queue mode"),
    (QUEUE, "spec.deadLetterExpired", True, "deadLetterExpired needs a deadLetter"),
    (TOPIC, "spec.subscriptions.0.deadLetter", "x", "settings of queue mode"),
]


@pytest.mark.parametrize(
    ("base", "path", "value", "words"),
    REFUSED_AT_CREATION,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused_at_creation(
    api: KubeApiServer, base: dict[str, Any], path: str, value: object, words: str
) -> None:
    assert words in _refusal(api.create(_changed(base, path, value), dryRun="All"))


@pytest.mark.parametrize("one", OF_QUEUES, ids=lambda one: one.name)
def test_a_queue_that_contradicts_itself_is_refused(api: KubeApiServer, one: Contradiction) -> None:
    bad = copy.deepcopy(QUEUE)
    bad["spec"] |= in_resource(one.settings, "jobs")
    assert one.words in _refusal(api.create(bad, dryRun="All"))


@pytest.mark.parametrize("one", OF_DELIVERY, ids=lambda one: one.name)
def test_a_subscription_that_contradicts_itself_is_refused(
    api: KubeApiServer, one: Contradiction
) -> None:
    mail = {"name": "mail", "mode": "queue"} | in_resource(one.settings, "orders")
    bad = _changed(TOPIC, "spec.subscriptions", [mail])
    assert one.words in _refusal(api.create(bad, dryRun="All"))


def test_a_topic_has_one_header_to_be_fair_by(api: KubeApiServer) -> None:
    def topic(*fair_by: str) -> dict[str, Any]:
        subscriptions = [
            {"name": f"s{number}", "mode": "queue", "ordering": "fair", "fairBy": one}
            for number, one in enumerate(fair_by)
        ]
        return _changed(TOPIC, "spec.subscriptions", [{"name": "billing"}, *subscriptions])

    agreed = topic("header:tenant", "key", "header:tenant")
    assert api.create(agreed, dryRun="All").status_code == 201
    refused = api.create(topic("header:tenant", "key", "header:customer"), dryRun="All")
    assert "by one header only" in _refusal(refused)
    # As many as there may be, and as long: the rule stays within what it may cost.
    most = api.create(topic(*["header:" + "x" * 256] * 255), dryRun="All")
    assert most.status_code == 201, most.text


def test_every_setting_of_delivery_is_accepted(api: KubeApiServer) -> None:
    """What the operator reads of them is what was asked for."""
    delivery = {
        "ackTimeout": "45s",
        "ordering": "fair",
        "fairBy": "header:tenant",
        "deadLetter": "jobs.dlq",
        "maxDeliveries": 3,
        "deadLetterExpired": True,
        "retryBackoff": "1s",
        "retryBackoffMultiplier": 2,
        "retryBackoffMax": "10m",
        "messageTtl": "24h",
        "paused": True,
        "rate": "6000000/m",
    }
    read = {
        "lease_ms": 45_000,
        "ordering": "fair",
        "fair_by": "header:tenant",
        "dead_letter": "jobs.dlq",
        "max_deliveries": 3,
        "dead_letter_expired": True,
        "retry_backoff_ms": 1_000,
        "retry_backoff_multiplier": 2.0,
        "retry_backoff_max_ms": 600_000,
        "message_ttl_ms": 86_400_000,
        "paused": True,
        "rate_per_s": 100_000.0,
    }
    assert set(read) == set(QueueSettings.__struct_fields__)
    queue = copy.deepcopy(QUEUE)
    queue["spec"] |= delivery | {"messagesMax": 1_000, "dedupWindow": "1h"}
    served = api.create(queue, dryRun="All", fieldValidation="Strict")
    assert served.status_code == 201, served.text
    wanted = read | {"partitions": 4, "messages_max": 1_000, "dedup_window_ms": 3_600_000}
    assert parse_queue(served.json()).spec.settings() == wanted
    topic = _changed(TOPIC, "spec.subscriptions", [{"name": "mail", "mode": "queue"} | delivery])
    served = api.create(topic, dryRun="All", fieldValidation="Strict")
    assert served.status_code == 201, served.text
    (mail,) = parse_topic(served.json()).spec.subscriptions or ()
    assert mail.settings() == read | {"mode": "queue"}


REFUSED_AS_A_CHANGE = [
    (
        CLUSTER,
        "spec.redis",
        {"external": {"urlSecretRef": {"name": "redis"}}},
        "redis can't change between managed and external",
    ),
    (CLUSTER, "spec.redis.managed.storage", {"size": "9Gi"}, "a volume can't become smaller"),
    (
        CLUSTER,
        "spec.redis.managed.storage",
        {"className": "fast"},
        "the storage class can't change",
    ),
    (TOPIC, "spec.partitions", 3, "partitions can't become fewer"),
    (TOPIC, "spec.clusterRef.name", "two", "clusterRef can't change"),
    (TOPIC, "spec.clusterRef.namespace", "other", "clusterRef can't change"),
    (TOPIC, "spec.name", "other", "the name of a topic can't change"),
    (TOPIC, "spec.subscriptions.0.mode", "queue", "mode can't change"),
    (TOPIC, "spec.subscriptions.0.start", "earliest", "start can't change"),
    (QUEUE, "spec.partitions", 3, "partitions can't become fewer"),
    (QUEUE, "spec.clusterRef.name", "two", "clusterRef can't change"),
    (QUEUE, "spec.name", "other", "the name of a queue can't change"),
]


@pytest.mark.parametrize(
    ("base", "path", "value", "words"),
    REFUSED_AS_A_CHANGE,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused_as_a_change(
    api: KubeApiServer, base: dict[str, Any], path: str, value: object, words: str
) -> None:
    _accept(api, base)
    assert words in _refusal(api.apply(_changed(base, path, value), dryRun="All"))


ALLOWED_CHANGES = [
    (CLUSTER, "spec.redis.managed.storage", {"size": "20Gi"}),
    (CLUSTER, "spec.redis.managed.image", "valkey/valkey:8.1"),
    (CLUSTER, "spec.version", "0.2.0-rc.1"),
    (CLUSTER, "spec.allowedNamespaces", ["*", "shop"]),
    (CLUSTER, "spec.nodes.podTemplate", {"spec": {"nodeSelector": {"disk": "ssd"}}}),
    (TOPIC, "spec.partitions", 5),
    (TOPIC, "spec.partitions", None),
    (TOPIC, "spec.name", "orders"),
    (TOPIC, "spec.retention", {"time": "0", "bytes": 10_000_000}),
    (TOPIC, "spec.subscriptions", []),
    (QUEUE, "spec.ackTimeout", "1h30m"),
    (QUEUE, "spec.rate", "6000/m"),
    (QUEUE, "spec.rate", "0"),
    (QUEUE, "spec.fairBy", "key"),
    (QUEUE, "spec.rate", "1/h"),
    (QUEUE, "spec.retryBackoff", "0"),
    (QUEUE, "spec.retryBackoffMax", "0"),
    (QUEUE, "spec.messageTtl", "0"),
    (TOPIC, "spec.retainUntilAcked", True),
]


@pytest.mark.parametrize(
    ("base", "path", "value"),
    ALLOWED_CHANGES,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_allowed_changes(
    api: KubeApiServer, base: dict[str, Any], path: str, value: object
) -> None:
    _accept(api, base)
    response = api.apply(_changed(base, path, value), dryRun="All", fieldValidation="Strict")
    assert response.status_code == 200, response.text


def test_what_has_turns_can_not_change(api: KubeApiServer) -> None:
    fair = _changed(_changed(QUEUE, "spec.ordering", "fair"), "spec.fairBy", "header:tenant")
    _accept(api, _changed(fair, "metadata.name", "fair"))
    changed = _changed(_changed(fair, "metadata.name", "fair"), "spec.fairBy", "key")
    assert "fairBy can't change" in _refusal(api.apply(changed, dryRun="All"))


def test_scaling_goes_through_its_subresource(api: KubeApiServer) -> None:
    _accept(api, CLUSTER)
    scale = f"{path_of(CLUSTER)}/scale"
    patch = {"spec": {"replicas": 5}}
    merge = {"content-type": "application/merge-patch+json"}
    scaled = api.client.patch(scale, json=patch, headers=merge)
    assert scaled.status_code == 200, scaled.text
    assert api.client.get(path_of(CLUSTER)).json()["spec"]["nodes"]["replicas"] == 5
    # Applied again without a word about nodes, as after an autoscaler's work.
    assert _accept(api, CLUSTER)["spec"]["nodes"]["replicas"] == 5
    status = {"status": {"replicas": 5, "selector": "app.kubernetes.io/component=node"}}
    api.client.patch(f"{path_of(CLUSTER)}/status", json=status, headers=merge)
    assert api.client.get(scale).json()["status"] == {
        "replicas": 5,
        "selector": "app.kubernetes.io/component=node",
    }


@pytest.mark.parametrize("store", ["managed", "external"])
def test_applying_all_children_twice_changes_nothing(api: KubeApiServer, store: str) -> None:
    """Each manifest is valid, and what the API server makes of it is what was asked for."""
    external = {"external": {"urlSecretRef": {"name": "redis"}}}
    manifest = _changed(CLUSTER, "metadata.name", store)
    manifest["spec"] = {
        "version": "0.1.0",
        "redis": {"managed": {}} if store == "managed" else external,
        "gateway": {"ingress": {"host": "mom.example.com", "tlsSecretName": "tls"}},
        "nodes": {"resources": {"limits": {"memory": "1024Mi", "cpu": "0.5"}}},
    }
    cluster = parse_cluster(_accept(api, manifest))
    secrets = {
        f"{store}-redis-auth": {"password": b"password"},
        f"{store}-cluster-token": {"token": b"token"},
        f"{store}-admin-token": {"token": b"token"},
    }
    children = desired(cluster, Inputs(settings=OperatorSettings(), secrets=secrets))
    first, second = (
        [_applied(api, child.manifest)["metadata"]["resourceVersion"] for child in children]
        for _ in range(2)
    )
    assert first == second


def _applied(api: KubeApiServer, manifest: dict[str, Any]) -> dict[str, Any]:
    response = api.apply(manifest, fieldValidation="Strict")
    assert response.status_code in (200, 201), f"{manifest['kind']}: {response.text}"
    assert "warning" not in response.headers, response.headers["warning"]
    applied: dict[str, Any] = response.json()
    return applied
