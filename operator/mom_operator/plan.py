"""From what is wanted and what stands to what is to be done next.

A plan is made anew each time from the objects alone, so an operator that was restarted in the
middle carries on. The rules, in their order:

1. A node pod that is stuck on a dead machine is deleted by force: epochs make a second copy
   harmless. Redis is never forced.
2. Fewer nodes: those that go are drained, and the StatefulSet shrinks only over nodes that the
   master reports empty.
3. Pods of an old template are replaced: those that serve nobody at once; the others within
   ``maxUnavailable``: drain, delete, wait until it is ready, registered and has its partitions.
4. Masters, then gateways, whose Deployments replace their own pods.

Nothing here is done by time alone, except what Kubernetes itself leaves hanging.
"""

from __future__ import annotations

from typing import Final

import msgspec

from mom_operator.names import NODE, REDIS, Names
from mom_operator.observed import ACTIVE, DRAINING, LOST, Mom, MomNode, Observed, Pod
from mom_operator.spec import Cluster, ScaleDownPolicy

# A pod that outlived its grace period by this much, on a machine that is gone, is deleted by force.
FORCE_AFTER_S: Final = 5
# While something is under way and no event may tell of its end: the master's counts have no watch.
RECHECK_MS: Final = 300

# While a pod leaves: whether its machine ends it at all.
LEAVING_MS: Final = 1_000

SCALE_UP: Final = "ScaleUp"
SCALE_DOWN: Final = "ScaleDown"
ROLLING_UPGRADE: Final = "RollingUpgrade"


class SetNodeState(msgspec.Struct, frozen=True, tag=True):
    """Tell the master what a node is to be."""

    node_id: str
    state: str


class DeletePod(msgspec.Struct, frozen=True, tag=True):
    """Have a pod replaced by its controller."""

    name: str
    uid: str
    why: str
    force: bool = False
    """Without waiting for its machine, which is gone."""


Step = SetNodeState | DeletePod


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """What is under way with the nodes, for a person."""

    type: str
    done: int
    total: int
    blocked_by: str = ""
    """Empty: it goes on by itself."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do next."""

    steps: tuple[Step, ...] = ()
    operation: Operation | None = None
    hold_master: bool = False
    """The masters' Deployment keeps its template for now."""
    hold_gateway: bool = False
    recheck_ms: int | None = None
    """Look again after this time, whatever happens."""


def node_replicas(cluster: Cluster, observed: Observed) -> int:
    """How many node pods to ask for now: more than the spec while nodes are being drained."""
    wanted = cluster.spec.nodes.replicas
    if observed.node is None or observed.node.wanted <= wanted:
        return wanted
    if cluster.spec.scale_down.policy is ScaleDownPolicy.REFUSE or observed.mom is None:
        return observed.node.wanted
    names = Names(cluster.name, cluster.namespace)
    replicas = observed.node.wanted
    while replicas > wanted and _is_empty(names.node_pod(replicas - 1), observed.mom):
        replicas -= 1
    return replicas


def _is_empty(node_id: str, mom: Mom) -> bool:
    """Whether a node may go: it has nothing, and will get nothing."""
    node = mom.nodes.get(node_id)
    return node is None or (node.partitions == 0 and node.state in (DRAINING, LOST))


def make_plan(cluster: Cluster, observed: Observed) -> Plan:
    """The next steps, after the children were applied."""
    steps: list[Step] = list(_forced(observed))
    steps += _redis_replaced(observed)
    leaving, scale = _scale_down(cluster, observed)
    steps += leaving
    rolling, roll = _roll(cluster, observed)
    steps += rolling
    growing = _scale_up(cluster, observed)
    hold_master, hold_gateway = _holds(observed, rolling=roll is not None)
    return Plan(
        steps=tuple(steps),
        operation=scale or roll or growing,
        hold_master=hold_master,
        hold_gateway=hold_gateway,
        recheck_ms=_recheck_ms(observed, busy=bool(steps or scale or roll or growing)),
    )


def _recheck_ms(observed: Observed, *, busy: bool) -> int | None:
    if busy:
        return RECHECK_MS
    return LEAVING_MS if any(pod.deleting for pod in observed.of(NODE)) else None


def _forced(observed: Observed) -> list[Step]:
    return [
        DeletePod(pod.name, pod.uid, f"its machine {pod.machine} is gone", force=True)
        for pod in observed.of(NODE)
        if pod.overdue_s is not None
        and pod.overdue_s >= FORCE_AFTER_S
        and pod.machine in observed.machines_gone
    ]


def _redis_replaced(observed: Observed) -> list[Step]:
    workload = observed.redis
    if workload is None or not workload.current:
        return []
    return [
        DeletePod(pod.name, pod.uid, "its template changed")
        for pod in observed.of(REDIS)
        if pod.revision != workload.revision and not pod.deleting
    ]


