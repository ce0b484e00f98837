"""The life of a release: test, upgrade, an uninstall that leaves clusters be, a reinstall."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.kubernetes import Object
from e2e.mom_cluster import COMPONENTS, MomCluster
from e2e.release import Release
from e2e.waiting import wait_until

pytestmark = pytest.mark.timeout(600)
BINDING = "my-mom-binding"
DEFINITIONS = ("momclusters.mom.dev", "momtopics.mom.dev", "momqueues.mom.dev")


@pytest.fixture
def whole_release(release: Release) -> Iterator[Release]:
    """The release; installed again as it was, whatever the test did."""
    yield release
    release.cluster.kubectl(
        "delete", "secret", BINDING, "-n", release.namespace, "--ignore-not-found"
    )
    release.install()


def _copied_binding(mom: MomCluster, release: Release) -> Object:
    """The binding Secret in the release's namespace, where its test looks for it."""
    found: Object = mom.namespace.cluster.get("secret", BINDING, "-n", mom.namespace.name)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": BINDING, "namespace": release.namespace},
        "data": found["data"],
    }


def _all_uids(mom: MomCluster) -> set[str]:
    return {uid for component in (*COMPONENTS, "redis") for uid in mom.uids(component)}


def test_helm_test_sends_a_message(shared_mom: MomCluster, whole_release: Release) -> None:
    whole_release.apply(_copied_binding(shared_mom, whole_release))
    whole_release.install(f"test.binding={BINDING}")
    # Its pod is gone when it succeeded, and with it its log; it fails if no message comes back.
    assert "Succeeded" in whole_release.helm("test", whole_release.name)


def test_an_upgrade_of_the_operator_restarts_no_cluster(
    shared_mom: MomCluster, whole_release: Release
) -> None:
    shared_mom.wait_ready()
    before = _all_uids(shared_mom)
    operators = {pod["metadata"]["uid"] for pod in whole_release.pods()}
    whole_release.install(image=whole_release.cluster.next_image)
    new = {pod["metadata"]["uid"] for pod in whole_release.pods()}
    assert not operators & new
    shared_mom.kubectl("scale", "momcluster", shared_mom.name, "--replicas=3")
    shared_mom.wait_ready()
    assert _all_uids(shared_mom) > before, "the new operator works, and restarted nothing"
    shared_mom.kubectl("scale", "momcluster", shared_mom.name, "--replicas=2")
    shared_mom.wait_ready()


def test_clusters_outlive_an_uninstall_and_a_reinstall_finds_them(
    shared_mom: MomCluster, whole_release: Release
) -> None:
    mom, release = shared_mom, whole_release
    topic: Object = {
        "apiVersion": "mom.dev/v1alpha1",
        "kind": "MomTopic",
        "metadata": {"name": "kept"},
        "spec": {
            "clusterRef": {"name": mom.name},
            "retention": {"bytes": "1Mi"},
            "deletionPolicy": "Delete",
        },
    }
    mom.namespace.apply(topic)
    mom.kubectl("wait", "--for=condition=Ready", "momtopic/kept", "--timeout=60s")
    before = _all_uids(mom)
    release.uninstall()
    assert not release.pods()
    assert {one["metadata"]["name"] for one in release.cluster.get("crds")["items"]} >= set(
        DEFINITIONS
    )
    assert _all_uids(mom) == before
    with mom.http() as client:
        sent = client.post("/v1/topics/kept/records", json={"value": "meanwhile"})
        assert sent.status_code == 200, sent.text
    # Nobody is there to take a finalizer off, so none may be left.
    assert (
        "finalizers"
        not in mom.namespace.cluster.get("momtopic", "kept", "-n", mom.namespace.name)["metadata"]
    )

    mom.kubectl("scale", "momcluster", mom.name, "--replicas=3")
    release.install()
    mom.wait_ready()
    assert _all_uids(mom) > before, "scaled, and nothing restarted"
    wait_until(
        "the topic has its finalizer again",
        lambda: (
            "finalizers"
            in mom.namespace.cluster.get("momtopic", "kept", "-n", mom.namespace.name)["metadata"]
        ),
    )
    with mom.http() as client:
        records = client.get("/v1/topics/kept/partitions/0/records").json()["records"]
        assert [one["value"] for one in records] == ["meanwhile"]
