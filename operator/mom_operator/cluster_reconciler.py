"""Reconciles one MomCluster: read what stands, decide by pure functions, apply, tell.

The order within a turn: deletion before anything else; then the spec; Secrets; children of all
components except the pod templates that have to wait for their turn; then the plan's steps for the
nodes; then the status. Each turn begins anew from what stands, so it may be ended at any point.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from mom_core.errors import ErrorCode, MomError
from mom_core.ports import Clock, Random
from mom_operator import conditions, observed, status
from mom_operator.admin import Admin, why_not_ready
from mom_operator.children import ChildKey, Children
from mom_operator.conditions import READY
from mom_operator.events import Events
from mom_operator.kube import FormerOwnerError, Kube, KubeError, OwnershipError, owner_uids
from mom_operator.machines import Machines
from mom_operator.names import (
    CLUSTER_LABEL,
    GATEWAY,
    MASTER,
    MASTER_HTTP_PORT,
    NODE,
    REDIS,
    Names,
)
from mom_operator.observed import TEMPLATE_HASH_ANNOTATION, Observed, Problem
from mom_operator.plan import DeletePod, Plan, SetNodeState, make_plan, node_replicas
from mom_operator.registry import Key, Registry
from mom_operator.resources import Child, Inputs, OperatorSettings, desired, pod_template_hash
from mom_operator.secret_values import Values, completed, decoded, names_to_read, problem_of
from mom_operator.spec import Cluster, SpecError, parse_cluster
from mom_operator.status_writer import write_status
from mom_operator.volumes import Volumes

# Looking again at a cluster that is in order: one call to its master, none to the API server.
RESYNC_MS: Final = 5_000
# Names that were taken by another: looked at again, since nothing tells when they are free.
BLOCKED_MS: Final = 15_000
# An earlier cluster's children are being collected.
FORMER_MS: Final = 1_000
# The master is told which nodes to expect when that changes, and again after this.
EXPECT_MS: Final = 60_000

NAME_TAKEN: Final = "NameTaken"
FORBIDDEN: Final = "Forbidden"

_log = logging.getLogger(__name__)

Decided = tuple[Observed, Plan]


class ClusterReconciler:
    """Keeps clusters as their resources say."""

    def __init__(
        self,
        kube: Kube,
        registry: Registry,
        children: Children,
        machines: Machines,
        events: Events,
        settings: OperatorSettings,
        *,
        clock: Clock,
        random: Random,
        topics_due: Callable[[Key, str], None],
        master_address: Callable[[Names], str],
    ) -> None:
        """``topics_due`` is told a cluster whose topics and queues should be looked at, with the id
        of its store, empty when it is gone.

        ``master_address`` tells where a cluster's masters are reached, for an operator that runs
        outside of Kubernetes.
        """
        self._kube = kube
        self._registry = registry
        self._children = children
        self._machines = machines
        self._events = events
        self.settings = settings
        self._clock = clock
        self._random = random
        self._topics_due = topics_due
        self._master_address = master_address
        self._volumes = Volumes(kube)
        self._admins: dict[Key, Admin] = {}
        self._expected: dict[Key, tuple[dict[str, str], int]] = {}

    async def close(self) -> None:
        """Close the connections to masters."""
        for key in tuple(self._admins):
            await self._forget(key)

    def admin(self, key: Key) -> Admin | None:
        """How to reach a cluster's masters, once that is known."""
        return self._admins.get(key)

    async def reconcile(self, key: Key) -> int | None:
        """One turn for one cluster; after how many milliseconds to look again."""
        obj = self._registry.get(key)
        if obj is None or obj["metadata"].get("deletionTimestamp"):
            # Its children go with it, by their owner references. Nothing is made again.
            await self._forget(key)
            self._topics_due(key, "")
            return None
        now = datetime.now(UTC)
        before = obj.get("status") or {}
        generation = obj["metadata"].get("generation", 0)
        try:
            cluster = parse_cluster(obj)
            if cluster.paused:
                await write_status(
                    self._kube, self._registry, obj, status.paused_status(before, generation, now)
                )
                return None
            return await self._reconcile(key, obj, cluster, now)
        except SpecError as error:
            await self._refuse(obj, Problem(status.INVALID_SPEC, error.message), now)
            return None
        except KubeError as error:
            if error.code is ErrorCode.FORBIDDEN:
                await self._refuse(obj, Problem(FORBIDDEN, error.message), now)
            raise
        except (MomError, TimeoutError):
            raise
        except Exception as error:  # Who waits for the cluster does not read the operator's log.
            problem = Problem(conditions.INTERNAL_ERROR, conditions.told_defect(error))
            await self._refuse(obj, problem, now)
            raise

    async def _refuse(self, obj: Any, problem: Problem, now: datetime) -> None:
        before = obj.get("status") or {}
        generation = obj["metadata"].get("generation", 0)
        after = status.refused_status(before, generation, problem, now)
        await write_status(self._kube, self._registry, obj, after)

    async def _reconcile(self, key: Key, obj: Any, cluster: Cluster, now: datetime) -> int | None:
        names = Names(cluster.name, cluster.namespace, self.settings.cluster_domain)
        problems: list[Problem] = []
        values = await self._secret_values(cluster, names, problems)
        seen = self._seen(cluster, names, now)
        mom_seen = await self._with_mom(key, names, values, seen)
        children = desired(cluster, self._inputs(cluster, names, values, mom_seen))
        first = [one for one in children if one.component not in (MASTER, GATEWAY)]
        former = await self._apply_all(first, mom_seen, problems)
        template_size = _volume_size(self._standing_redis(cluster, names))
        problems += await self._volumes.grow(key, cluster, names, template_size)
        seen = self._refreshed(cluster, names, mom_seen)
        seen = await self._with_machines(seen)
        for component in (MASTER, GATEWAY):
            turn = [one for one in children if one.component == component]
            held = self._not_held(turn, seen, make_plan(cluster, seen))
            former |= await self._apply_all(held, seen, problems)
            # What was just applied counts: gateways wait for masters whose template changed.
            seen = self._refreshed(cluster, names, seen)
        plan = make_plan(cluster, seen)
        await self._prune(cluster, children)
        await self._carry_out(obj, cluster, key, plan)
        await self._after(key, cluster, names, values, seen)
        seen = msgspec.structs.replace(seen, problems=tuple(problems))
        await self._tell(obj, status.cluster_status(cluster, seen, plan, names, now))
        if seen.mom is not None:
            self._topics_due(key, seen.mom.cluster_id)
        return FORMER_MS if former else self._again_ms(plan, problems)

    def _again_ms(self, plan: Plan, problems: list[Problem]) -> int:
        if plan.recheck_ms is not None:
            return plan.recheck_ms
        interval_ms = BLOCKED_MS if problems else RESYNC_MS
        return int(interval_ms * (0.8 + 0.4 * self._random.fraction()))

    # Reading.

    async def _secret_values(
        self, cluster: Cluster, names: Names, problems: list[Problem]
    ) -> Values:
        values = {
            name: decoded(await self._children.find(ChildKey("Secret", cluster.namespace, name)))
            for name in names_to_read(cluster, names)
        }
        problem = problem_of(cluster, values)
        if problem is not None:
            problems.append(problem)
        return completed(cluster, names, values)

    def _seen(self, cluster: Cluster, names: Names, now: datetime) -> Observed:
        """What the mirrors show."""
        namespace = cluster.namespace
        mirror = self._children.mirrored("Pod", namespace)
        pods = [
            observed.parse_pod(obj, now)
            for obj in (mirror.all() if mirror is not None else ())
            if obj["metadata"].get("namespace") == namespace
            and (obj["metadata"].get("labels") or {}).get(CLUSTER_LABEL) == cluster.name
        ]
        return self._refreshed(
            cluster, names, Observed(pods=tuple(sorted(pods, key=lambda pod: pod.name)))
        )

    def _refreshed(self, cluster: Cluster, names: Names, seen: Observed) -> Observed:
        """With the workloads as they are now."""
        return msgspec.structs.replace(
            seen,
            node=self._workload(cluster, "StatefulSet", names.node),
            redis=self._workload(cluster, "StatefulSet", names.redis),
            master=self._workload(cluster, "Deployment", names.master),
            gateway=self._workload(cluster, "Deployment", names.gateway),
        )

    def _workload(self, cluster: Cluster, kind: str, name: str) -> observed.Workload | None:
        """A workload of this very cluster: one of an earlier cluster of its name does not count."""
        mirror = self._children.mirrored(kind, cluster.namespace)
        found = mirror.get(cluster.namespace, name) if mirror is not None else None
        if found is None or cluster.uid not in owner_uids(found):
            return None
        return observed.parse_workload(found)

    async def _with_mom(self, key: Key, names: Names, values: Values, seen: Observed) -> Observed:
        """Ask the masters, if one could answer; else one of them why it can't."""
        if seen.master is None or not seen.master.ready:
            said = ""
            addresses = [pod.address for pod in seen.of(MASTER) if pod.address and not pod.trouble]
            if addresses:
                said = await why_not_ready(addresses[0], MASTER_HTTP_PORT)
            return msgspec.structs.replace(seen, mom_error=said or "none is up yet")
        admin = await self._admin_of(key, names, values)
        try:
            return msgspec.structs.replace(seen, mom=await admin.mom())
        except MomError as error:
            return msgspec.structs.replace(seen, mom_error=error.message)

    async def _admin_of(self, key: Key, names: Names, values: Values) -> Admin:
        token = values[names.cluster_token]["token"].decode()
        admin = self._admins.get(key)
        address = self._master_address(names)
        if admin is None or admin.token != token or admin.address != address:
            await self._forget(key)
            admin = Admin(address, token, self._clock)
            self._admins[key] = admin
        return admin

    async def _with_machines(self, seen: Observed) -> Observed:
        leaving = {pod.machine for pod in seen.of(NODE) if (pod.overdue_s or -1) > 0}
        if not leaving:
            return seen
        return msgspec.structs.replace(seen, machines_gone=await self._machines.gone(leaving))

    def _inputs(self, cluster: Cluster, names: Names, values: Values, seen: Observed) -> Inputs:
        standing = self._standing_redis(cluster, names)
        return Inputs(
            settings=self.settings,
            secrets=values,
            node_replicas=node_replicas(cluster, seen),
            redis_image=_redis_image(standing),
            redis_volume_size=_volume_size(standing),
        )

    def _standing_redis(self, cluster: Cluster, names: Names) -> Any:
        mirror = self._children.mirrored("StatefulSet", cluster.namespace)
        return mirror.get(cluster.namespace, names.redis) if mirror is not None else None

    # Writing.

    async def _apply_all(
        self, children: list[Child], seen: Observed, problems: list[Problem]
    ) -> bool:
        """Apply children one by one; whether some wait for an earlier cluster's to go."""
        former = False
        for child in children:
            if await self._leaves_pods(child, seen):
                former = True
                continue
            try:
                await self._children.apply(_annotated(child))
            except OwnershipError as error:
                problems.append(Problem(NAME_TAKEN, error.message))
            except FormerOwnerError as error:
                _log.info("%s", error.message)
                former = True
            except KubeError as error:
                if error.http_code not in (400, 403, 409, 422):
                    raise
                problems.append(Problem(error.reason or "Refused", error.message))
        return former

    async def _leaves_pods(self, child: Child, seen: Observed) -> bool:
        """Whether a StatefulSet is gone and its pods are not yet.

        A new one could not make pods of the same names, and its controller would try again less and
        less often, so that it comes about minutes after the old pods have gone.
        """
        if child.kind != "StatefulSet":
            return False
        pods = [pod for pod in seen.of(child.component) if pod.owned or pod.deleting]
        if not pods:
            return False
        namespace = child.manifest["metadata"]["namespace"]
        standing = await self._children.find(ChildKey(child.kind, namespace, child.name))
        return standing is None

    def _not_held(self, children: list[Child], seen: Observed, plan: Plan) -> list[Child]:
        """Without Deployments whose changed template has to wait for its turn."""
        held = {MASTER: plan.hold_master, GATEWAY: plan.hold_gateway}
        standing = {MASTER: seen.master, GATEWAY: seen.gateway}
        return [
            child
            for child in children
            if child.kind != "Deployment"
            or not held[child.component]
            or (found := standing[child.component]) is None
            or found.template_hash == pod_template_hash(child.manifest)
        ]

    async def _prune(self, cluster: Cluster, children: tuple[Child, ...]) -> None:
        wanted = {ChildKey(one.kind, cluster.namespace, one.name) for one in children}
        await self._children.prune(cluster.namespace, cluster.uid, wanted)

    async def _carry_out(self, obj: Any, cluster: Cluster, key: Key, plan: Plan) -> None:
        for step in plan.steps:
            if isinstance(step, SetNodeState):
                admin = self._admins.get(key)
                assert admin is not None, "nodes are set only when a master has answered"
                await admin.set_node_state(step.node_id, step.state)
            else:
                await self._delete_pod(obj, cluster, step)

    async def _delete_pod(self, obj: Any, cluster: Cluster, step: DeletePod) -> None:
        grace_s = 0 if step.force else None
        gone = await self._kube.delete(
            "Pod", cluster.namespace, step.name, step.uid, grace_s=grace_s
        )
        if gone:
            _log.info("pod deleted", extra={"pod": step.name, "why": step.why})
            how = "deleted by force" if step.force else "replaced"
            await self._events.tell(obj, "Normal", "PodReplaced", f"{step.name} {how}: {step.why}")

    async def _after(
        self, key: Key, cluster: Cluster, names: Names, values: Values, seen: Observed
    ) -> None:
        """What needs a master that leads: the admin token, and which nodes to expect."""
        admin = self._admins.get(key)
        if seen.mom is None or admin is None:
            return
        if not values.get(names.admin_token, {}).get("token"):
            await self._make_admin_token(cluster, names, values, admin, seen)
        racks = (
            {
                names.node_pod(number): await self._rack(names.node_pod(number), cluster, seen)
                for number in range(max(cluster.spec.nodes.replicas, seen.node.wanted))
            }
            if seen.node is not None
            else {}
        )
        told, at_ms = self._expected.get(key, ({}, 0))
        now_ms = self._clock.monotonic_ms()
        if racks and (told != racks or now_ms - at_ms > EXPECT_MS):
            await admin.expect(racks)
            self._expected[key] = (racks, now_ms)

    async def _rack(self, pod_name: str, cluster: Cluster, seen: Observed) -> str:
        machine = next((pod.machine for pod in seen.of(NODE) if pod.name == pod_name), "")
        return await self._machines.rack(machine, cluster.spec.nodes.rack_topology_key)

    async def _make_admin_token(
        self, cluster: Cluster, names: Names, values: Values, admin: Admin, seen: Observed
    ) -> None:
        token = await admin.make_admin_token()
        values = {**values, names.admin_token: {"token": token.encode()}, names.binding: {}}
        wanted = {names.admin_token, names.binding}
        for child in desired(cluster, self._inputs(cluster, names, values, seen)):
            if child.kind == "Secret" and child.name in wanted:
                await self._children.apply(_annotated(child))

    # Telling.

    async def _tell(self, obj: Any, after: conditions.Status) -> None:
        before = obj.get("status") or {}
        await write_status(self._kube, self._registry, obj, after)
        ready, was_ready = conditions.find(after, READY), conditions.find(before, READY)
        told = (ready["status"], ready["reason"])
        if told != (was_ready.get("status"), was_ready.get("reason")):
            kind = "Normal" if ready["status"] == "True" else "Warning"
            degraded = conditions.find(after, status.DEGRADED)["status"] == "True"
            await self._events.tell(
                obj, kind if degraded else "Normal", ready["reason"], ready["message"]
            )

    async def _forget(self, key: Key) -> None:
        self._expected.pop(key, None)
        self._volumes.forget(key)
        admin = self._admins.pop(key, None)
        if admin is not None:
            await admin.close()


def _annotated(child: Child) -> dict[str, Any]:
    """The manifest, of a workload with the hash of its pod template beside it."""
    manifest = child.manifest
    if child.kind not in ("Deployment", "StatefulSet"):
        return manifest
    metadata = manifest["metadata"]
    annotations = dict(metadata.get("annotations") or {})
    annotations[TEMPLATE_HASH_ANNOTATION] = pod_template_hash(manifest)
    return manifest | {"metadata": metadata | {"annotations": annotations}}


def _redis_image(standing: Any) -> str | None:
    if standing is None:
        return None
    containers = standing["spec"]["template"]["spec"]["containers"]
    return next((one["image"] for one in containers if one["name"] == REDIS), None)


def _volume_size(standing: Any) -> str | None:
    templates = (standing or {}).get("spec", {}).get("volumeClaimTemplates") or ()
    for template in templates:
        size = template["spec"].get("resources", {}).get("requests", {}).get("storage")
        return str(size) if size else None
    return None
