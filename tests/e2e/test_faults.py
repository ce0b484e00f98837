"""Parts break under load: processes, pods, machines, all at once. Nothing acknowledged is lost.

Goals for times are in the report. The bounds here only say that the cluster heals by itself, on a
machine that others use too.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

import mom_client
from e2e import processes
from e2e.history.load import Plan
from e2e.history.report import Row
from e2e.judged_load import judged_load
from e2e.kubernetes import Namespace, Object
from e2e.mom_cluster import MomCluster
from e2e.release import Release
from e2e.report import Report
from e2e.waiting import wait_until

pytestmark = pytest.mark.timeout(600)
NODES = 3
HEALED_SECONDS_MAX = 120
ALL_KILLED_SECONDS_MAX = 180
COMPONENTS = ("node", "master", "gateway", "redis")
# What lies in Redis before it is killed, in messages of this size.
STORED_BYTES = 1 << 30
FILLING_BYTES = 512 << 10

Choose = Callable[[MomCluster], Object]
Break = Callable[[MomCluster], None]


@pytest.fixture(scope="module")
def broken_mom(module_namespace: Namespace, release: Release) -> MomCluster:
    """A MomCluster whose parts the tests break; each leaves it healed."""
    made = MomCluster(module_namespace)
    made.apply({"nodes": {"replicas": NODES}})
    made.wait_ready()
    return made


def _plan() -> Plan:
    """A load on a topic and a queue of its own: the record of another one does not know of it."""
    run = uuid4().hex[:8]
    return Plan(
        topic=f"log-{run}",
        queue=f"queue-{run}",
        sends_per_s=10,
        lease_s=10,
        wait_s=1,
        deadline_s=30,
        drain_s=90,
    )


# Whom it meets.


def _first(component: str) -> Choose:
    return lambda mom: mom.pods(component)[0]


def _leading_master(mom: MomCluster) -> Object:
    return wait_until("a master leads", lambda: _leading(mom))


def _leading(mom: MomCluster) -> Object | None:
    for pod in mom.pods("master"):
        name = pod["metadata"]["name"]
        path = f"/api/v1/namespaces/{mom.namespace.name}/pods/{name}:7170/proxy/readyz"
        if mom.kubectl("get", "--raw", path, check=False).strip() == "leads":
            return pod
    return None


# How.


def _killed(choose: Choose) -> Break:
    """SIGKILL its process."""

    def kill(mom: MomCluster) -> None:
        pod = choose(mom)
        if not processes.processes_of(pod):
            pytest.skip("the processes of pods are not seen from here")
        processes.kill(pod)
        wait_until(f"another process runs instead of {_starts(pod)}", lambda: _is_new(mom, pod))

    return kill


def _deleted(choose: Choose) -> Break:
    """Delete its pod by force."""

    def delete(mom: MomCluster) -> None:
        pod = choose(mom)
        _delete_by_force(mom, pod)
        wait_until(f"another pod runs instead of {_starts(pod)}", lambda: _is_new(mom, pod))

    return delete


def _delete_by_force(mom: MomCluster, *pods: Object) -> None:
    names = [pod["metadata"]["name"] for pod in pods]
    mom.kubectl("delete", "pod", "--grace-period=0", "--force", "--wait=false", *names)


def _starts(pod: Object) -> tuple[str, int]:
    """What changes when a pod, or its container, starts anew."""
    started = sum(one["restartCount"] for one in pod["status"].get("containerStatuses", ()))
    return pod["metadata"]["uid"], started


def _is_new(mom: MomCluster, old: Object) -> bool:
    component = old["metadata"]["labels"]["app.kubernetes.io/component"]
    pods = mom.pods(component)
    started = {_starts(pod) for pod in pods}
    return (
        _starts(old) not in started
        and len(pods) == _wanted(mom, component)
        and all(_is_ready(pod) for pod in pods)
    )


def _wanted(mom: MomCluster, component: str) -> int:
    workloads = mom.objects("statefulsets,deployments")
    name = f"{mom.name}-{component}"
    return next(
        int(one["spec"]["replicas"]) for one in workloads if one["metadata"]["name"] == name
    )


def _is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _healed(mom: MomCluster, do: Break) -> float:
    """Break it, and wait until all of it runs and says so; how many seconds that took."""
    began = time.monotonic()
    do(mom)
    mom.wait_ready(HEALED_SECONDS_MAX)
    return time.monotonic() - began


FAULTS: dict[str, dict[str, Break]] = {
    "node": {
        "a node's process is killed": _killed(_first("node")),
        "a node's pod is deleted by force": _deleted(_first("node")),
    },
    "master": {
        "the leading master's process is killed": _killed(_leading_master),
        "the leading master's pod is deleted by force": _deleted(_leading_master),
    },
    "gateway": {
        "a gateway's process is killed": _killed(_first("gateway")),
        "a gateway's pod is deleted by force": _deleted(_first("gateway")),
    },
    "redis": {
        "Redis's process is killed": _killed(_first("redis")),
        "Redis's pod is deleted by force": _deleted(_first("redis")),
    },
}


@pytest.mark.parametrize("part", FAULTS)
async def test_a_part_is_killed(
    broken_mom: MomCluster, report: Report, tmp_path: Path, part: str
) -> None:
    async with judged_load(broken_mom, tmp_path, _plan()) as judged:
        for name, do in FAULTS[part].items():
            async with judged.load.disruption(name):
                healed_s = await asyncio.to_thread(_healed, broken_mom, do)
            report.figure(f"{name} → Ready again", healed_s, "s")
    report.disruptions(judged.rows)
    if part in ("node", "master"):
        _sdk_felt_no_error(judged.rows)


def _sdk_felt_no_error(rows: list[Row]) -> None:
    for row in rows:
        assert not {kind: count for kind, count in row.failed.items() if "sdk" in kind and count}, (
            row
        )


# The operator.


def _leading_operator(release: Release) -> str:
    lease = release.cluster.get("lease", release.deployment, "-n", release.namespace)
    return str(lease["spec"].get("holderIdentity") or "")


def _kill_leading_operator(release: Release) -> float:
    """Delete the leader's pod by force; after how many seconds another one leads."""
    leader = _leading_operator(release)
    words = ("delete", "pod", "-n", release.namespace, "--grace-period=0", "--force", leader)
    release.cluster.kubectl(*words)
    began = time.monotonic()
    wait_until("another operator leads", lambda: _leading_operator(release) not in ("", leader))
    return time.monotonic() - began


