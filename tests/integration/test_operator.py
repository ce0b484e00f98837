"""The operator against a real API server with Kubernetes' own controllers.

Machines are fake, but the masters and nodes that "run" on them are real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import kube_api_server
import mom_client
from fake_kubelet import Controllers
from kube_api_server import KubeApiServer
from mom_operator.counting import COUNT_MS_MIN
from mom_operator.election import LEASE_MS, STOP_MS
from operator_lab import ROOT, Lab, changed, cluster, condition, is_ready, names, queue, topic

pytestmark = [
    pytest.mark.skipif(
        not (kube_api_server.is_installed() and Controllers.is_installed()),
        reason="no etcd, kube-apiserver and kube-controller-manager: `make e2e` builds them",
    ),
    # Of the API server's library and of sockets that a fake machine's death leaves behind.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# Two counts: the first may have begun before the messages came. Far less than a resync's minute.
TOLD_S_MAX = 2 * COUNT_MS_MIN / 1_000 + 5


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApiServer]:
    server = KubeApiServer(tmp_path_factory.mktemp("kubernetes"))
    controllers = Controllers(server)
    try:
        server.start()
        for file in sorted(Path(ROOT / "deploy/helm/mom/crds").glob("*.yaml")):
            server.establish(yaml.safe_load(file.read_text()))
        controllers.start()
        yield server
    finally:
        controllers.stop()
        server.stop()


@pytest.fixture
async def lab(api: KubeApiServer) -> AsyncIterator[Lab]:
    async with Lab(api) as one:
        yield one


# A cluster's life.


async def test_a_cluster_comes_up_and_then_nothing_more_is_written(lab: Lab) -> None:
    mom = cluster("calm", gateway={"replicas": 1, "ingress": {"host": "mom.example.com"}})
    lab.apply(mom)
    status = (await lab.ready(mom))["status"]
    assert status["nodesReady"] == "3/3"
    assert status["endpoints"][0] == {"name": "rest", "url": "http://mom.example.com"}
    assert {one["phase"] for one in status["nodes"]} == {"Active"}
    assert status["binding"] == {"name": "calm-binding"}
    await asyncio.sleep(2)
    before = lab.versions() | {"cluster": lab.get(mom)["metadata"]["resourceVersion"]}
    lab.apply(mom)
    await asyncio.sleep(8)  # More than one resync: here the absence of a change is the point.
    after = lab.versions() | {"cluster": lab.get(mom)["metadata"]["resourceVersion"]}
    assert after == before


async def test_an_operator_that_restarts_changes_nothing(lab: Lab) -> None:
    mom = cluster("same")
    lab.apply(mom)
    await lab.ready(mom)
    await asyncio.sleep(1)
    before = lab.versions()
    await lab.stop_operator()
    await lab.start_operator()
    assert lab.operator is not None
    await lab.until(lambda: lab.operator is not None and lab.operator.leading)
    await asyncio.sleep(3)
    assert lab.versions() == before


async def test_children_that_are_deleted_or_edited_come_back(lab: Lab) -> None:
    mom = cluster("drift")
    lab.apply(mom)
    await lab.ready(mom)
    service = _child("v1", "Service", "drift-gateway")
    uid = lab.get(service)["metadata"]["uid"]
    lab.delete(service)
    await lab.until(lambda: lab.get(service).get("metadata", {}).get("uid", uid) != uid)
    config = _child("v1", "ConfigMap", "drift-redis")
    before = lab.get(config)["data"]
    lab.patch(config, {"data": {"redis.conf": "appendonly no"}})
    await lab.until(lambda: lab.get(config)["data"] == before)
    nodes = _child("apps/v1", "StatefulSet", "drift-node")
    lab.patch(nodes, {"spec": {"replicas": 1}})
    await lab.until(lambda: lab.get(nodes)["spec"]["replicas"] == 3)
    await lab.ready(mom)


async def test_a_lost_admin_token_is_made_again(lab: Lab) -> None:
    mom = cluster("token")
    lab.apply(mom)
    await lab.ready(mom)
    secret = _child("v1", "Secret", "token-admin-token")
    before = lab.get(secret)["data"]["token"]
    lab.delete(secret)
    await lab.until(lambda: lab.get(secret).get("data", {}).get("token", before) != before)
    binding = _child("v1", "Secret", "token-binding")
    await lab.until(lambda: lab.get(binding)["data"]["token"] == lab.get(secret)["data"]["token"])
    assert [one.name for one in await lab.kubelet.tokens("token")] == ["operator-admin"]


async def test_a_missing_secret_is_named_and_its_coming_is_noticed(lab: Lab) -> None:
    mom = cluster(
        "outside", redis={"external": {"urlSecretRef": {"name": "my-redis", "key": "url"}}}
    )
    lab.apply(mom)
    said = await lab.says(mom, "SecretMissing", "Degraded")
    assert "my-redis" in said["message"]
    secret = _child("v1", "Secret", "my-redis") | {"data": {"url": "cmVkaXM6Ly94"}}
    lab.apply(secret)
    await lab.ready(mom, 40)
    lab.delete(secret)


async def test_what_is_not_ours_is_never_taken_over(lab: Lab) -> None:
    mom = cluster("taken")
    theirs = _child("v1", "ConfigMap", "taken-redis") | {"data": {"redis.conf": "theirs"}}
    lab.apply(theirs)
    lab.apply(mom)
    said = await lab.says(mom, "NameTaken", "Degraded")
    assert "ConfigMap default/taken-redis" in said["message"]
    assert lab.get(theirs)["data"] == {"redis.conf": "theirs"}
    lab.delete(mom)
    await lab.until(lambda: not lab.get(mom))
    assert lab.get(theirs)["data"] == {"redis.conf": "theirs"}
    lab.delete(theirs)


async def test_a_paused_cluster_is_left_alone(lab: Lab) -> None:
    mom = cluster("pause")
    lab.apply(mom)
    await lab.ready(mom)
    lab.patch(mom, {"metadata": {"annotations": {"mom.dev/pause": "true"}}})
    await lab.says(mom, "Paused", "Progressing")
    service = _child("v1", "Service", "pause-gateway")
    lab.delete(service)
    await asyncio.sleep(1)
    assert not lab.get(service)
    lab.patch(mom, {"metadata": {"annotations": {"mom.dev/pause": None}}})
    await lab.until(lambda: lab.get(service))


async def test_a_deleted_cluster_takes_its_children_along_and_comes_back(lab: Lab) -> None:
    mom = cluster("again")
    lab.apply(mom)
    await lab.ready(mom)
    lab.delete(mom)
    lab.apply(mom)  # At once, while the children of the former one are still there.
    await lab.ready(mom)
    uid = lab.get(mom)["metadata"]["uid"]
    nodes = lab.get(_child("apps/v1", "StatefulSet", "again-node"))
    assert [one["uid"] for one in nodes["metadata"]["ownerReferences"]] == [uid]


# Nodes come and go.


async def test_nodes_join_and_are_drained_before_they_go(lab: Lab) -> None:
    mom, orders = cluster("scale"), topic("orders", "scale", partitions=12)
    lab.apply(mom)
    lab.apply(orders)
    await lab.ready(orders)
    lab.apply(changed(mom, nodes={"replicas": 5}))
    await lab.ready(mom)
    await lab.until(lambda: len(_partitions(lab, mom)) == 5 and min(_partitions(lab, mom)) == 2)
    lab.apply(changed(mom, nodes={"replicas": 2}))
    drained: dict[str, int] = {}

    def gone() -> bool:
        for pod in lab.pods("node"):
            name = pod["metadata"]["name"]
            if pod["metadata"].get("deletionTimestamp") and name not in drained:
                found = lab.kubelet.placed("scale", name)
                drained[name] = found
        return names(lab.pods("node")) == ["scale-node-0", "scale-node-1"]

    await lab.until(gone)
    assert set(drained.values()) <= {0}
    await lab.ready(mom)
    await lab.until(
        lambda: (
            [one["name"] for one in lab.get(mom)["status"]["nodes"]]
            == [
                "scale-node-0",
                "scale-node-1",
            ]
        )
    )


async def test_a_refused_scale_down_keeps_the_nodes_and_says_so(lab: Lab) -> None:
    mom = cluster("refuse", scaleDown={"policy": "Refuse"})
    lab.apply(mom)
    await lab.ready(mom)
    lab.apply(changed(mom, nodes={"replicas": 1}))
    said = await lab.says(mom, "ScaleDownBlocked", "Degraded")
    assert "Refuse" in said["message"]
    assert len(lab.pods("node")) == 3


async def test_a_new_version_rolls_nodes_one_by_one_then_masters(lab: Lab) -> None:
    mom, orders = cluster("roll"), topic("orders", "roll", partitions=9)
    lab.apply(mom)
    lab.apply(orders)
    await lab.ready(orders)
    await lab.ready(mom)
    lab.kubelet.started.clear()
    before = {pod["metadata"]["uid"] for pod in lab.pods("node")}
    lab.apply(changed(mom, version="0.2.0"))
    away: list[int] = []

    def rolled() -> bool:
        ready = [pod for pod in lab.pods("node") if not pod["metadata"].get("deletionTimestamp")]
        away.append(3 - len([pod for pod in ready if _is_ready(pod)]))
        return is_ready(lab.get(mom))

    await lab.until(rolled)
    assert max(away) == 1
    assert not before & {pod["metadata"]["uid"] for pod in lab.pods("node")}
    started = [name.rpartition("-")[0] if "node" in name else name for name in lab.kubelet.started]
    assert started[:3] == ["roll-node"] * 3
    assert started[3].startswith("roll-master")
    assert started[4].startswith("roll-gateway")
    assert lab.get(mom)["status"]["version"] == {"current": "0.2.0", "target": "0.2.0"}
    assert {one["phase"] for one in lab.get(mom)["status"]["nodes"]} == {"Active"}


async def test_an_operator_restarted_in_the_middle_carries_on(lab: Lab) -> None:
    mom = cluster("middle")
    lab.apply(mom)
    await lab.ready(mom)
    lab.kubelet.started.clear()
    lab.patch(mom, {"metadata": {"annotations": {"mom.dev/restart": "1"}}})
    await lab.until(lambda: lab.kubelet.started)
    await lab.stop_operator()
    await lab.start_operator()
    await lab.until(lambda: len([one for one in lab.kubelet.started if "node" in one]) == 3)
    await lab.ready(mom)
    nodes = [one for one in lab.kubelet.started if "node" in one]
    assert sorted(nodes) == ["middle-node-0", "middle-node-1", "middle-node-2"]


async def test_a_bad_image_is_named_and_its_mending_unsticks(lab: Lab) -> None:
    mom = cluster("image")
    lab.apply(mom)
    await lab.ready(mom)
    lab.apply(changed(mom, version="0.2.0", image={"repository": "missing"}))
    said = await lab.says(mom, "ImagePullBackOff", "Degraded")
    assert "missing:0.2.0" in said["message"]
    await asyncio.sleep(2)
    assert len([pod for pod in lab.pods("node") if _is_ready(pod)]) == 2
    assert all(_is_ready(pod) for pod in lab.pods("master"))
    lab.apply(changed(mom, version="0.2.1"))
    await lab.ready(mom)


async def test_a_cluster_that_never_worked_is_mended_too(lab: Lab) -> None:
    mom = cluster("never", image={"repository": "missing"})
    lab.apply(mom)
    await lab.says(mom, "ImagePullBackOff", "Degraded")
    lab.apply(changed(mom, image={"repository": "mom"}))
    await lab.ready(mom)


async def test_pods_of_a_dead_machine_are_replaced(lab: Lab) -> None:
    mom = cluster("dead")
    lab.apply(mom)
    await lab.ready(mom)
    pod = lab.pods("node")[0]
    machine = pod["spec"]["nodeName"]
    await lab.kubelet.lose_machine(machine)
    # As Kubernetes evicts it: it stays Terminating, since nobody there ends it.
    for one in lab.pods("node"):
        if one["spec"]["nodeName"] == machine:
            lab.api.client.request(
                "DELETE",
                f"/api/v1/namespaces/default/pods/{one['metadata']['name']}",
                json={"gracePeriodSeconds": 1},
            )
    await lab.until(
        lambda: (
            all(_is_ready(one) for one in lab.pods("node"))
            and machine not in {one["spec"].get("nodeName") for one in lab.pods("node")}
            and len(lab.pods("node")) == 3
        )
    )


# Topics and queues.


async def test_a_topic_waits_for_its_cluster(lab: Lab) -> None:
    mail = {"name": "mail", "mode": "queue", "ackTimeout": "40s"}
    orders = topic("orders", "late", partitions=2, subscriptions=[mail])
    lab.apply(orders)
    said = await lab.says(orders, "ClusterNotFound")
    assert "MomCluster default/late" in said["message"]
    lab.apply(cluster("late"))
    status = (await lab.ready(orders))["status"]
    assert (status["partitions"], status["subscriptions"]) == (2, ["mail"])
    lab.apply(changed(orders, partitions=4))
    await lab.ready(orders)
    assert lab.get(orders)["status"]["partitions"] == 4
    lab.delete(cluster("late"))
    await lab.says(orders, "ClusterNotFound")


async def test_a_subscription_that_is_added_begins_where_the_resource_says(lab: Lab) -> None:
    lab.apply(cluster("begun"))
    lab.apply(orders := topic("orders", "begun", partitions=1))
    await lab.ready(orders)
    async with mom_client.connect(lab.kubelet.master_address("begun")) as client:
        await client.publish_many("orders", ["old", "older"])
        mail = {"name": "mail", "mode": "queue", "start": "latest"}
        lab.apply(changed(orders, subscriptions=[mail]))
        await lab.until(lambda: lab.get(orders)["status"].get("subscriptions") == ["mail"])
        await client.publish("orders", "new")
        (message,) = await client.receive("orders", 10, wait=20, subscription="mail")
        assert message.text() == "new"


async def test_what_waits_is_told_within_seconds_and_written_only_when_it_changed(
    lab: Lab,
) -> None:
    lab.apply(cluster("busy"))
    jobs, idle = queue("jobs", "busy", deadLetter="dead"), queue("idle", "busy")
    for one in (jobs, idle):
        lab.apply(one)
        await lab.ready(one)
        await lab.until(lambda one=one: _told(lab, one).get("messages") == 0)
    before = _version(lab, idle)
    async with mom_client.connect(lab.kubelet.master_address("busy")) as client:
        await client.publish_many("jobs", ["a", "b", "c"])
        await lab.until(lambda: _told(lab, jobs).get("messages") == 3, TOLD_S_MAX)
        await client.ack(await client.receive("jobs", 1, wait=5))
        await lab.until(lambda: _told(lab, jobs).get("messages") == 2, TOLD_S_MAX)
        assert _told(lab, jobs)["deadLetters"] == 0
        version, counts = _version(lab, jobs), _counts(lab)
        await lab.until(lambda: _counts(lab) >= counts + 2)
    assert _version(lab, jobs) == version, "nothing moved"
    assert _version(lab, idle) == before, "another queue's messages are nothing to it"


async def test_what_waits_is_told_by_the_operator_that_comes_next(lab: Lab) -> None:
    lab.apply(cluster("handed"))
    jobs = queue("jobs", "handed")
    lab.apply(jobs)
    await lab.ready(jobs)
    await lab.stop_operator()
    async with mom_client.connect(lab.kubelet.master_address("handed")) as client:
        await client.publish("jobs", "a")
    await lab.start_operator()
    await lab.until(lambda: _told(lab, jobs).get("messages") == 1)


def _told(lab: Lab, manifest: Any) -> dict[str, Any]:
    """What a status tells of what waits."""
    status = lab.get(manifest).get("status") or {}
    backlog: dict[str, Any] = status.get("backlog") or {}
    return backlog


def _version(lab: Lab, manifest: Any) -> str:
    version: str = lab.get(manifest)["metadata"]["resourceVersion"]
    return version


def _counts(lab: Lab) -> float:
    """How often the operator has counted."""
    assert lab.operator is not None, "it runs"
    registry = lab.operator.metrics.registry
    sample = registry.get_sample_value("mom_operator_reconcile_seconds_count", {"lane": "count"})
    return sample or 0


async def test_a_defect_of_the_operator_is_told_to_who_waits(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no rule foresees; here a decision that fails."""
    lab.apply(cluster("unlucky"))
    await lab.ready(cluster("unlucky"))
    with monkeypatch.context() as patched:
        for place in ("topic_reconciler.decide", "cluster_reconciler.make_plan"):
            patched.setattr(f"mom_operator.{place}", _fails)
        orders = topic("orders", "unlucky", partitions=1)
        lab.apply(orders)
        assert "ValueError: never foreseen" in (await lab.says(orders, "InternalError"))["message"]
        await lab.says(cluster("unlucky"), "InternalError", "Degraded")
    await lab.ready(orders)
    await lab.ready(cluster("unlucky"))


