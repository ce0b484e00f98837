"""Managed Redis or Valkey: one pod with an append-only file on a volume of its own.

The file is synced before each reply, nothing is ever evicted, and ``maxmemory`` lies below the
container's limit: what a rewrite of the file copies, and the buffers of connections, need room too,
and a Redis that the kernel kills for its memory comes back only to be killed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mom_core.limits import MIB
from mom_operator.names import REDIS, REDIS_PORT, Names
from mom_operator.resources.environment import from_secret
from mom_operator.resources.inputs import Child, Inputs, Manifest, image_reference
from mom_operator.resources.metadata import child
from mom_operator.resources.pods import (
    CONFIG_DIGEST_ANNOTATION,
    PodParts,
    digest,
    pod_template,
    resources_or,
)
from mom_operator.resources.quantity import quantity_bytes
from mom_operator.resources.services import headless_service
from mom_operator.spec import Cluster, DeletionPolicy, ManagedRedis

# User and group "redis" of the public images of Redis and Valkey.
REDIS_USER: Final = 999
# Not below /etc/redis: packages of Redis make that a folder which only their own user may enter.
CONFIG_PATH: Final = "/etc/mom/redis-config"
AUTH_PATH: Final = "/etc/mom/redis-auth"
AUTH_KEY: Final = "auth.conf"
DATA_PATH: Final = "/data"

# Of the container's memory: pages copied while the file is rewritten, buffers, fragmentation.
_RESERVE_PERCENT: Final = 35
_RESERVE_BYTES_MIN: Final = 64 * MIB
_DEFAULT_MEMORY_LIMIT: Final = "2Gi"
_DEFAULT_RESOURCES: Final[Manifest] = {
    "requests": {"cpu": "100m", "memory": "1Gi"},
    "limits": {"memory": _DEFAULT_MEMORY_LIMIT},
}

# Both images have these programs under one name or the other.
# The server keeps the lock until it has ended. A pod that was deleted by force may go on writing
# and acknowledging for a while beside its successor, and all that would be lost: so that one waits.
_SERVER: Final = f"""if command -v flock >/dev/null && exec 9>>{DATA_PATH}/mom.lock; then
  flock -n 9 || {{ echo "another Redis still runs on this volume: waiting"; flock 9; }} ||
    echo "this volume knows no locks"
fi
exec "$(command -v valkey-server || command -v redis-server)" "$0\""""
_PING: Final = '"$(command -v valkey-cli || command -v redis-cli)" -h 127.0.0.1 ping 2>&1'
# Any answer is a sign of life: LOADING after a start takes as long as the data is large, BUSY while
# a function runs, NOAUTH between a change of the password and the restart.
_ALIVE: Final = f"""reply=$({_PING})
case "$reply" in
  *PONG*|*LOADING*|*BUSY*|*NOAUTH*|*WRONGPASS*|*MISCONF*) exit 0 ;;
esac
echo "$reply"; exit 1"""
_READY: Final = f'reply=$({_PING}); [ "$reply" = PONG ] || {{ echo "$reply"; exit 1; }}'


def redis_children(
    cluster: Cluster, names: Names, inputs: Inputs, managed: ManagedRedis
) -> list[Child]:
    """ConfigMap, Service and StatefulSet of managed Redis."""
    config = redis_config(managed)
    password = inputs.secrets.get(names.redis_auth, {}).get("password", b"")
    return [
        child(
            cluster, names, REDIS, "v1", "ConfigMap", names.redis, {"data": {"redis.conf": config}}
        ),
        headless_service(cluster, names, REDIS, names.redis, {"redis": REDIS_PORT}),
        child(
            cluster,
            names,
            REDIS,
            "apps/v1",
            "StatefulSet",
            names.redis,
            {
                "spec": _stateful_set(
                    cluster, names, inputs, managed, digest(config.encode(), password)
                )
            },
        ),
    ]


def redis_config(managed: ManagedRedis) -> str:
    """The ``redis.conf``. The password is in a file of its own, from the Secret."""
    lines = (
        "bind * -::*",
        f"port {REDIS_PORT}",
        f"include {AUTH_PATH}/{AUTH_KEY}",
        f"dir {DATA_PATH}",
        "appendonly yes",
        "appendfsync always",
        "no-appendfsync-on-rewrite no",
        # After a power failure the file may end in half a command that nobody was told of.
        "aof-load-truncated yes",
        # The file is the whole of durability; a snapshot beside it would only cost a fork.
        'save ""',
        f"maxmemory {maxmemory_bytes(managed.resources)}",
        "maxmemory-policy noeviction",
        "tcp-keepalive 60",
    )
    return "\n".join(lines) + "\n"