def _scaled(mom: MomCluster, release: Release, replicas: int, operation: str) -> float:
    """Scale, and kill the operator's leader while that is under way."""
    mom.kubectl("scale", "momcluster", mom.name, f"--replicas={replicas}")
    wait_until(f"{operation} is under way", lambda: _operation(mom) == operation)
    took_over_s = _kill_leading_operator(release)
    mom.wait_ready(HEALED_SECONDS_MAX)
    assert len(mom.pods("node")) == replicas
    return took_over_s


def _operation(mom: MomCluster) -> str:
    return str((mom.status().get("operation") or {}).get("type", ""))


async def test_the_other_operator_finishes_what_a_killed_one_began(
    broken_mom: MomCluster, release: Release, report: Report, tmp_path: Path
) -> None:
    async with judged_load(broken_mom, tmp_path, _plan()) as judged:
        for replicas, operation in ((NODES + 1, "ScaleUp"), (NODES, "ScaleDown")):
            async with judged.load.disruption(f"the leading operator is killed during {operation}"):
                seconds = await asyncio.to_thread(_scaled, broken_mom, release, replicas, operation)
            report.figure("the leading operator is killed → another one leads", seconds, "s")
    report.disruptions(judged.rows)
    for row in judged.rows:
        assert not sum(row.failed.values()), row


# Machines.


def _machine(pod: Object) -> str:
    return str(pod["spec"]["nodeName"])


def _on(mom: MomCluster, machine: str) -> list[Object]:
    return [pod for part in COMPONENTS for pod in mom.pods(part) if _machine(pod) == machine]


async def test_a_machine_dies_and_returns(
    broken_mom: MomCluster, report: Report, tmp_path: Path
) -> None:
    mom, kubernetes = broken_mom, broken_mom.namespace.cluster
    if not kubernetes.can_stop_nodes:
        pytest.skip("the machines of this cluster can't be stopped")
    store = _machine(mom.pods("redis")[0])
    victims = {_machine(pod) for pod in mom.pods("node")} - {store}
    victim = sorted(victims)[0]
    lost = _on(mom, victim)
    print("on the machine:", [pod["metadata"]["name"] for pod in lost])

    def stop() -> float:
        began = time.monotonic()
        kubernetes.stop_node(victim)
        wait_until(
            "all parts run elsewhere",
            lambda: not _on(mom, victim) and mom.is_ready(),
            HEALED_SECONDS_MAX,
        )
        return time.monotonic() - began

    def start() -> None:
        kubernetes.start_node(victim)
        mom.wait_ready(HEALED_SECONDS_MAX)

    async with judged_load(mom, tmp_path, _plan()) as judged:
        try:
            async with judged.load.disruption("a machine without Redis falls silent"):
                healed_s = await asyncio.to_thread(stop)
        finally:
            async with judged.load.disruption("the machine returns"):
                await asyncio.to_thread(start)
    report.figure("a machine without Redis dies → Ready again elsewhere", healed_s, "s")
    report.disruptions(judged.rows)


