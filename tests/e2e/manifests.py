"""Hand-made manifests of a small MOM: what the operator makes, in its plainest form."""

from __future__ import annotations

from typing import Any

from e2e.kubernetes import Namespace, Object

REDIS_IMAGE = "redis:8.0"
CLUSTER_TOKEN = "a secret of these tests alone"
_RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def _environment(**values: str) -> list[Object]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _field(name: str, path: str) -> Object:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _workload(name: str, kind: str, container: Object, user: int, machine: str = "") -> Object:
    """A Deployment or StatefulSet of one container that may do nothing it need not."""
    labels = {"app": name}
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": labels},
    }
    pod: Object = {
        # Variables such as MOM_NODE_PORT would be taken for settings.
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [spread],
        "containers": [
            {
                "name": name,
                "imagePullPolicy": "IfNotPresent",
                "securityContext": _RESTRICTED,
                **container,
            }
        ],
    }
    if machine:
        pod["nodeSelector"] = {"kubernetes.io/hostname": machine}
    spec: Object = {
        "replicas": 1,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    if kind == "StatefulSet":
        spec["serviceName"] = name
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def _service(name: str, port: int, headless: bool = False) -> Object:
    spec: Object = {"selector": {"app": name}, "ports": [{"port": port}]}
    if headless:
        spec |= {"clusterIP": "None", "publishNotReadyAddresses": True}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def _ready(port: int) -> Object:
    return {"httpGet": {"path": "/readyz", "port": port}, "periodSeconds": 1}


def redis(machine: str = "") -> list[Object]:
    """A Redis that keeps what it acknowledged, on a volume of its own."""
    settings = ["--appendonly", "yes", "--appendfsync", "always"]
    container = {
        "image": REDIS_IMAGE,
        "args": [*settings, "--maxmemory-policy", "noeviction"],
        "readinessProbe": {"exec": {"command": ["redis-cli", "ping"]}, "periodSeconds": 1},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    workload = _workload("redis", "StatefulSet", container, 999, machine)
    workload["spec"]["template"]["spec"]["securityContext"]["fsGroup"] = 999
    claim: Any = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    workload["spec"]["volumeClaimTemplates"] = [claim]
    return [workload, _service("redis", 6379)]


def _process(
    namespace: Namespace, command: list[str], port: int, health: int, machine: str = ""
) -> Object:
    settings = _environment(
        MOM_STORE="redis://redis:6379", MOM_CLUSTER_TOKEN=CLUSTER_TOKEN, MOM_LOG_FORMAT="json"
    )
    container = {
        "image": namespace.cluster.image,
        "command": command,
        "env": [_field("POD_IP", "status.podIP"), _field("POD_NAME", "metadata.name"), *settings],
        "ports": [{"containerPort": port}],
        "readinessProbe": _ready(health),
    }
    return _workload(command[0], "Deployment", container, 10001, machine)


def mom(namespace: Namespace, machine: str = "") -> list[Object]:
    """A master, two nodes, a gateway and an Ingress; all but the nodes on one machine if given."""
    own = ["--id", "$(POD_NAME)", "--advertise"]
    master = ["mom-master", "--listen", "0.0.0.0:7070", *own, "$(POD_IP):7070"]
    node = ["mom-node", "--listen", "0.0.0.0:7071", *own, "$(POD_IP):7071"]
    nodes = _process(namespace, [*node, "--masters", "mom-master:7070"], 7071, 7171)
    nodes["spec"]["replicas"] = 2
    gateway = ["mom-gateway", "--listen", "0.0.0.0:8080", "--nodes", "mom-node:7071"]
    return [
        _process(namespace, master, 7070, 7170, machine),
        nodes,
        _process(namespace, gateway, 8080, 8080, machine),
        _service("mom-master", 7070),
        _service("mom-node", 7071, headless=True),
        _service("mom-gateway", 8080),
        _ingress(namespace),
    ]


def _ingress(namespace: Namespace) -> Object:
    backend = {"service": {"name": "mom-gateway", "port": {"number": 8080}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    spec: Object = {"rules": [{"host": namespace.host, "http": {"paths": [path]}}]}
    if namespace.cluster.ingress_class:
        spec["ingressClassName"] = namespace.cluster.ingress_class
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "mom"},
        "spec": spec,
    }