def _fails(*_: object) -> None:
    raise ValueError("never foreseen")


async def test_the_oldest_of_two_has_the_name(lab: Lab) -> None:
    lab.apply(cluster("names"))
    first = topic("first", "names", name="orders", partitions=1)
    second = topic("second", "names", name="orders", partitions=2)
    lab.apply(first)
    await lab.ready(first)
    await asyncio.sleep(1.1)  # Creation times are in whole seconds.
    lab.apply(second)
    said = await lab.says(second, "Conflict")
    assert "MomTopic default/first" in said["message"]
    lab.delete(first)
    status = (await lab.ready(second))["status"]
    assert status["partitions"] == 2


async def test_a_queue_that_was_made_for_dead_letters_gets_a_resource(lab: Lab) -> None:
    """It stands since after the operator's last listing, which is no reason to refuse it."""
    lab.apply(cluster("dead"))
    jobs = queue("jobs", "dead", deadLetter="jobs.dlq")
    lab.apply(jobs)
    await lab.ready(jobs)
    dead = queue("jobs.dlq", "dead", ackTimeout="45s")
    lab.apply(dead)
    await lab.until(lambda: condition(lab.get(dead)))
    assert condition(lab.get(dead))["reason"] == "InSync"
    assert lab.kubelet.config("dead", "jobs.dlq").queue.lease_ms == 45_000


