"""From a bare Kubernetes to messages: what the README tells a user to do, with the examples."""

from __future__ import annotations

import json
import time

import pytest
import yaml

from e2e.kubernetes import ROOT, Object
from e2e.mom_cluster import MomCluster
from e2e.release import Release, image_parts
from e2e.report import Report
from e2e.waiting import wait_until

pytestmark = pytest.mark.timeout(400)
EXAMPLES = ROOT / "examples"
CHILDREN = (
    "deployments,statefulsets,services,ingresses,configmaps,secrets,serviceaccounts,pods,"
    "persistentvolumeclaims,poddisruptionbudgets,networkpolicies"
)
# Turns of the operator that a test waits for: one may have begun before.
TURNS = 4
QUIET_TRIES = 3


def _topic_ready(mom: MomCluster, kind: str, name: str) -> Object:
    found = mom.namespace.cluster.get(kind, name, "-n", mom.namespace.name)
    conditions = found.get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == "Ready"), {})


def _example_manifest(mom: MomCluster) -> Object:
    """The example with what a test has to choose itself: image, host and class of the ingress."""
    example: Object = yaml.safe_load((EXAMPLES / "momcluster.yaml").read_text())
    repository, tag = image_parts(mom.namespace.cluster.image)
    example["spec"]["image"] = {"repository": repository, "tag": tag}
    ingress = example["spec"]["gateway"]["ingress"]
    ingress["host"] = mom.host
    if mom.namespace.cluster.ingress_class:
        ingress["className"] = mom.namespace.cluster.ingress_class
    return example


@pytest.fixture(scope="module")
def example(module_mom: MomCluster, report: Report) -> MomCluster:
    """The example cluster; its topic and queue were applied before it."""
    mom = module_mom
    for name in ("topic.yaml", "queue.yaml"):
        mom.kubectl("apply", "-f", str(EXAMPLES / name))
    for kind, name in (("momtopic", "orders"), ("momqueue", "jobs")):
        wait_until(
            f"{name} waits for its cluster with a reason",
            lambda kind=kind, name=name: (
                _topic_ready(mom, kind, name).get("reason") == "ClusterNotFound"
            ),
        )
    began = time.monotonic()
    mom.kubectl("apply", "-f", "-", stdin=json.dumps(_example_manifest(mom)))
    mom.wait_ready()
    report.figure("apply to Ready, 3 nodes", time.monotonic() - began, "s", "≤ 20 s")
    return mom


def test_a_topic_from_before_its_cluster_works_when_the_cluster_comes(example: MomCluster) -> None:
    for kind, name in (("momtopic", "orders"), ("momqueue", "jobs")):
        wait_until(
            f"{name} is Ready",
            lambda kind=kind, name=name: _topic_ready(example, kind, name).get("status") == "True",
        )
    with example.http() as client:
        sent = client.post("/v1/topics/orders/records", json={"value": "one", "key": "a"})
        assert sent.status_code == 200, sent.text
        (result,) = sent.json()["results"]
        assert result["durability"] == "fsync"
        read = client.get(f"/v1/topics/orders/partitions/{result['partition']}/records")
        assert [one["value"] for one in read.json()["records"]] == ["one"]
        described = client.get("/v1/topics/orders").json()
        assert described["partitions"] == 6
        client.post("/v1/queues/jobs/messages", json={"value": "work"}).raise_for_status()
        wish = {"max": 1, "wait_ms": 5000, "lease_ms": 30000}
        received = client.post("/v1/queues/jobs/messages:receive", json=wish).json()
        (message,) = received["messages"]
        assert message["value"] == "work"
        settled = client.post(
            "/v1/queues/jobs/messages:ack", json={"receipts": [message["receipt"]]}
        ).json()
        assert [one["status"] for one in settled["results"]] == ["ok"]


def test_kubectl_get_tells_how_the_cluster_is(example: MomCluster) -> None:
    head, row = example.kubectl("get", "momcluster").splitlines()
    assert head.split() == ["NAME", "NODES", "VERSION", "ENDPOINT", "READY", "AGE"]
    name, nodes, version, endpoint, ready, _ = row.split()
    assert (name, nodes, version, ready) == ("my-mom", "3/3", "0.1.0", "True")
    assert endpoint == f"http://{example.host}"
    listed = example.kubectl("get", "mom", "-o", "name").split()
    assert sorted(listed) == [
        "momcluster.mom.dev/my-mom",
        "momqueue.mom.dev/jobs",
        "momtopic.mom.dev/orders",
    ]


def test_nothing_is_served_without_a_token(example: MomCluster) -> None:
    with example.http(token="") as client:
        answer = client.get("/v1/topics")
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
    with example.http(token="made-up") as client:
        assert client.get("/v1/topics").status_code == 401
    with example.http() as client:
        assert client.get("/v1/topics").status_code == 200


def test_an_apply_of_what_stands_changes_nothing(example: MomCluster, release: Release) -> None:
    """No child, nor the resource itself, gets a new version, also over the operator's resyncs.

    What really changes is told, as a pod that is not ready for a moment on a busy machine, so one
    of three tries has to be quiet. A write that an apply or a resync makes comes each time.
    """
    for _ in range(QUIET_TRIES):
        example.wait_ready()
        example.wait_still(CHILDREN)
        before = _written(example)
        _apply_again(example, release)
        after = _written(example)
        if after == before:
            return
    for name, obj in after.items():
        assert obj == before[name]


def _apply_again(example: MomCluster, release: Release) -> None:
    said = example.kubectl("apply", "-f", "-", stdin=json.dumps(_example_manifest(example)))
    assert said.strip() == "momcluster.mom.dev/my-mom unchanged"
    for name in ("topic.yaml", "queue.yaml"):
        assert example.kubectl("apply", "-f", str(EXAMPLES / name)).strip().endswith("unchanged")
    turns = release.cluster_turns()
    wait_until(
        "the operator looked at the cluster again, several times",
        lambda: release.cluster_turns() >= turns + TURNS,
    )


def _written(mom: MomCluster) -> dict[str, Object]:
    """Each object with its resourceVersion, but for who wrote which field when."""
    own = mom.namespace.cluster.get("momclusters,momtopics,momqueues", "-n", mom.namespace.name)
    found = {}
    for one in [*mom.objects(CHILDREN), *own["items"]]:
        one["metadata"].pop("managedFields", None)
        found[f"{one['kind']}/{one['metadata']['name']}"] = one
    return found


def test_paused_is_left_alone(example: MomCluster) -> None:
    example.annotate("mom.dev/pause=true")
    try:
        example.kubectl("scale", "momcluster", example.name, "--replicas=4")
        example.wait_says("Progressing", "paused by the annotation mom.dev/pause")
        assert example.condition("Ready")["status"] == "False", "there are 3 nodes and not 4"
        service = f"{example.name}-gateway"
        example.kubectl("delete", "service", service)
        assert len(example.pods("node")) == 3
        assert service not in {one["metadata"]["name"] for one in example.objects("services")}
    finally:
        example.annotate("mom.dev/pause-")
    example.wait_ready()
    assert len(example.pods("node")) == 4
    assert service in {one["metadata"]["name"] for one in example.objects("services")}
