"""What a MomCluster's status says: from what was wanted, seen and planned to conditions and counts.

Four conditions, each with a stable reason and one sentence:

- **Ready**: everything is as asked for. False while anything is under way, so that tools which wait
  for a change (kstatus, Argo CD, Flux) wait for all of it.
- **Available**: clients can send and receive.
- **Progressing**: something is under way; the message tells what, and what blocks it.
- **Degraded**: something is wrong, and the message tells what.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from mom_operator import conditions
from mom_operator.conditions import READY, Condition, Status
from mom_operator.names import GATEWAY, MASTER, NODE, REDIS, Names
from mom_operator.observed import (
    ACTIVE,
    CORDONED,
    DRAINING,
    LOST,
    MomNode,
    Observed,
    Pod,
    Problem,
    Workload,
)
from mom_operator.plan import ROLLING_UPGRADE, SCALE_DOWN, SCALE_UP, Operation, Plan
from mom_operator.spec import Cluster, GatewayAuth

AVAILABLE: Final = "Available"
PROGRESSING: Final = "Progressing"
DEGRADED: Final = "Degraded"

# Reasons; programs rely on them.
CLUSTER_READY: Final = "ClusterReady"
AS_EXPECTED: Final = "AsExpected"
INSTALLING: Final = "Installing"
UPDATING: Final = "Updating"
PAUSED: Final = "Paused"
INVALID_SPEC: Final = "InvalidSpec"
REDIS_NOT_READY: Final = "RedisNotReady"
MASTER_NOT_READY: Final = "MasterNotReady"
NODES_NOT_READY: Final = "NodesNotReady"
GATEWAY_NOT_READY: Final = "GatewayNotReady"
PARTITIONS_WITHOUT_OWNER: Final = "PartitionsWithoutOwner"
TIMED_OUT: Final = "OperationTimedOut"

_PHASES: Final = {
    ACTIVE: "Active",
    CORDONED: "Cordoned",
    DRAINING: "Draining",
    LOST: "Lost",
}
_OPERATIONS: Final = {
    SCALE_UP: "nodes join",
    SCALE_DOWN: "nodes are drained and removed",
    ROLLING_UPGRADE: "nodes are restarted with the new template",
}


def cluster_status(
    cluster: Cluster, observed: Observed, plan: Plan, names: Names, now: datetime
) -> Status:
    """The whole status."""
    ready, wanted = len(_ready_nodes(observed)), cluster.spec.nodes.replicas
    judged = _judge(cluster, observed, plan, now)
    status: Status = {
        "observedGeneration": cluster.generation,
        "version": _version(cluster, observed, plan),
        "replicas": len([pod for pod in observed.of(NODE) if not pod.deleting]),
        "readyReplicas": ready,
        "nodesReady": f"{ready}/{wanted}",
        "selector": names.node_selector,
        "endpoints": _endpoints(cluster, names),
        "nodes": _nodes(cluster, observed, names),
        "conditions": conditions.shown(judged, cluster.status, cluster.generation, now),
    }
    if cluster.status.get("binding") or observed.mom is not None:
        status["binding"] = {"name": names.binding}
    if plan.operation is not None:
        status["operation"] = _operation(plan.operation)
    return status


def refused_status(before: Status, generation: int, problem: Problem, now: datetime) -> Status:
    """The status of a cluster whose spec can't be read: what ran before runs on."""
    judged = [
        Condition(READY, False, problem.reason, problem.message),
        Condition(PROGRESSING, False, problem.reason, problem.message),
        Condition(DEGRADED, True, problem.reason, problem.message),
    ]
    return _with_conditions(before, judged, generation, now)


def paused_status(before: Status, generation: int, now: datetime) -> Status:
    """The status of a cluster that is left alone: all else stays as it was last seen.

    Also the generation: a spec that was changed meanwhile is not observed, and nobody may take what
    runs for it.
    """
    text = "reconciling is paused by the annotation mom.dev/pause"
    judged = [Condition(PROGRESSING, False, PAUSED, text)]
    if before.get("observedGeneration") != generation:
        judged.append(Condition(READY, False, PAUSED, f"the spec waits: {text}"))
    status = _with_conditions(before, judged, generation, now)
    return status | {"observedGeneration": before.get("observedGeneration", 0)}


def _with_conditions(
    before: Status, judged: list[Condition], generation: int, now: datetime
) -> Status:
    replaced = {one.type for one in judged}
    kept = [one for one in before.get("conditions") or () if one["type"] not in replaced]
    shown = kept + conditions.shown(judged, before, generation, now)
    shown.sort(key=lambda one: str(one["type"]))
    return before | {"observedGeneration": generation, "conditions": shown}


# Conditions.