async def test_other_namespaces_need_permission(lab: Lab) -> None:
    lab.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    mom, orders = cluster("guests"), topic("orders", "guests", "shop")
    lab.apply(mom)
    lab.apply(orders)
    await lab.says(orders, "NamespaceNotAllowed")
    lab.apply(changed(mom, allowedNamespaces=["shop"]))
    await lab.ready(orders)


async def test_data_goes_only_by_policy_and_nothing_hangs(lab: Lab) -> None:
    mom = cluster("policy")
    kept = topic("kept", "policy", partitions=1)
    gone = topic("gone", "policy", partitions=1, deletionPolicy="Delete")
    left = topic("left", "policy", partitions=1, deletionPolicy="Delete")
    for manifest in (mom, kept, gone, left):
        lab.apply(manifest)
    for manifest in (kept, gone, left):
        await lab.ready(manifest)
    lab.delete(kept)
    lab.delete(gone)
    await lab.until(lambda: not lab.get(kept) and not lab.get(gone))
    await lab.until(lambda: lab.kubelet.topics("policy") == {"kept", "left"})
    lab.delete(mom)
    lab.delete(left)
    await lab.until(lambda: not lab.get(left))


async def test_a_store_that_was_lost_gets_its_topics_again(lab: Lab) -> None:
    mom, orders = cluster("lost"), topic("orders", "lost", partitions=2)
    lab.apply(mom)
    lab.apply(orders)
    before = (await lab.ready(orders))["status"]["topicId"]
    lab.kubelet.lose_store("lost")
    for pod in [*lab.pods("master"), *lab.pods("node")]:
        lab.delete(pod | {"apiVersion": "v1", "kind": "Pod"})
    await lab.until(lambda: lab.get(orders)["status"]["topicId"] != before)
    await lab.ready(mom)


