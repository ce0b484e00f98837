"""What all pods have in common: security, probes, spreading, and the life of their template.

Every pod passes the Pod Security level "restricted" and has a read-only root filesystem. A template
never holds the number of replicas nor anything of the operator's own version, so neither scaling
nor an upgrade of the operator restarts a process.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

import msgspec

from mom_operator.names import Names
from mom_operator.resources.inputs import Inputs, Manifest, pull_secrets
from mom_operator.resources.metadata import VERSION_LABEL, labels
from mom_operator.resources.pod_template import merged
from mom_operator.spec import GROUP, RESTART_ANNOTATION, Cluster

CONFIG_DIGEST_ANNOTATION: Final = f"{GROUP}/config-digest"
"""Digest of the Secrets and settings that a process reads once, at its start."""

# A fixed number, since the kubelet can't tell whether a user's name is root.
MOM_USER: Final = 10_001
HOSTNAME_KEY: Final = "kubernetes.io/hostname"
# Epochs make a second copy of a MOM process harmless, so its replacement need not wait the five
# minutes that Kubernetes gives by default.
UNREACHABLE_SECONDS: Final = 5
_DIGEST_DIGITS: Final = 16


class PodParts(msgspec.Struct, frozen=True, kw_only=True):
    """What distinguishes one component's pods from another's."""

    component: str
    container: Manifest
    service_account: str
    grace_seconds: int
    user: int
    volumes: list[Manifest]
    template: dict[str, Any]
    """The user's podTemplate."""
    annotations: dict[str, str]
    versioned: bool = True
    """Whether the pods carry the version of MOM, and so are replaced with it."""
    rack_key: str = ""
    revision_label: bool = False
    """Spread each revision of a Deployment by itself, so that a roll-out ends well spread."""
    evict_quickly: bool = True
    file_group: int | None = None
    """Group that owns the files of volumes."""


def pod_template(cluster: Cluster, names: Names, inputs: Inputs, parts: PodParts) -> Manifest:
    """The template of a component's pods, with the user's podTemplate over it."""
    pod_labels = labels(names, parts.component)
    if parts.versioned:
        pod_labels[VERSION_LABEL] = cluster.spec.version
    spec: Manifest = {
        "serviceAccountName": parts.service_account,
        "automountServiceAccountToken": False,
        # A Service called mom-store would set MOM_STORE in every pod of its namespace.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": parts.grace_seconds,
        "securityContext": _pod_security(parts),
        "topologySpreadConstraints": _spread(names, parts),
        "containers": [_secured(parts.container)],
        "volumes": [*parts.volumes, {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}],
    }
    secrets = pull_secrets(cluster.spec.image.pull_secrets, inputs.settings)
    if secrets:
        spec["imagePullSecrets"] = secrets
    if parts.evict_quickly:
        spec["tolerations"] = [_short_toleration("not-ready"), _short_toleration("unreachable")]
    base = {"metadata": {"labels": pod_labels, "annotations": parts.annotations}, "spec": spec}
    template = merged(base, parts.template)
    # A pod that its own selector does not choose would be made again and again.
    template["metadata"]["labels"] = {
        **template["metadata"].get("labels", {}),
        **names.selector(parts.component),
    }
    return template


def pod_template_hash(manifest: Manifest) -> str:
    """A digest of a workload's pod template: the same exactly when no pod has to be replaced."""
    return digest(msgspec.json.encode(manifest["spec"]["template"], order="sorted"))


def digest(*parts: bytes) -> str:
    """A short digest of several byte strings."""
    whole = sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "big") + part)
    return whole.hexdigest()[:_DIGEST_DIGITS]


def process_annotations(cluster: Cluster, config_digest: str) -> dict[str, str]:
    """Annotations whose change restarts a process of MOM."""
    annotations = {CONFIG_DIGEST_ANNOTATION: config_digest}
    restart = cluster.annotations.get(RESTART_ANNOTATION)
    return annotations if restart is None else annotations | {RESTART_ANNOTATION: restart}


def http_probe(
    path: str, port: int, *, period_seconds: int, timeout_seconds: int, failures: int
) -> Manifest:
    """A probe of one of the health pages."""
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period_seconds,
        "timeoutSeconds": timeout_seconds,
        "failureThreshold": failures,
    }


def health_probes(port: int) -> Manifest:
    """The probes of a MOM process.

    Live is who answers at all: a process that waits for its store is not helped by a restart. Ready
    is who serves what it has.
    """
    return {
        "startupProbe": http_probe(
            "/healthz", port, period_seconds=1, timeout_seconds=2, failures=60
        ),
        "livenessProbe": http_probe(
            "/healthz", port, period_seconds=10, timeout_seconds=5, failures=3
        ),
        "readinessProbe": http_probe(
            "/readyz", port, period_seconds=2, timeout_seconds=2, failures=2
        ),
    }


def resources_or(given: dict[str, Any], default: Manifest) -> Manifest:
    """The user's resources, or ours when there are none. There are no limits on CPU: a throttled
    process misses its heartbeats."""
    return dict(given) if given else default


def _pod_security(parts: PodParts) -> Manifest:
    context: Manifest = {
        "runAsNonRoot": True,
        "runAsUser": parts.user,
        "runAsGroup": parts.user,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if parts.file_group is not None:
        context |= {"fsGroup": parts.file_group, "fsGroupChangePolicy": "OnRootMismatch"}
    return context


def _secured(container: Manifest) -> Manifest:
    security = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = [*container.get("volumeMounts", []), {"name": "tmp", "mountPath": "/tmp"}]
    return {
        **container,
        # The last words of a process that ended go into the pod's status, and so into conditions.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": security,
        "volumeMounts": mounts,
    }


def _spread(names: Names, parts: PodParts) -> list[Manifest]:
    """Over racks, then over machines; never at the price of a pod that can't be scheduled."""
    keys = [key for key in (parts.rack_key, HOSTNAME_KEY) if key]
    return [_spread_over(key, names, parts) for key in dict.fromkeys(keys)]


def _spread_over(key: str, names: Names, parts: PodParts) -> Manifest:
    constraint: Manifest = {
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": names.selector(parts.component)},
    }
    if parts.revision_label:
        constraint["matchLabelKeys"] = ["pod-template-hash"]
    return constraint


def _short_toleration(condition: str) -> Manifest:
    return {
        "key": f"node.kubernetes.io/{condition}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": UNREACHABLE_SECONDS,
    }