def _judge(cluster: Cluster, observed: Observed, plan: Plan, now: datetime) -> list[Condition]:
    wrong = list(_wrong(cluster, observed, plan, now))
    missing = list(_missing(cluster, observed))
    under_way = _under_way(plan)
    if under_way is None and missing and not _was_ready(cluster):
        installed = bool(cluster.status.get("binding"))
        under_way = Problem(UPDATING if installed else INSTALLING, missing[0].message)
    return [
        _available(observed, missing),
        _ready(cluster, observed, missing, wrong, under_way),
        _condition(PROGRESSING, under_way),
        _condition(DEGRADED, wrong[0] if wrong else None),
    ]


def _condition(kind: str, problem: Problem | None) -> Condition:
    if problem is None:
        return Condition(kind, False, AS_EXPECTED)
    return Condition(kind, True, problem.reason, problem.message)


def _ready(
    cluster: Cluster,
    observed: Observed,
    missing: list[Problem],
    wrong: list[Problem],
    under_way: Problem | None,
) -> Condition:
    not_ready = next(iter([*wrong, *missing]), None)
    if under_way is not None and not wrong:
        not_ready = under_way
    if not_ready is not None:
        return Condition(READY, False, not_ready.reason, not_ready.message)
    nodes = cluster.spec.nodes.replicas
    safe = observed.mom.durability if observed.mom is not None else ""
    text = f"{nodes} nodes serve" + (f", acknowledged is {safe}" if safe else "")
    if cluster.spec.gateway.auth is GatewayAuth.DISABLED:
        text += "; authentication is OFF: everyone who reaches the gateway may read and delete all"
    return Condition(READY, True, CLUSTER_READY, text)


def _available(observed: Observed, missing: list[Problem]) -> Condition:
    """Clients need Redis, a gateway, and an owner for every partition; no master."""
    for problem in missing:
        if problem.reason in (REDIS_NOT_READY, PARTITIONS_WITHOUT_OWNER):
            return Condition(AVAILABLE, False, problem.reason, problem.message)
    if not any(pod.ready and not pod.deleting for pod in observed.of(NODE)):
        return Condition(AVAILABLE, False, NODES_NOT_READY, "no node is ready")
    if observed.gateway is None or not observed.gateway.ready:
        return Condition(AVAILABLE, False, GATEWAY_NOT_READY, "no gateway is ready")
    return Condition(AVAILABLE, True, AS_EXPECTED, "clients can send and receive")


def _missing(cluster: Cluster, observed: Observed) -> Iterator[Problem]:
    """What is not there yet or any more, what others wait for first."""
    if cluster.spec.redis.managed is not None and not _whole(observed.redis):
        yield Problem(REDIS_NOT_READY, _why(observed, REDIS, "Redis is not ready"))
    if not _rolled_out(observed.master):
        text = "not all masters are ready"
        if observed.mom_error and observed.master is not None and not observed.master.ready:
            text = f"no master is ready: {observed.mom_error}"
        yield Problem(MASTER_NOT_READY, _why(observed, MASTER, text))
    elif observed.mom is None:
        yield Problem(MASTER_NOT_READY, f"no master answers: {observed.mom_error}")
    wanted = cluster.spec.nodes.replicas
    ready = _ready_nodes(observed)
    if len(ready) < wanted:
        yield Problem(
            NODES_NOT_READY, _why(observed, NODE, f"{len(ready)} of {wanted} nodes are ready")
        )
    if observed.mom is not None and observed.mom.partitions_without_owner:
        count = observed.mom.partitions_without_owner
        yield Problem(PARTITIONS_WITHOUT_OWNER, f"{count} partitions have no node that serves them")
    if not _rolled_out(observed.gateway):
        yield Problem(GATEWAY_NOT_READY, _why(observed, GATEWAY, "not all gateways are ready"))


def _whole(workload: Workload | None) -> bool:
    return workload is not None and workload.current and workload.ready >= workload.wanted


def _rolled_out(deployment: Workload | None) -> bool:
    """Also without pods of an old template, which would be ready, too."""
    return deployment is not None and deployment.complete


def _why(observed: Observed, component: str, text: str) -> str:
    """The text, and what Kubernetes says of the first pod that can't run."""
    for pod in observed.of(component):
        if pod.trouble is not None and not pod.ready:
            return f"{text}: {_trouble(pod)}"
    for pod in observed.of(component):
        if pod.ended and not pod.ready and not pod.deleting:
            return f"{text}: {pod.name} ended ({pod.ended}) and starts again"
    return text


def _trouble(pod: Pod) -> str:
    assert pod.trouble is not None
    said = f": {pod.trouble.message}" if pod.trouble.message else ""
    return f"{pod.name}: {pod.trouble.reason}{said}"


