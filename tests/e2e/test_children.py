"""What a MomCluster consists of: repaired when somebody changes it, and never another's."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from e2e.kubernetes import Namespace, Object
from e2e.mom_cluster import MomCluster
from e2e.release import Release
from e2e.waiting import wait_until

pytestmark = pytest.mark.timeout(600)
# Secrets are read again within a minute; the rest is watched.
REPAIR_SECONDS_MAX = 120
KINDS = (
    "Deployment",
    "StatefulSet",
    "Service",
    "ServiceAccount",
    "ConfigMap",
    "Secret",
    "Ingress",
    "PodDisruptionBudget",
    "NetworkPolicy",
)
VALUES = [f"value {number}" for number in range(100)]


@pytest.fixture(scope="module")
def whole_mom(module_namespace: Namespace, release: Release) -> MomCluster:
    """A MomCluster with messages, whose children the tests meddle with."""
    made = MomCluster(module_namespace)
    made.apply()
    made.wait_ready()
    with made.http() as client:
        topic = {"partitions": 1, "retention_bytes": 1 << 20}
        assert client.put("/v1/topics/kept", json=topic).status_code == 201
        records = [{"value": value} for value in VALUES]
        answer = client.post("/v1/topics/kept/records", json={"records": records})
        assert answer.status_code == 200, answer.text
    return made


def _children(mom: MomCluster, kind: str) -> dict[str, str]:
    """The names and identities of what belongs to the cluster itself."""
    uid = mom.get()["metadata"]["uid"]
    return {
        one["metadata"]["name"]: one["metadata"]["uid"]
        for one in mom.objects(kind.lower())
        if any(owner["uid"] == uid for owner in one["metadata"].get("ownerReferences", ()))
    }


@pytest.mark.parametrize("kind", KINDS)
def test_deleted_children_come_back(whole_mom: MomCluster, kind: str) -> None:
    before = _children(whole_mom, kind)
    assert before
    whole_mom.kubectl("delete", kind.lower(), "--wait=false", *before)

    def back() -> bool:
        after = _children(whole_mom, kind)
        return set(after) == set(before) and not set(after.values()) & set(before.values())

    wait_until(f"every {kind} is there again", back, REPAIR_SECONDS_MAX)
    whole_mom.wait_ready()
    # With the token of now: Secrets that were deleted have others.
    wait_until("messages are read", lambda: _values(whole_mom) == VALUES)


def _values(mom: MomCluster) -> list[str]:
    with mom.http() as client:
        answer = client.get("/v1/topics/kept/partitions/0/records")
        return [one["value"] for one in answer.json().get("records", ())]


Part = Callable[[Object], object]
EDITS: dict[str, tuple[Object, Part]] = {
    "deployment/my-mom-gateway": ({"spec": {"replicas": 0}}, lambda one: one["spec"]["replicas"]),
    "statefulset/my-mom-node": ({"spec": {"replicas": 5}}, lambda one: one["spec"]["replicas"]),
    "service/my-mom-gateway": (
        {"spec": {"selector": {"mom.dev/cluster": "none"}}},
        lambda one: one["spec"]["selector"],
    ),
    "configmap/my-mom-redis": (
        {"data": {"redis.conf": "appendonly no"}},
        lambda one: one["data"],
    ),
    "ingress/my-mom-gateway": (
        {"spec": {"rules": [{"host": "elsewhere.mom.test"}]}},
        lambda one: one["spec"]["rules"],
    ),
    "poddisruptionbudget/my-mom-node": (
        {"spec": {"maxUnavailable": "50%"}},
        lambda one: one["spec"],
    ),
    "networkpolicy/my-mom-redis": ({"spec": {"ingress": [{}]}}, lambda one: one["spec"]),
    "serviceaccount/my-mom-node": (
        {"metadata": {"labels": {"app.kubernetes.io/part-of": "another"}}},
        lambda one: one["metadata"]["labels"],
    ),
}


@pytest.mark.parametrize("path", EDITS)
def test_an_edited_child_is_repaired(whole_mom: MomCluster, path: str) -> None:
    patch, part = EDITS[path]
    cluster, namespace = whole_mom.namespace.cluster, whole_mom.namespace.name
    before = part(cluster.get(path, "-n", namespace))
    whole_mom.kubectl("patch", path, "--type=merge", "-p", json.dumps(patch))
    wait_until(
        f"{path} is as it was",
        lambda: part(cluster.get(path, "-n", namespace)) == before,
        REPAIR_SECONDS_MAX,
    )
    whole_mom.wait_ready()


# Of others.


def _hand_made(labels: dict[str, str] | None = None) -> list[Object]:
    """Objects that somebody made under names of children."""
    meta = {"labels": labels or {}}
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "my-mom-redis", **meta},
            "data": {"mine": "yes"},
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "my-mom-cluster-token", **meta},
            "stringData": {"mine": "yes"},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "my-mom-gateway", **meta},
            "spec": {"ports": [{"port": 80}]},
        },
    ]


@pytest.mark.parametrize("labelled", [False, True], ids=["unlike ours", "labelled as ours"])
def test_what_is_not_ours_is_left_alone(mom: MomCluster, labelled: bool) -> None:
    """Neither taken over nor deleted, and the cluster says what is in its way."""
    labels = {"app.kubernetes.io/managed-by": "mom-operator", "mom.dev/cluster": mom.name}
    mom.namespace.apply(*_hand_made(labels if labelled else None))
    before = _versions(mom)
    mom.apply()
    said = mom.wait_says("Ready", "NameTaken")
    assert said["status"] == "False"
    assert "my-mom-" in said["message"], said
    assert _versions(mom) == before

    mom.kubectl("delete", "momcluster", mom.name)
    assert _versions(mom) == before

    mom.apply()
    mom.wait_says("Ready", "NameTaken")
    for one in _hand_made():
        mom.kubectl("delete", one["kind"].lower(), one["metadata"]["name"])
    mom.wait_ready()


def _versions(mom: MomCluster) -> list[tuple[str, str]]:
    """Identity and version of each hand-made object."""
    found = [
        mom.namespace.cluster.get(
            one["kind"].lower(), one["metadata"]["name"], "-n", mom.namespace.name
        )["metadata"]
        for one in _hand_made()
    ]
    return [(one["uid"], one["resourceVersion"]) for one in found]
