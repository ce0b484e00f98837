"""Things go in every order: nothing hangs, and data stays unless a policy says Delete."""

from __future__ import annotations

import time

import httpx
import pytest

from e2e.kubernetes import Namespace, Object
from e2e.mom_cluster import MomCluster
from e2e.release import Release
from e2e.report import Report
from e2e.waiting import wait_until

pytestmark = pytest.mark.timeout(600)
GONE_SECONDS_MAX = 120
VALUES = [f"value {number}" for number in range(50)]


def _topic(name: str, policy: str = "Retain", kind: str = "MomTopic") -> Object:
    return {
        "apiVersion": "mom.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {
            "clusterRef": {"name": "my-mom"},
            "partitions": 1,
            "retention": {"bytes": "1Mi"},
            "deletionPolicy": policy,
        },
    }


def _ready(mom: MomCluster, *topics: Object) -> None:
    """Apply topics, and wait until they are there."""
    mom.namespace.apply(*topics)
    for one in topics:
        name = f"{one['kind'].lower()}/{one['metadata']['name']}"
        mom.kubectl("wait", "--for=condition=Ready", name, "--timeout=60s")


def _send(client: httpx.Client, topic: str) -> None:
    records = [{"value": value} for value in VALUES]
    answer = client.post(f"/v1/topics/{topic}/records", json={"records": records})
    assert answer.status_code == 200, answer.text


def _read(client: httpx.Client, topic: str) -> list[str]:
    answer = client.get(f"/v1/topics/{topic}/partitions/0/records")
    return [one["value"] for one in answer.json().get("records", ())]


def _delete(mom: MomCluster, *words: str) -> None:
    """Delete, and wait until it is gone: kubectl fails when that takes too long."""
    mom.kubectl("delete", *words, f"--timeout={GONE_SECONDS_MAX}s")


def _claims(mom: MomCluster) -> list[str]:
    listed = mom.namespace.cluster.get("pvc", "-n", mom.namespace.name)
    return [one["metadata"]["name"] for one in listed["items"]]


def _without_pods(mom: MomCluster) -> bool:
    return not mom.namespace.pods(**{"mom.dev/cluster": mom.name})


def test_topics_first_then_the_cluster_and_kept_data_is_found_again(mom: MomCluster) -> None:
    mom.apply()
    mom.wait_ready()
    _ready(mom, _topic("kept"), _topic("gone", "Delete"), _topic("jobs", "Delete", "MomQueue"))
    before = mom.namespace.cluster.get("momtopic", "kept", "-n", mom.namespace.name)
    with mom.http() as client:
        _send(client, "kept")
        _send(client, "gone")
        _delete(mom, "momtopic", "kept", "gone")
        _delete(mom, "momqueue", "jobs")
        assert _read(client, "kept") == VALUES
        assert client.get("/v1/topics/gone").status_code == 404
        assert client.get("/v1/queues/jobs").status_code == 404

    _delete(mom, "momcluster", mom.name)
    wait_until("all pods are gone", lambda: _without_pods(mom), GONE_SECONDS_MAX)
    assert _claims(mom)

    mom.apply()
    mom.wait_ready()
    _ready(mom, _topic("kept"))
    after = mom.namespace.cluster.get("momtopic", "kept", "-n", mom.namespace.name)
    assert after["status"]["topicId"] == before["status"]["topicId"]
    with mom.http() as client:
        assert _read(client, "kept") == VALUES


def test_the_cluster_first_and_nothing_of_it_stays_if_it_says_delete(mom: MomCluster) -> None:
    mom.apply({"deletionPolicy": "Delete"})
    mom.wait_ready()
    _ready(mom, _topic("kept"), _topic("gone", "Delete"), _topic("jobs", "Delete", "MomQueue"))
    _delete(mom, "momcluster", mom.name)
    wait_until("all pods are gone", lambda: _without_pods(mom), GONE_SECONDS_MAX)
    wait_until("its volume is gone", lambda: not _claims(mom), GONE_SECONDS_MAX)

    def says() -> str:
        topic = mom.namespace.cluster.get("momtopic", "kept", "-n", mom.namespace.name)
        return next(
            one["reason"] for one in topic["status"]["conditions"] if one["type"] == "Ready"
        )

    wait_until("the topic says that its cluster is away", lambda: says() == "ClusterNotFound")
    _delete(mom, "momtopic", "kept", "gone")
    _delete(mom, "momqueue", "jobs")


def test_a_cluster_that_comes_back_at_once(mom: MomCluster) -> None:
    """Applied again while the parts of the one before are still going."""
    mom.apply()
    mom.wait_ready()
    _ready(mom, _topic("kept"))
    with mom.http() as client:
        _send(client, "kept")
    mom.kubectl("delete", "momcluster", mom.name, "--wait=false")
    wait_until(
        "the resource is gone",
        lambda: not mom.kubectl("get", "momcluster", mom.name, "--ignore-not-found"),
    )
    mom.apply()
    mom.wait_ready()
    with mom.http() as client:
        wait_until("the data is there", lambda: _read(client, "kept") == VALUES)


def test_a_namespace_goes_with_all_that_is_in_it(
    namespace: Namespace, release: Release, report: Report
) -> None:
    mom = MomCluster(namespace)
    mom.apply()
    mom.wait_ready()
    _ready(mom, _topic("kept"), _topic("gone", "Delete"), _topic("jobs", "Delete", "MomQueue"))
    began = time.monotonic()
    namespace.cluster.kubectl("delete", "namespace", namespace.name, "--wait=false")
    wait_until(
        "the namespace is gone",
        lambda: (
            not namespace.cluster.kubectl("get", "namespace", namespace.name, "--ignore-not-found")
        ),
        GONE_SECONDS_MAX,
    )
    report.figure("a namespace with a cluster in it goes", time.monotonic() - began, "s")
    # For the fixture, which deletes it.
    namespace.cluster.kubectl("create", "namespace", namespace.name)


def test_the_chart_goes_while_a_cluster_runs(mom: MomCluster, release: Release) -> None:
    """It runs on, what is deleted meanwhile does not hang, and a new operator takes it over."""
    mom.apply()
    mom.wait_ready()
    _ready(mom, _topic("kept"), _topic("gone", "Delete"), _topic("jobs", "Delete", "MomQueue"))
    before = {pod["metadata"]["uid"] for pod in mom.namespace.pods(**{"mom.dev/cluster": mom.name})}
    release.uninstall()
    try:
        with mom.http() as client:
            _send(client, "kept")
            assert _read(client, "kept") == VALUES
        _delete(mom, "momtopic", "gone")
        _delete(mom, "momqueue", "jobs")
    finally:
        release.install()
    mom.wait_ready()
    after = {pod["metadata"]["uid"] for pod in mom.namespace.pods(**{"mom.dev/cluster": mom.name})}
    assert after == before
    # The operator is at work again.
    _ready(mom, _topic("another"))