def _wrong(cluster: Cluster, observed: Observed, plan: Plan, now: datetime) -> Iterator[Problem]:
    """What a person should know of, the cause before its consequences."""
    yield from observed.problems
    for pod in observed.pods:
        if pod.trouble is not None and not pod.ready and not pod.deleting:
            yield Problem(pod.trouble.reason, _trouble(pod))
    if _was_ready(cluster):
        yield from _missing(cluster, observed)
    if observed.mom is not None:
        for node in observed.mom.nodes.values():
            if node.state == LOST and node.partitions:
                yield Problem(NODES_NOT_READY, f"node {node.node_id} is lost")
    operation = plan.operation
    if operation is not None and operation.blocked_by:
        yield Problem(f"{operation.type}Blocked", operation.blocked_by)
    if operation is not None and _is_late(cluster, operation, now):
        limit_s = cluster.spec.scale_down.timeout_seconds
        yield Problem(
            TIMED_OUT, f"{operation.type} takes longer than {limit_s} s: {_progress(operation)}"
        )


def _was_ready(cluster: Cluster) -> bool:
    """Whether this generation was ready before, so that what is missing now has failed.

    A roll-out by ourselves makes parts come and go, too: that is progress and no failure.
    """
    ready = conditions.find(cluster.status, READY)
    degraded = conditions.find(cluster.status, DEGRADED)
    current = cluster.status.get("observedGeneration") == cluster.generation
    failing = degraded.get("status") == "True" and ready.get("reason") == degraded.get("reason")
    return current and (ready.get("status") == "True" or failing)


def _is_late(cluster: Cluster, operation: Operation, now: datetime) -> bool:
    if operation.type != SCALE_DOWN:
        return False
    since = conditions.find(cluster.status, PROGRESSING)
    if since.get("status") != "True" or since.get("reason") != operation.type:
        return False
    began = datetime.fromisoformat(str(since["lastTransitionTime"]).replace("Z", "+00:00"))
    return (now - began).total_seconds() > cluster.spec.scale_down.timeout_seconds


def _under_way(plan: Plan) -> Problem | None:
    if plan.operation is not None:
        return Problem(plan.operation.type, _progress(plan.operation))
    if plan.hold_gateway:
        return Problem(ROLLING_UPGRADE, "masters, then gateways, are replaced")
    return None


def _progress(operation: Operation) -> str:
    text = f"{operation.done} of {operation.total} {_OPERATIONS[operation.type]}"
    return f"{text}; blocked by: {operation.blocked_by}" if operation.blocked_by else text


# The rest.


def _ready_nodes(observed: Observed) -> list[Pod]:
    """Pods that are ready for Kubernetes and registered at the master."""
    if observed.mom is None:
        return [pod for pod in observed.of(NODE) if pod.ready and not pod.deleting]
    there = {node.node_id for node in observed.mom.nodes.values() if node.state != LOST}
    return [
        pod for pod in observed.of(NODE) if pod.ready and not pod.deleting and pod.name in there
    ]


def _version(cluster: Cluster, observed: Observed, plan: Plan) -> dict[str, str]:
    target = cluster.spec.version
    before = (cluster.status.get("version") or {}).get("current", "")
    settled = plan.operation is None and not plan.hold_gateway and observed.mom is not None
    return {"current": target if settled or not before else before, "target": target}


def _endpoints(cluster: Cluster, names: Names) -> list[dict[str, str]]:
    endpoints = [
        {"name": "grpc", "url": f"grpc://{names.nodes_address}"},
        {"name": "rest-internal", "url": names.gateway_url},
    ]
    ingress = cluster.spec.gateway.ingress
    outside = names.gateway_url
    if ingress is not None and ingress.host:
        scheme = "https" if ingress.tls_secret_name else "http"
        outside = f"{scheme}://{ingress.host}"
    return [{"name": "rest", "url": outside}, *endpoints]


def _nodes(cluster: Cluster, observed: Observed, names: Names) -> list[dict[str, Any]]:
    if observed.mom is None:
        return list(cluster.status.get("nodes") or ())
    known = [
        one for one in observed.mom.nodes.values() if names.node_ordinal(one.node_id) is not None
    ]
    known.sort(key=lambda one: names.node_ordinal(one.node_id) or 0)
    return [
        {"name": one.node_id, "phase": _phase(one), "partitions": one.partitions} for one in known
    ]


def _phase(node: MomNode) -> str:
    if node.state == DRAINING and not node.partitions:
        return "Drained"
    return _PHASES.get(node.state, node.state.capitalize())


def _operation(operation: Operation) -> dict[str, Any]:
    return {
        "type": operation.type,
        "done": operation.done,
        "total": operation.total,
        "blockedBy": operation.blocked_by,
    }
