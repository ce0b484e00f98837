"""More nodes, fewer nodes, new templates: clients at work must not notice."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from e2e.history.report import Row
from e2e.judged_load import judged_load
from e2e.mom_cluster import COMPONENTS, MomCluster
from e2e.release import Release, image_parts
from e2e.report import Report
from e2e.waiting import wait_until, wait_until_async

pytestmark = pytest.mark.timeout(600)


def _nobody_noticed(rows: list[Row]) -> None:
    """No call failed. How long the longest took goes into the report: machines stall, too."""
    for row in rows:
        assert sum(row.failed.values()) == 0, row


def _is_spread(mom: MomCluster, nodes: int) -> bool:
    """Whether just so many nodes are there, each with its share of the partitions."""
    shares = [node["partitions"] for node in mom.status().get("nodes", [])]
    return len(shares) == nodes and min(shares) > 0 and max(shares) - min(shares) <= 1


async def test_more_and_fewer_nodes_under_load(
    shared_mom: MomCluster, tmp_path: Path, report: Report
) -> None:
    mom = shared_mom
    async with judged_load(mom, tmp_path) as judged:
        async with judged.load.disruption("more nodes: 2 to 4"):
            mom.kubectl("scale", "momcluster", mom.name, "--replicas=4")
            report.figure("2 nodes to 4", await mom.ready_again(), "s")
            await wait_until_async("each node has its share", lambda: _is_spread(mom, 4))
        async with judged.load.disruption("fewer nodes: 4 to 2"):
            mom.kubectl("scale", "momcluster", mom.name, "--replicas=2")
            report.figure("4 nodes to 2", await mom.ready_again(), "s")
    report.disruptions(judged.rows)
    assert len(mom.pods("node")) == 2
    wait_until("the nodes that went are forgotten", lambda: _is_spread(mom, 2))
    _nobody_noticed(judged.rows)


def _all_uids(mom: MomCluster) -> set[str]:
    return {uid for component in COMPONENTS for uid in mom.uids(component)}


async def test_a_restart_on_demand_under_load(
    shared_mom: MomCluster, tmp_path: Path, report: Report
) -> None:
    mom = shared_mom
    before = _all_uids(mom)
    async with (
        judged_load(mom, tmp_path) as judged,
        judged.load.disruption("rolling restart of all processes"),
    ):
        began = time.monotonic()
        mom.annotate(f"mom.dev/restart={began}")
        await asyncio.to_thread(mom.wait_replaced, before)
        report.figure("rolling restart of all processes", time.monotonic() - began, "s")
    report.disruptions(judged.rows)
    _nobody_noticed(judged.rows)


async def test_a_new_image_and_an_operator_that_is_restarted_halfway(
    shared_mom: MomCluster, release: Release, tmp_path: Path, report: Report
) -> None:
    mom = shared_mom
    before = _all_uids(mom)
    repository, tag = image_parts(mom.namespace.cluster.next_image)
    async with (
        judged_load(mom, tmp_path) as judged,
        judged.load.disruption("rolling upgrade, the operator restarted in the middle"),
    ):
        mom.patch({"image": {"repository": repository, "tag": tag}})
        await wait_until_async("a node is upgraded", lambda: mom.uids("node") - before)
        assert before & _all_uids(mom), "the upgrade is still under way"
        release.restart()
        await asyncio.to_thread(mom.wait_replaced, before)
    report.disruptions(judged.rows)
    running = [pod for component in COMPONENTS for pod in mom.pods(component)]
    images = {pod["spec"]["containers"][0]["image"] for pod in running}
    assert images == {mom.namespace.cluster.next_image}
    _nobody_noticed(judged.rows)


async def test_a_bad_image_stops_at_one_node_and_the_fix_goes_on(
    shared_mom: MomCluster, tmp_path: Path, report: Report
) -> None:
    mom = shared_mom
    before = _all_uids(mom)
    _, tag = image_parts(mom.namespace.cluster.image)
    async with judged_load(mom, tmp_path) as judged:
        async with judged.load.disruption("upgrade to an image that does not exist"):
            mom.patch({"image": {"tag": "no-such-tag"}})
            await asyncio.to_thread(mom.wait_says, "Degraded", "no-such-tag")
            ready = mom.condition("Ready")
            assert ready["status"] == "False"
            assert "no-such-tag" in ready["message"]
            assert mom.condition("Available")["status"] == "True"
            assert len(before & _all_uids(mom)) == len(before) - 1, "it stops at the first node"
        async with judged.load.disruption("the image is mended"):
            mom.patch({"image": {"tag": tag}})
            await mom.ready_again()
    report.disruptions(judged.rows)
    assert mom.condition("Degraded")["status"] == "False"
    _nobody_noticed(judged.rows)


def test_a_volume_grows_where_its_class_lets_it(shared_mom: MomCluster) -> None:
    mom = shared_mom
    size = mom.get()["spec"]["redis"]["managed"]["storage"]["size"]
    larger = f"{int(size.removesuffix('Gi')) + 1}Gi"
    (claim,) = mom.objects("persistentvolumeclaims")
    storage_class = claim["spec"]["storageClassName"]
    may_grow = mom.namespace.cluster.get("storageclass", storage_class).get("allowVolumeExpansion")

    def let_grow(may: bool) -> None:
        patch = f'{{"allowVolumeExpansion": {str(may).lower()}}}'
        mom.kubectl("patch", "storageclass", storage_class, "--type=merge", "-p", patch)

    let_grow(False)
    try:
        mom.patch({"redis": {"managed": {"storage": {"size": larger}}}})
        assert "allowVolumeExpansion" in mom.wait_says("Degraded", "VolumeNotGrown")["message"]
        assert mom.condition("Available")["status"] == "True"
        let_grow(True)
        mom.wait_ready()
    finally:
        let_grow(bool(may_grow))
    (claim,) = mom.objects("persistentvolumeclaims")
    assert claim["spec"]["resources"]["requests"]["storage"] == larger