async def test_the_machine_of_redis_dies_and_returns(
    broken_mom: MomCluster, report: Report, tmp_path: Path
) -> None:
    """Redis is not started elsewhere while its machine may still write: it comes back with it."""
    mom, kubernetes = broken_mom, broken_mom.namespace.cluster
    if not kubernetes.can_stop_nodes:
        pytest.skip("the machines of this cluster can't be stopped")
    store = _machine(mom.pods("redis")[0])

    def power_cycle() -> None:
        kubernetes.stop_node(store)
        try:
            mom.wait_says("Ready", "RedisNotReady", HEALED_SECONDS_MAX)
        finally:
            kubernetes.start_node(store)
        mom.wait_ready(HEALED_SECONDS_MAX)

    plan = dataclasses.replace(_plan(), deadline_s=120)
    async with (
        judged_load(mom, tmp_path, plan) as judged,
        judged.load.disruption("Redis's machine dies and returns"),
    ):
        await asyncio.to_thread(power_cycle)
    report.disruptions(judged.rows)


# All at once.


async def test_everything_is_killed_at_once(
    broken_mom: MomCluster, report: Report, tmp_path: Path
) -> None:
    def kill_all(mom: MomCluster) -> None:
        pods = [pod for part in COMPONENTS for pod in mom.pods(part)]
        _delete_by_force(mom, *pods)
        for pod in pods:
            wait_until(
                f"another pod runs instead of {_starts(pod)}",
                lambda pod=pod: _is_new(mom, pod),
                ALL_KILLED_SECONDS_MAX,
            )

    async with (
        judged_load(broken_mom, tmp_path, _plan()) as judged,
        judged.load.disruption("all pods, Redis too, are deleted by force at once"),
    ):
        healed_s = await asyncio.to_thread(_healed, broken_mom, kill_all)
    report.figure("all pods deleted by force at once → Ready again", healed_s, "s", "≤ 60 s")
    report.disruptions(judged.rows)
    assert healed_s < ALL_KILLED_SECONDS_MAX


# Much to load again.


async def test_redis_is_killed_with_a_gibibyte_stored(
    namespace: Namespace, release: Release, report: Report, tmp_path: Path
) -> None:
    mom = MomCluster(namespace)
    resources = {"requests": {"memory": "64Mi"}, "limits": {"memory": "3Gi"}}
    mom.apply({"redis": {"managed": {"resources": resources, "storage": {"size": "4Gi"}}}})
    mom.wait_ready()
    await _fill(mom)
    says_s = 0.0

    def kill() -> None:
        nonlocal says_s
        pod = mom.pods("redis")[0]
        if not processes.processes_of(pod):
            pytest.skip("the processes of pods are not seen from here")
        processes.kill(pod)
        began = time.monotonic()
        print(mom.wait_says("Ready", "Redis"))
        says_s = time.monotonic() - began
        mom.wait_ready(HEALED_SECONDS_MAX)

    async with (
        judged_load(mom, tmp_path, _plan()) as judged,
        judged.load.disruption("Redis is killed with 1 GiB stored"),
    ):
        await asyncio.to_thread(kill)
    report.disruptions(judged.rows)
    (row,) = judged.rows
    report.figure("Redis killed with 1 GiB stored → sends go on", row.longest_gap_s, "s", "≤ 15 s")
    report.figure("Redis killed → status names it", says_s, "s", "≤ 5 s")
    assert row.longest_gap_s < 60
    assert says_s < 20


async def _fill(mom: MomCluster) -> None:
    """Store a GiB that does not shrink."""
    async with mom_client.connect(mom.url, token=mom.token) as client:
        await client.create_topic("filling", partitions=4, retention_bytes=STORED_BYTES // 3)
        room = asyncio.Semaphore(16)

        async def send() -> None:
            async with room:
                await client.publish("filling", os.urandom(FILLING_BYTES))

        async with asyncio.TaskGroup() as sends:
            for _ in range(STORED_BYTES // FILLING_BYTES):
                sends.create_task(send())