async def test_a_changed_setting_is_mended_and_an_absent_one_is_not_managed(lab: Lab) -> None:
    mom = cluster("mend")
    orders = topic("orders", "mend", partitions=1, retention={"time": "1h"})
    lab.apply(mom)
    lab.apply(orders)
    await lab.ready(orders)
    config = lab.kubelet.config("mend", "orders")
    assert config.retention_ms == 3_600_000
    assert config.retention_bytes == 1 << 30


# Operators.


async def test_two_operators_take_turns(lab: Lab) -> None:
    await lab.until(lambda: lab.operator is not None and lab.operator.leading)
    second = await lab.make_operator("second")
    try:
        await lab.until(lambda: second.ready()[0])
        await asyncio.sleep(1.5)
        assert not second.leading
        await lab.stop_operator()
        await lab.until(lambda: second.leading, 5)
        mom = cluster("two")
        lab.apply(mom)
        await lab.ready(mom)
    finally:
        await second.stop()


async def test_an_api_server_that_stands_still_ends_the_lead_and_nothing_else(lab: Lab) -> None:
    mom = cluster("still")
    lab.apply(mom)
    await lab.ready(mom)
    operator = lab.operator
    assert operator is not None
    lab.api.pause()
    try:
        async with asyncio.timeout((LEASE_MS - STOP_MS) / 1000 + 5):
            while operator.leading:  # noqa: ASYNC110 - nothing here tells of it
                await asyncio.sleep(0.1)
        assert operator.well() == (True, "stands by")
    finally:
        lab.api.resume()
    await lab.until(lambda: operator.leading, 40)
    lab.apply(changed(mom, nodes={"replicas": 4}))
    await lab.ready(mom)
    assert lab.get(mom)["status"]["nodesReady"] == "4/4"


def _child(api_version: str, kind: str, name: str) -> dict[str, Any]:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
    }


def _is_ready(pod: dict[str, Any]) -> bool:
    return condition(pod).get("status") == "True"


def _partitions(lab: Lab, mom: dict[str, Any]) -> list[int]:
    return [one["partitions"] for one in lab.get(mom)["status"].get("nodes") or []]
