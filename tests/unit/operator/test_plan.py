"""What is done next with nodes, masters and gateways, decided from what stands.

The simulation at the end carries plans out on a model of Kubernetes and of the master, in any
order of events, and asks what must hold at each step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mom_operator.observed import (
    ACTIVE,
    CORDONED,
    DRAINING,
    LOST,
    Mom,
    MomNode,
    Observed,
    Pod,
    Trouble,
    Workload,
)
from mom_operator.plan import (
    ROLLING_UPGRADE,
    SCALE_DOWN,
    SCALE_UP,
    DeletePod,
    SetNodeState,
    make_plan,
    node_replicas,
)
from mom_operator.spec import Cluster, parse_cluster

NEW, OLD = "new", "old"
BAD_IMAGE = Trouble("ImagePullBackOff", "no image mom:9")


def a_cluster(replicas: int = 3, **spec: Any) -> Cluster:
    return parse_cluster(
        {
            "metadata": {"name": "c", "namespace": "ns", "uid": "u", "generation": 1},
            "spec": {"version": "1", "redis": {"managed": {}}, "nodes": {"replicas": replicas}}
            | spec,
        }
    )


def a_pod(number: int, **fields: Any) -> Pod:
    known = {
        "name": f"c-node-{number}",
        "uid": f"uid-{number}",
        "component": "node",
        "revision": NEW,
        "ready": True,
        "deleting": False,
    }
    return Pod(**(known | fields))


def a_workload(wanted: int, **fields: Any) -> Workload:
    known = {"name": "c", "wanted": wanted, "ready": wanted, "complete": True, "current": True}
    return Workload(**(known | {"revision": NEW} | fields))


def a_node(number: int, state: str = ACTIVE, partitions: int = 4, *, held: bool = False) -> MomNode:
    return MomNode(node_id=f"c-node-{number}", state=state, partitions=partitions, held=held)


def observed(
    pods: list[Pod], nodes: list[MomNode] | None, *, wanted: int = 3, **fields: Any
) -> Observed:
    mom = None if nodes is None else Mom(nodes={one.node_id: one for one in nodes})
    known: dict[str, Any] = {
        "pods": tuple(pods),
        "mom": mom,
        "mom_error": "" if mom else "no master is ready",
        "node": a_workload(wanted),
        "master": a_workload(1),
        "gateway": a_workload(1),
        "redis": a_workload(1),
    }
    return Observed(**(known | fields))


THREE = [a_node(0), a_node(1), a_node(2)]


def test_a_cluster_in_order_needs_nothing() -> None:
    plan = make_plan(a_cluster(), observed([a_pod(n) for n in range(3)], THREE))
    assert plan.steps == ()
    assert plan.operation is None
    assert (plan.hold_master, plan.hold_gateway) == (False, False)
    assert plan.recheck_ms is None


# Fewer nodes.


def test_nodes_are_drained_before_the_stateful_set_shrinks() -> None:
    pods = [a_pod(number) for number in range(5)]
    nodes = [*THREE, a_node(3), a_node(4)]
    seen = observed(pods, nodes, wanted=5)
    assert node_replicas(a_cluster(), seen) == 5
    plan = make_plan(a_cluster(), seen)
    assert plan.steps == (
        SetNodeState("c-node-3", DRAINING),
        SetNodeState("c-node-4", DRAINING),
    )
    assert plan.operation is not None
    assert (plan.operation.type, plan.operation.done, plan.operation.total) == (SCALE_DOWN, 0, 2)


def test_the_stateful_set_shrinks_over_empty_nodes_only() -> None:
    nodes = [*THREE, a_node(3, DRAINING, 1, held=True), a_node(4, DRAINING, 0, held=True)]
    seen = observed([a_pod(number) for number in range(5)], nodes, wanted=5)
    assert node_replicas(a_cluster(), seen) == 4
    nodes = [*THREE, a_node(3, DRAINING, 0, held=True), a_node(4, DRAINING, 1, held=True)]
    seen = observed([a_pod(number) for number in range(5)], nodes, wanted=5)
    assert node_replicas(a_cluster(), seen) == 5


def test_an_empty_node_that_is_active_may_still_get_something() -> None:
    nodes = [*THREE, a_node(3, ACTIVE, 0)]
    seen = observed([a_pod(number) for number in range(4)], nodes, wanted=4)
    assert node_replicas(a_cluster(), seen) == 4


def test_without_a_master_nothing_shrinks_and_the_reason_is_told() -> None:
    seen = observed([a_pod(number) for number in range(4)], None, wanted=4)
    assert node_replicas(a_cluster(), seen) == 4
    operation = make_plan(a_cluster(), seen).operation
    assert operation is not None
    assert "no master is ready" in operation.blocked_by


def test_a_drain_without_another_active_node_says_what_blocks_it() -> None:
    nodes = [a_node(0, LOST, 0), a_node(1, DRAINING, 3, held=True)]
    seen = observed([a_pod(0), a_pod(1)], nodes, wanted=2)
    operation = make_plan(a_cluster(1), seen).operation
    assert operation is not None
    assert operation.blocked_by == "c-node-1 has 3 partitions, and no other node is active"


def test_refuse_keeps_the_nodes() -> None:
    cluster = a_cluster(scaleDown={"policy": "Refuse"})
    seen = observed([a_pod(number) for number in range(5)], THREE, wanted=5)
    assert node_replicas(cluster, seen) == 5
    plan = make_plan(cluster, seen)
    assert plan.steps == ()
    assert plan.operation is not None
    assert "Refuse" in plan.operation.blocked_by


def test_nodes_that_are_to_stay_after_all_are_made_active_again() -> None:
    nodes = [*THREE, a_node(3, DRAINING, 0, held=True)]
    seen = observed([a_pod(number) for number in range(4)], nodes, wanted=4)
    assert make_plan(a_cluster(4), seen).steps == (SetNodeState("c-node-3", ACTIVE),)


def test_what_a_person_drained_stays_drained() -> None:
    nodes = [a_node(0), a_node(1), a_node(2, DRAINING, 0)]
    assert make_plan(a_cluster(), observed([a_pod(n) for n in range(3)], nodes)).steps == ()


def test_new_nodes_are_awaited() -> None:
    seen = observed([a_pod(n) for n in range(3)], [a_node(0), a_node(1)])
    operation = make_plan(a_cluster(), seen).operation
    assert operation is not None
    assert (operation.type, operation.done, operation.total) == (SCALE_UP, 2, 3)


# New templates.


def _rolling(pods: list[Pod], nodes: list[MomNode] | None = None, **fields: Any) -> Observed:
    return observed(pods, THREE if nodes is None else nodes, **fields)


def test_one_node_at_a_time_is_drained_then_deleted() -> None:
    old = [a_pod(n, revision=OLD) for n in range(3)]
    plan = make_plan(a_cluster(), _rolling(old))
    assert plan.steps == (SetNodeState("c-node-2", DRAINING),)
    assert plan.operation is not None
    assert plan.operation.type == ROLLING_UPGRADE
    assert (plan.hold_master, plan.hold_gateway) == (True, True)
    full = [a_node(0), a_node(1), a_node(2, DRAINING, 2, held=True)]
    assert make_plan(a_cluster(), _rolling(old, full)).steps == ()
    empty = [a_node(0), a_node(1), a_node(2, DRAINING, 0, held=True)]
    assert make_plan(a_cluster(), _rolling(old, empty)).steps == (
        DeletePod("c-node-2", "uid-2", "its template changed"),
    )


def test_the_next_one_waits_until_the_last_has_its_partitions() -> None:
    pods = [a_pod(0, revision=OLD), a_pod(1, revision=OLD), a_pod(2)]
    for state in (
        a_node(2, LOST, 0),
        a_node(2, ACTIVE, 0),
    ):
        assert make_plan(a_cluster(), _rolling(pods, [a_node(0), a_node(1), state])).steps == ()
    renewed = [a_node(0), a_node(1), a_node(2, DRAINING, 0, held=True)]
    assert make_plan(a_cluster(), _rolling(pods, renewed)).steps == (
        SetNodeState("c-node-2", ACTIVE),
    )
    assert make_plan(a_cluster(), _rolling(pods)).steps == (SetNodeState("c-node-1", DRAINING),)


def test_the_roll_is_over_only_when_the_last_node_may_have_partitions_again() -> None:
    """The master may be away at that moment, being replaced itself."""
    pods = [a_pod(n) for n in range(3)]
    plan = make_plan(
        a_cluster(), _rolling(pods, [a_node(0), a_node(1), a_node(2, DRAINING, 0, held=True)])
    )
    assert plan.steps == (SetNodeState("c-node-2", ACTIVE),)
    assert plan.operation is not None
    operation = plan.operation
    assert (operation.type, operation.done, operation.total) == (ROLLING_UPGRADE, 2, 3)
    assert make_plan(a_cluster(), _rolling(pods)).operation is None


@pytest.mark.parametrize(
    "last",
    [[], [a_pod(0, ready=False)], [a_pod(0)]],
    ids=["it is gone", "it begins", "it has not registered"],
)
def test_masters_wait_until_the_last_node_is_back(last: list[Pod]) -> None:
    """It may be that no pod of the old template is left, and one of the new one is not there."""
    away = [a_node(0, LOST, 0, held=True), a_node(1), a_node(2)]
    plan = make_plan(a_cluster(), _rolling([*last, a_pod(1), a_pod(2)], away))
    assert plan.steps == ()
    assert plan.operation is not None
    operation = plan.operation
    assert (operation.type, operation.done, operation.total) == (ROLLING_UPGRADE, 2, 3)
    assert (plan.hold_master, plan.hold_gateway) == (True, True)


def test_a_node_that_nobody_drained_is_ill_and_not_renewed() -> None:
    away = [a_node(0, LOST, 0), a_node(1), a_node(2)]
    plan = make_plan(a_cluster(), _rolling([a_pod(1), a_pod(2)], away))
    assert plan.operation is None
    assert (plan.hold_master, plan.hold_gateway) == (False, False)


def test_a_missing_pod_counts() -> None:
    pods = [a_pod(0, revision=OLD), a_pod(1, revision=OLD)]
    assert make_plan(a_cluster(), _rolling(pods)).steps == ()


def test_broken_pods_are_replaced_at_once_and_all_of_them() -> None:
    pods = [a_pod(n, revision=OLD, ready=False, trouble=BAD_IMAGE) for n in range(3)]
    steps = make_plan(a_cluster(), _rolling(pods, [])).steps
    assert [step.name for step in steps if isinstance(step, DeletePod)] == [
        "c-node-0",
        "c-node-1",
        "c-node-2",
    ]
    steps = make_plan(a_cluster(), observed(pods, None)).steps
    assert len(steps) == 3


def test_a_broken_new_pod_stops_the_roll_and_is_named() -> None:
    pods = [
        a_pod(0, revision=OLD),
        a_pod(1, revision=OLD),
        a_pod(2, ready=False, trouble=BAD_IMAGE),
    ]
    plan = make_plan(a_cluster(), _rolling(pods, [a_node(0), a_node(1), a_node(2, LOST, 0)]))
    assert plan.steps == ()
    assert plan.operation is not None
    assert "c-node-2 can't run: ImagePullBackOff" in plan.operation.blocked_by


def test_a_single_node_is_restarted_without_a_drain() -> None:
    plan = make_plan(a_cluster(1), observed([a_pod(0, revision=OLD)], [a_node(0)], wanted=1))
    assert plan.steps == (DeletePod("c-node-0", "uid-0", "its template changed"),)


def test_without_a_master_sound_nodes_are_not_touched() -> None:
    plan = make_plan(a_cluster(), observed([a_pod(n, revision=OLD) for n in range(3)], None))
    assert plan.steps == ()
    assert plan.operation is not None
    assert "no master is ready" in plan.operation.blocked_by
    # Masters that serve nobody need not wait: their new template may be the cure.
    assert not plan.hold_master


def test_masters_then_gateways() -> None:
    pods = [a_pod(n) for n in range(3)]
    rolling = a_workload(2, complete=False)
    plan = make_plan(a_cluster(), observed(pods, THREE, master=rolling))
    assert (plan.hold_master, plan.hold_gateway) == (False, True)
    plan = make_plan(a_cluster(), observed(pods, THREE, node=a_workload(3, current=False)))
    assert (plan.hold_master, plan.hold_gateway) == (True, True)
    plan = make_plan(
        a_cluster(), observed(pods, THREE, master=rolling, gateway=a_workload(2, ready=0))
    )
    assert not plan.hold_gateway


def test_an_old_redis_is_replaced() -> None:
    redis = a_pod(0, revision=OLD, name="c-redis-0", component="redis")
    seen = observed([*(a_pod(n) for n in range(3)), redis], THREE)
    assert make_plan(a_cluster(), seen).steps == (
        DeletePod("c-redis-0", "uid-0", "its template changed"),
    )


# Dead machines.


def test_nodes_on_a_dead_machine_are_forced_but_never_redis() -> None:
    stuck = {"deleting": True, "ready": False, "overdue_s": 60.0, "machine": "m1"}
    redis = a_pod(0, name="c-redis-0", component="redis", **stuck)
    pods = [a_pod(0, **stuck), a_pod(1), a_pod(2), redis]
    seen = observed(pods, [a_node(0, LOST, 0), a_node(1), a_node(2)])
    assert make_plan(a_cluster(), seen).steps == ()
    dead = msgspec.structs.replace(seen, machines_gone=frozenset({"m1"}))
    assert make_plan(a_cluster(), dead).steps == (
        DeletePod("c-node-0", "uid-0", "its machine m1 is gone", force=True),
    )


# Simulation.


@dataclass
class World:
    """Kubernetes and MOM as far as plans know them."""

    replicas: int
    pods: dict[int, Pod] = field(default_factory=dict)
    nodes: dict[str, MomNode] = field(default_factory=dict)
    wanted: int = 0
    revision: str = OLD
    uid: int = 0
    partitions: int = 24

    def observed(self) -> Observed:
        return observed(
            list(self.pods.values()),
            list(self.nodes.values()),
            node=a_workload(self.wanted, revision=self.revision),
        )

    def controller(self) -> None:
        """The StatefulSet's controller: missing pods are made, those above are deleted."""
        for number in range(self.wanted):
            if number not in self.pods:
                self.uid += 1
                self.pods[number] = a_pod(
                    number, uid=f"uid-{self.uid}", revision=self.revision, ready=False
                )
        for number in [one for one in self.pods if one >= self.wanted]:
            self.removed(number)

    def removed(self, number: int) -> None:
        pod = self.pods.pop(number)
        node = self.nodes.get(pod.name)
        if node is not None:
            self.nodes[pod.name] = msgspec.structs.replace(node, state=LOST)
            self.place()

    def kubelet(self, number: int) -> None:
        """A pod becomes ready and registers."""
        pod = self.pods.get(number)
        if pod is None or pod.ready:
            return
        self.pods[number] = msgspec.structs.replace(pod, ready=True)
        before = self.nodes.get(pod.name)
        held = before is not None and before.held
        state = DRAINING if held else ACTIVE
        self.nodes[pod.name] = MomNode(node_id=pod.name, state=state, held=held)
        self.place()

    def place(self) -> None:
        active = [one for one in self.nodes.values() if one.state == ACTIVE]
        for node in self.nodes.values():
            share = self.partitions // len(active) if node in active else 0
            if not active and node.state == DRAINING:
                share = node.partitions
            self.nodes[node.node_id] = msgspec.structs.replace(node, partitions=share)

    def carry_out(self, step: SetNodeState | DeletePod, cluster: Cluster) -> None:
        if isinstance(step, SetNodeState):
            node = self.nodes[step.node_id]
            held = step.state == DRAINING
            self.nodes[step.node_id] = msgspec.structs.replace(node, state=step.state, held=held)
            self.place()
            return
        number = next(at for at, pod in self.pods.items() if pod.uid == step.uid)
        node = self.nodes.get(step.name)
        alone = not any(
            one.state == ACTIVE and one.node_id != step.name for one in self.nodes.values()
        )
        assert node is None or node.partitions == 0 or node.state == LOST or alone, (
            "a pod with partitions was deleted"
        )
        self.removed(number)