def _holds(observed: Observed, *, rolling: bool) -> tuple[bool, bool]:
    """Whether masters and gateways wait for their turn. What serves nobody need not wait."""
    node, master, gateway = observed.node, observed.master, observed.gateway
    nodes_pending = rolling or (node is not None and not node.current)
    master_serves = observed.mom is not None and master is not None
    gateway_serves = gateway is not None and gateway.ready > 0
    master_pending = master is not None and not master.complete
    return (
        nodes_pending and master_serves,
        (nodes_pending or master_pending) and gateway_serves,
    )


# Fewer and more nodes.


def _scale_down(cluster: Cluster, observed: Observed) -> tuple[list[Step], Operation | None]:
    wanted = cluster.spec.nodes.replicas
    if observed.node is None or observed.node.wanted <= wanted:
        return [], None
    names = Names(cluster.name, cluster.namespace)
    going = [names.node_pod(number) for number in range(wanted, observed.node.wanted)]
    if cluster.spec.scale_down.policy is ScaleDownPolicy.REFUSE:
        why = f"spec.scaleDown.policy is Refuse, so {len(going)} nodes above {wanted} are kept"
        return [], Operation(type=SCALE_DOWN, done=0, total=len(going), blocked_by=why)
    if observed.mom is None:
        why = f"whether the nodes are empty can't be seen: {observed.mom_error}"
        return [], Operation(type=SCALE_DOWN, done=0, total=len(going), blocked_by=why)
    known = [observed.mom.nodes[one] for one in going if one in observed.mom.nodes]
    steps: list[Step] = [
        SetNodeState(node.node_id, DRAINING) for node in known if node.state not in (DRAINING, LOST)
    ]
    full = [node for node in known if node.partitions]
    return steps, Operation(
        type=SCALE_DOWN,
        done=len(going) - len(full),
        total=len(going),
        blocked_by=_why_full(full, going, observed.mom),
    )


def _why_full(full: list[MomNode], going: list[str], mom: Mom) -> str:
    """What keeps partitions on nodes that are to go; empty when they are just being moved."""
    others = [
        node for node in mom.nodes.values() if node.state == ACTIVE and node.node_id not in going
    ]
    if not full or others:
        return ""
    return f"{full[0].node_id} has {full[0].partitions} partitions, and no other node is active"


def _scale_up(cluster: Cluster, observed: Observed) -> Operation | None:
    """Nodes that have never registered are new; others that don't serve are ill, not new."""
    if observed.mom is None or observed.node is None:
        return None
    names = Names(cluster.name, cluster.namespace)
    wanted = cluster.spec.nodes.replicas
    new = [at for at in range(wanted) if names.node_pod(at) not in observed.mom.nodes]
    if not new:
        return None
    return Operation(
        type=SCALE_UP, done=wanted - len(new), total=wanted, blocked_by=_first_trouble(observed)
    )


def _first_trouble(observed: Observed) -> str:
    for pod in observed.of(NODE):
        if pod.trouble is not None and not pod.deleting:
            return f"{pod.name} can't run: {pod.trouble.reason}: {pod.trouble.message}"
    return ""


# Pods of an old template.


def _staying(cluster: Cluster, observed: Observed) -> dict[int, Pod]:
    """The pods that the spec asks for, by ordinal."""
    names = Names(cluster.name, cluster.namespace)
    found = {}
    for pod in observed.of(NODE):
        ordinal = names.node_ordinal(pod.name)
        if ordinal is not None and ordinal < cluster.spec.nodes.replicas:
            found[ordinal] = pod
    return found


def _registered(pod: Pod, observed: Observed) -> MomNode | None:
    return observed.mom.nodes.get(pod.name) if observed.mom is not None else None


def _serves(pod: Pod, observed: Observed) -> bool:
    """Ready for Kubernetes, and registered at the master in a state that we did not bring about."""
    node = _registered(pod, observed)
    if node is None or not pod.ready or pod.deleting or node.state == LOST:
        return False
    return node.state != DRAINING or not node.held


def _settled(pod: Pod, observed: Observed) -> bool:
    """Serves, and has its share of the partitions unless a person keeps them off it."""
    node = _registered(pod, observed)
    if node is None or observed.mom is None or not _serves(pod, observed):
        return False
    return node.state != ACTIVE or node.partitions >= _share(observed.mom)


def _share(mom: Mom) -> int:
    active = [node for node in mom.nodes.values() if node.state == ACTIVE]
    held = sum(node.partitions for node in active)
    return held // len(active) if active else 0


