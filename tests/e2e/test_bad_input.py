"""What can't be: refused at admission in plain words, or told by a condition until it is mended."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from e2e import manifests
from e2e.kubernetes import Namespace, Object
from e2e.mom_cluster import MomCluster
from e2e.waiting import wait_until

pytestmark = pytest.mark.timeout(400)
WITHOUT_AOF = ("--appendonly", "no", "--save", "")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"redis": {"external": {"urlSecretRef": {"name": "x"}}}}, "exactly one of redis.managed"),
        ({"nodes": {"replicas": 0}}, "spec.nodes.replicas"),
        ({"scaleDown": {"policy": "Perhaps"}}, 'supported values: "Drain", "Refuse"'),
        ({"nodes": {"replica": 3}}, 'unknown field "spec.nodes.replica"'),
    ],
)
def test_a_bad_cluster_is_refused(mom: MomCluster, spec: Object, words: str) -> None:
    assert words in _refusal(mom.namespace, mom.manifest(spec))


def test_a_bad_change_is_refused(mom: MomCluster) -> None:
    mom.annotate_new("mom.dev/pause=true")
    smaller = mom.manifest({"redis": {"managed": {"storage": {"size": "64Mi"}}}})
    assert "a volume can't become smaller" in _refusal(mom.namespace, smaller)
    topic: Object = {
        "apiVersion": "mom.dev/v1alpha1",
        "kind": "MomTopic",
        "metadata": {"name": "orders"},
        "spec": {"clusterRef": {"name": mom.name}, "partitions": 4},
    }
    mom.namespace.apply(topic)
    fewer: Any = copy.deepcopy(topic)
    fewer["spec"]["partitions"] = 2
    assert "partitions can't become fewer" in _refusal(mom.namespace, fewer)


def _refusal(namespace: Namespace, manifest: Object) -> str:
    return namespace.refusal("apply", "-f", "-", stdin=json.dumps(manifest))


def _url_secret(url: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "my-redis"},
        "stringData": {"url": url},
    }


def test_an_external_redis_is_missing_then_away_then_careless_then_right(mom: MomCluster) -> None:
    namespace = mom.namespace
    manifest = mom.manifest()
    manifest["spec"]["redis"] = {"external": {"urlSecretRef": {"name": "my-redis", "key": "url"}}}
    mom.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    found = mom.wait_says("Degraded", "SecretMissing")
    assert "Secret 'my-redis' with key 'url'" in found["message"]
    assert mom.condition("Ready")["message"] == found["message"]

    namespace.apply(_url_secret("redis://redis:6379"))
    mom.wait_says("Ready", "redis:6379", seconds=90)
    assert mom.condition("Ready")["status"] == "False"

    workload, service = manifests.redis()
    workload["spec"]["template"]["spec"]["containers"][0]["args"] = list(WITHOUT_AOF)
    namespace.apply(workload, service)
    namespace.wait_rolled_out("statefulset/redis")
    mom.wait_says("Ready", "appendonly", seconds=90)

    for setting in ("appendonly yes", "appendfsync always", "maxmemory-policy noeviction"):
        mom.kubectl("exec", "redis-0", "--", "redis-cli", "config", "set", *setting.split())
    mom.wait_ready()
    assert mom.condition("Degraded")["status"] == "False"
    with mom.http() as client:
        made = client.put("/v1/topics/t", json={"partitions": 1, "retention_bytes": 1 << 20})
        assert made.status_code == 201, made.text


def test_impossible_resources_are_told_and_mended(shared_mom: MomCluster) -> None:
    mom = shared_mom
    before = mom.uids("node")
    mom.patch({"nodes": {"resources": {"requests": {"cpu": "1000"}}}})
    mom.wait_says("Degraded", "Insufficient cpu")
    assert mom.condition("Available")["status"] == "True"
    assert len(before & mom.uids("node")) == 1, "it stops at the first node"
    mom.patch({"nodes": {"resources": {"requests": {"cpu": "20m"}}}})
    mom.wait_ready()
    wait_until("nothing is degraded", lambda: mom.condition("Degraded")["status"] == "False")