@given(
    st.integers(1, 5),
    st.lists(
        st.tuples(
            st.sampled_from(["scale", "upgrade", "kubelet", "controller", "operator"]),
            st.integers(1, 5),
        ),
        max_size=60,
    ),
)
@settings(max_examples=300, deadline=None)
def test_any_history_ends_in_order_and_never_loses_more_than_allowed(
    replicas: int, history: list[tuple[str, int]]
) -> None:
    world = World(replicas, wanted=replicas)
    settle = [(event, number) for _ in range(40) for event, number in _ROUND]
    for event, number in [*history, *settle]:
        _happens(world, event, number)
    assert set(world.pods) == set(range(world.replicas))
    assert all(pod.ready and pod.revision == world.revision for pod in world.pods.values())
    there = [world.nodes[f"c-node-{number}"] for number in range(world.replicas)]
    assert all(node.state == ACTIVE for node in there)
    assert sum(node.partitions for node in there) > 0


_ROUND = [("operator", 0), ("controller", 0), *(("kubelet", number) for number in range(6))]


def _happens(world: World, event: str, number: int) -> None:
    if event == "scale":
        world.replicas = number
    elif event == "upgrade":
        world.revision = f"revision-{number}"
    elif event == "controller":
        world.controller()
    elif event == "kubelet":
        world.kubelet(number)
    else:
        _operator(world)


def _operator(world: World) -> None:
    cluster = a_cluster(world.replicas)
    seen = world.observed()
    if world.wanted > world.replicas:
        for number in range(node_replicas(cluster, seen), world.wanted):
            node = world.nodes.get(f"c-node-{number}")
            assert node is None or node.partitions == 0
    world.wanted = node_replicas(cluster, seen)
    seen = world.observed()
    serving = _serving(world)
    for step in make_plan(cluster, seen).steps:
        world.carry_out(step, cluster)
    if len(world.pods) >= cluster.spec.nodes.replicas:
        assert serving - _serving(world) <= max(1, world.wanted - world.replicas + 1)


def _serving(world: World) -> int:
    return sum(
        1
        for number, pod in world.pods.items()
        if number < world.replicas
        and pod.ready
        and world.nodes[pod.name].state in (ACTIVE, CORDONED)
    )
