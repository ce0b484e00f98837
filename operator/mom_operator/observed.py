"""What stands: what decisions read of Kubernetes' objects and of the master's answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from mom_operator import names

Object = Mapping[str, Any]

DRAINING: Final = "draining"
CORDONED: Final = "cordoned"
ACTIVE: Final = "active"
LOST: Final = "lost"

# What a container waits for that time alone does not mend.
_WAITING_IN_VAIN: Final = frozenset(
    {
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImageInspectError",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    }
)
# A message of a container may be a whole log; a person reads the end of it.
TROUBLE_LENGTH_MAX: Final = 300


class Trouble(msgspec.Struct, frozen=True):
    """Why a pod can't run: Kubernetes' word for it, and what it says."""

    reason: str
    message: str


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod of a cluster."""

    name: str
    uid: str
    component: str
    revision: str
    """Of the StatefulSet or Deployment's template that it was made from."""
    ready: bool
    deleting: bool
    overdue_s: float | None = None
    """When deleting: seconds since its grace period ended; below 0 before that."""
    machine: str = ""
    """The Kubernetes node; empty before it is scheduled."""
    address: str = ""
    trouble: Trouble | None = None
    owned: bool = False
    """A StatefulSet or ReplicaSet made it, which may be gone, and then the pod goes too."""
    ended: str = ""
    """How its container ended before it was started again; empty when it was not."""


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """A StatefulSet or Deployment."""

    name: str
    wanted: int
    ready: int
    complete: bool
    """All its pods are of the newest template and available; never so for OnDelete before that."""
    current: bool
    """Its controller has seen the newest spec."""
    revision: str = ""
    """StatefulSet: of pods made from now on."""
    template_hash: str = ""
    """Of the pod template that we applied last."""


class MomNode(msgspec.Struct, frozen=True, kw_only=True):
    """A MOM node as the leading master sees it."""

    node_id: str
    state: str
    partitions: int = 0
    held: bool = False
    """It was the operator that made it draining."""


class Mom(msgspec.Struct, frozen=True, kw_only=True):
    """The leading master's answer."""

    nodes: Mapping[str, MomNode] = {}
    cluster_id: str = ""
    """Another one: the store was lost, and everything in it."""
    version: str = ""
    partitions: int = 0
    partitions_without_owner: int = 0
    durability: str = ""


class Problem(msgspec.Struct, frozen=True):
    """Something that only a person can mend, found while reconciling."""

    reason: str
    message: str


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one cluster."""

    pods: tuple[Pod, ...] = ()
    node: Workload | None = None
    master: Workload | None = None
    gateway: Workload | None = None
    redis: Workload | None = None
    mom: Mom | None = None
    """None: no master answers."""
    mom_error: str = ""
    """Why not, in a sentence."""
    machines_gone: frozenset[str] = frozenset()
    """Kubernetes nodes that are not there or not ready."""
    problems: tuple[Problem, ...] = ()

    def of(self, component: str) -> tuple[Pod, ...]:
        """The pods of a component, by name."""
        return tuple(one for one in self.pods if one.component == component)


def parse_pod(obj: Object, now: datetime) -> Pod:
    """Read a pod."""
    metadata = obj["metadata"]
    labels = metadata.get("labels") or {}
    status = obj.get("status") or {}
    deleted_at = metadata.get("deletionTimestamp")
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        component=labels.get(names.COMPONENT_LABEL, ""),
        revision=labels.get("controller-revision-hash") or labels.get("pod-template-hash", ""),
        ready=_condition(status, "Ready").get("status") == "True",
        deleting=deleted_at is not None,
        # The API server's deletionTimestamp is the end of the grace period, not its beginning.
        overdue_s=(now - parse_time(deleted_at)).total_seconds() if deleted_at else None,
        machine=(obj.get("spec") or {}).get("nodeName", ""),
        address=status.get("podIP", ""),
        trouble=trouble_of(status),
        owned=bool(metadata.get("ownerReferences")),
        ended=_ended(status),
    )


def _ended(status: Object) -> str:
    for container in status.get("containerStatuses") or ():
        states = (container.get("state") or {}, container.get("lastState") or {})
        for state in states:
            ended = state.get("terminated")
            if ended:
                return f"{ended.get('reason', 'Error')}, exit code {ended.get('exitCode')}"
    return ""


def trouble_of(status: Object) -> Trouble | None:
    """Why a pod of this status can't run, if it can't."""
    containers = [*(status.get("initContainerStatuses") or ())]
    containers += status.get("containerStatuses") or ()
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _WAITING_IN_VAIN:
            ended = (container.get("lastState") or {}).get("terminated") or {}
            said = ended.get("message") or waiting.get("message") or ""
            return Trouble(waiting["reason"], _brief(said))
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("reason") == "Unschedulable":
        return Trouble("Unschedulable", _brief(scheduled.get("message", "")))
    if status.get("phase") == "Failed":
        return Trouble(status.get("reason") or "Failed", _brief(status.get("message", "")))
    return None


def parse_workload(obj: Object) -> Workload:
    """Read a StatefulSet or Deployment."""
    metadata, spec = obj["metadata"], obj["spec"]
    status = obj.get("status") or {}
    wanted = spec.get("replicas", 1)
    current = status.get("observedGeneration", 0) >= metadata.get("generation", 0)
    counts = [status.get(name, 0) for name in ("replicas", "updatedReplicas")]
    available = status.get("availableReplicas", status.get("readyReplicas", 0))
    return Workload(
        name=metadata["name"],
        wanted=wanted,
        ready=status.get("readyReplicas", 0),
        complete=current and [*counts, available] == [wanted] * 3,
        current=current,
        revision=status.get("updateRevision", ""),
        template_hash=(metadata.get("annotations") or {}).get(TEMPLATE_HASH_ANNOTATION, ""),
    )


TEMPLATE_HASH_ANNOTATION: Final = "mom.dev/template-hash"
"""On a workload: the hash of the pod template that was applied, without the server's defaults."""


def machine_is_gone(machine: Object | None) -> bool:
    """Whether a Kubernetes node is away, or silent for so long that Kubernetes says so."""
    if machine is None:
        return True
    return _condition(machine.get("status") or {}, "Ready").get("status") != "True"


def parse_time(text: str) -> datetime:
    """Read RFC 3339."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)


def _condition(status: Object, kind: str) -> Mapping[str, str]:
    conditions: Iterable[Mapping[str, str]] = status.get("conditions") or ()
    return next((one for one in conditions if one.get("type") == kind), {})


def _brief(text: str) -> str:
    """The end of a text, in one line: a program's last words say why it stopped."""
    line = " ".join(text.split())
    return line if len(line) <= TROUBLE_LENGTH_MAX else "…" + line[-TROUBLE_LENGTH_MAX:]