def maxmemory_bytes(resources: dict[str, Any]) -> int:
    """What Redis may fill: the container's memory less the reserve."""
    memory = (
        (resources.get("limits") or {}).get("memory")
        or (resources.get("requests") or {}).get("memory")
        or _DEFAULT_MEMORY_LIMIT
    )
    limit_bytes = quantity_bytes(memory, "spec.redis.managed.resources.limits.memory")
    reserve_bytes = max(_RESERVE_BYTES_MIN, limit_bytes * _RESERVE_PERCENT // 100)
    return max(limit_bytes - reserve_bytes, limit_bytes // 4)


def redis_auth_file(password: str) -> str:
    """What the Secret holds besides the password: its line for ``redis.conf``."""
    return f"requirepass {password}\n"


def _stateful_set(
    cluster: Cluster, names: Names, inputs: Inputs, managed: ManagedRedis, config_digest: str
) -> Manifest:
    keep = cluster.spec.deletion_policy is DeletionPolicy.RETAIN
    return {
        "replicas": 1,
        "serviceName": names.redis,
        "podManagementPolicy": "Parallel",
        # The operator replaces the pod, so that a bad image can always be mended.
        "updateStrategy": {"type": "OnDelete"},
        "persistentVolumeClaimRetentionPolicy": {
            "whenDeleted": "Retain" if keep else "Delete",
            "whenScaled": "Retain",
        },
        "selector": {"matchLabels": names.selector(REDIS)},
        "template": _template(cluster, names, inputs, managed, config_digest),
        "volumeClaimTemplates": [_claim(names, inputs, managed)],
    }


def volume_growth(managed: ManagedRedis, claim: Mapping[str, Any]) -> Manifest | None:
    """The merge patch that makes a PersistentVolumeClaim as large as the spec wants; None where it
    is so already. A claim template can't change, so the claim itself is what grows; whether it may
    is up to its storage class."""
    requests = claim.get("spec", {}).get("resources", {}).get("requests", {})
    has_bytes = quantity_bytes(requests.get("storage", 0), "spec.resources.requests.storage")
    wanted = managed.storage.size
    if quantity_bytes(wanted, "spec.redis.managed.storage.size") <= has_bytes:
        return None
    return {"spec": {"resources": {"requests": {"storage": str(wanted)}}}}


def _claim(names: Names, inputs: Inputs, managed: ManagedRedis) -> Manifest:
    size = inputs.redis_volume_size or str(managed.storage.size)
    spec: Manifest = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": size}},
    }
    if managed.storage.class_name:
        spec["storageClassName"] = managed.storage.class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "labels": names.selector(REDIS)},
        "spec": spec,
    }


def _template(
    cluster: Cluster, names: Names, inputs: Inputs, managed: ManagedRedis, config_digest: str
) -> Manifest:
    parts = PodParts(
        component=REDIS,
        container=_container(names, inputs, managed),
        service_account=names.redis,
        grace_seconds=60,
        user=REDIS_USER,
        file_group=REDIS_USER,
        volumes=[
            {"name": "config", "configMap": {"name": names.redis}},
            {
                "name": "auth",
                "secret": {
                    "secretName": names.redis_auth,
                    "defaultMode": 0o440,
                    "items": [{"key": AUTH_KEY, "path": AUTH_KEY}],
                },
            },
        ],
        template=managed.pod_template,
        annotations={CONFIG_DIGEST_ANNOTATION: config_digest},
        # A new version of MOM is no reason to restart the store.
        versioned=False,
        # Two Redis on one volume would ruin it: Kubernetes waits until the machine is back.
        evict_quickly=False,
    )
    return pod_template(cluster, names, inputs, parts)


def _container(names: Names, inputs: Inputs, managed: ManagedRedis) -> Manifest:
    settings = inputs.settings
    chosen = managed.image or settings.redis_image
    image = image_reference(chosen, settings.image_registry)
    if not managed.image and inputs.redis_image:
        image = inputs.redis_image
    return {
        "name": REDIS,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", _SERVER, f"{CONFIG_PATH}/redis.conf"],
        # For the probes; the server has it from its file.
        "env": [from_secret("REDISCLI_AUTH", names.redis_auth, "password")],
        "ports": [{"name": REDIS, "containerPort": REDIS_PORT, "protocol": "TCP"}],
        "resources": resources_or(managed.resources, _DEFAULT_RESOURCES),
        "startupProbe": _exec_probe(_ALIVE, period_seconds=1, failures=120),
        # A disk that stalls makes it silent for a while, and a restart would not make it faster.
        "livenessProbe": _exec_probe(_ALIVE, period_seconds=10, failures=12),
        "readinessProbe": _exec_probe(_READY, period_seconds=2, failures=2),
        "volumeMounts": [
            {"name": "data", "mountPath": DATA_PATH},
            {"name": "config", "mountPath": CONFIG_PATH, "readOnly": True},
            {"name": "auth", "mountPath": AUTH_PATH, "readOnly": True},
        ],
    }


def _exec_probe(script: str, *, period_seconds: int, failures: int) -> Manifest:
    return {
        "exec": {"command": ["sh", "-c", script]},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