def _roll(cluster: Cluster, observed: Observed) -> tuple[list[Step], Operation | None]:
    workload = observed.node
    if workload is None or not workload.current:
        return [], None
    pods = _staying(cluster, observed)
    old = {at: pod for at, pod in pods.items() if pod.revision != workload.revision}
    steps = _reactivated(pods, old, observed)
    # The last pod of the old template is gone before its successor is there and serves.
    if not old and not steps and not _awaited(cluster, observed):
        return [], None
    renewed = [pod for at, pod in pods.items() if at not in old]
    unsettled = [pod for pod in renewed if not _settled(pod, observed)]
    broken = {at: pod for at, pod in old.items() if _is_broken(pod, observed)}
    sound = {at: pod for at, pod in old.items() if at not in broken}
    steps += [_replaced(pod, "it can't run") for _, pod in sorted(broken.items())]
    missing = cluster.spec.nodes.replicas - len(pods)
    away = missing + len(unsettled) + len(broken)
    if observed.mom is not None:
        steps += _drained(sound, cluster.spec.rollout.max_unavailable - away, observed)
    return steps, Operation(
        type=ROLLING_UPGRADE,
        done=len(renewed) - len(unsettled),
        total=cluster.spec.nodes.replicas,
        blocked_by=_why_no_roll(sound, unsettled, observed),
    )


def _why_no_roll(sound: dict[int, Pod], unsettled: list[Pod], observed: Observed) -> str:
    for pod in unsettled:
        if pod.trouble is not None:
            return f"{pod.name} can't run: {pod.trouble.reason}: {pod.trouble.message}"
    if sound and observed.mom is None:
        return f"nodes can't be drained: {observed.mom_error}"
    return ""


def _reactivated(pods: dict[int, Pod], old: dict[int, Pod], observed: Observed) -> list[Step]:
    """Nodes that we drained and that are to stay get partitions again once they are renewed."""
    steps: list[Step] = []
    for at, pod in sorted(pods.items()):
        node = _registered(pod, observed)
        drained_by_us = node is not None and node.held and node.state == DRAINING
        if drained_by_us and at not in old and pod.ready and not pod.deleting:
            steps.append(SetNodeState(pod.name, ACTIVE))
    return steps


def _awaited(cluster: Cluster, observed: Observed) -> bool:
    """Whether a node that we drained to renew it has no partitions again yet."""
    names = Names(cluster.name, cluster.namespace)
    nodes = observed.mom.nodes if observed.mom is not None else {}
    staying = (nodes.get(names.node_pod(at)) for at in range(cluster.spec.nodes.replicas))
    return any(
        node is not None and node.held and node.state in (DRAINING, LOST) for node in staying
    )


def _is_broken(pod: Pod, observed: Observed) -> bool:
    """Can't run and serves nobody, so nothing is lost by its replacement."""
    if pod.ready or pod.deleting or _holds_partitions(pod, observed):
        return False
    return pod.trouble is not None or observed.mom is not None


def _holds_partitions(pod: Pod, observed: Observed) -> bool:
    node = _registered(pod, observed)
    return node is not None and node.state != LOST and node.partitions > 0


def _replaced(pod: Pod, why: str) -> Step:
    return DeletePod(pod.name, pod.uid, why)


def _drained(sound: dict[int, Pod], free: int, observed: Observed) -> list[Step]:
    """Go on with old pods that are being taken out of service, and begin with ``free`` more.

    Those that don't serve anyway come first, and are away whether they are chosen or not.
    """
    begun = [at for at, pod in sound.items() if pod.deleting or _is_held(pod, observed)]
    idle = [at for at in sound if at not in begun and not _serves(sound[at], observed)]
    serving = [at for at in sound if at not in begun and at not in idle]
    free -= len(begun)
    chosen = [*begun, *_last(idle, free), *_last(serving, free - len(idle))]
    return [step for at in chosen for step in _one_drained(sound[at], observed)]


def _last(ordinals: list[int], count: int) -> list[int]:
    """The highest ones, as a StatefulSet would."""
    return sorted(ordinals, reverse=True)[: max(0, count)]


def _is_held(pod: Pod, observed: Observed) -> bool:
    node = _registered(pod, observed)
    return node is not None and node.held and node.state == DRAINING


def _one_drained(pod: Pod, observed: Observed) -> list[Step]:
    node = _registered(pod, observed)
    if pod.deleting:
        return []
    if node is None or node.state == LOST or _is_alone(node, observed):
        return [_replaced(pod, "its template changed")]
    if node.state != DRAINING:
        return [SetNodeState(pod.name, DRAINING)]
    return [] if node.partitions else [_replaced(pod, "its template changed")]


def _is_alone(node: MomNode, observed: Observed) -> bool:
    """No other node could take its partitions, so draining would never end."""
    assert observed.mom is not None
    return not any(
        one.state == ACTIVE and one.node_id != node.node_id for one in observed.mom.nodes.values()
    )
