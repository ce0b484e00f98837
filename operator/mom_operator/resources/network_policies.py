"""NetworkPolicies: who may talk to whom, and nobody else.

| from | to |
|---|---|
| anyone | gateway (REST), nodes and masters (gRPC, as SDKs use it): all ask for tokens |
| masters, nodes | Redis |
| the operator; any pod, where monitoring is on | the pages with health and metrics |

Probes come from the machine itself, which policies never shut out. Outwards each may reach name
servers and its own peers; an external Redis may be anywhere, so with one, masters and nodes may
reach every address.
"""

from __future__ import annotations

from typing import Final

from mom_operator.names import (
    GATEWAY,
    GATEWAY_PORT,
    MANAGED_BY,
    MASTER,
    MASTER_HTTP_PORT,
    MASTER_PORT,
    NAME_LABEL,
    NODE,
    NODE_HTTP_PORT,
    NODE_PORT,
    REDIS,
    REDIS_PORT,
    Names,
)
from mom_operator.resources.inputs import Child, Inputs, Manifest
from mom_operator.resources.metadata import child
from mom_operator.spec import Cluster

NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"
# Policies see the ports of pods, and OpenShift's name servers listen on the second one.
_DNS_PORTS: Final = (53, 5353)
_DNS: Final[Manifest] = {
    "ports": [
        {"port": port, "protocol": protocol} for port in _DNS_PORTS for protocol in ("UDP", "TCP")
    ]
}


def network_policy_children(cluster: Cluster, names: Names, inputs: Inputs) -> list[Child]:
    """The policies, where the spec wants them."""
    if not cluster.spec.network_policy.enabled:
        return []
    store = [_to(names, REDIS, REDIS_PORT)] if cluster.spec.redis.managed is not None else [{}]
    policies = {
        MASTER: (
            [_anyone(MASTER_PORT), _pages(cluster, inputs, MASTER_HTTP_PORT)],
            [_DNS, _to(names, NODE, NODE_PORT), _to(names, MASTER, MASTER_PORT), *store],
        ),
        NODE: (
            [_anyone(NODE_PORT), _pages(cluster, inputs, NODE_HTTP_PORT)],
            [_DNS, _to(names, NODE, NODE_PORT), _to(names, MASTER, MASTER_PORT), *store],
        ),
        GATEWAY: (
            [_anyone(GATEWAY_PORT)],
            [_DNS, _to(names, NODE, NODE_PORT), _to(names, MASTER, MASTER_PORT)],
        ),
    }
    if cluster.spec.redis.managed is not None:
        callers = [_pods(names, MASTER), _pods(names, NODE)]
        policies[REDIS] = ([{"from": callers, "ports": _port(REDIS_PORT)}], [])
    return [
        _policy(cluster, names, component, ingress, egress)
        for component, (ingress, egress) in policies.items()
    ]


def _policy(
    cluster: Cluster,
    names: Names,
    component: str,
    ingress: list[Manifest],
    egress: list[Manifest],
) -> Child:
    spec: Manifest = {
        "podSelector": {"matchLabels": names.selector(component)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress,
    }
    if egress:
        spec["egress"] = egress
    return child(
        cluster,
        names,
        component,
        "networking.k8s.io/v1",
        "NetworkPolicy",
        f"{names.cluster}-{component}",
        {"spec": spec},
    )


def _operator(inputs: Inputs) -> Manifest:
    namespace = inputs.settings.operator_namespace
    labels = {"matchLabels": {NAMESPACE_LABEL: namespace}} if namespace else {}
    return {
        "namespaceSelector": labels,
        "podSelector": {"matchLabels": {NAME_LABEL: MANAGED_BY}},
    }


def _pages(cluster: Cluster, inputs: Inputs, port: int) -> Manifest:
    everyone: Manifest = {"namespaceSelector": {}}
    caller = everyone if cluster.spec.monitoring.enabled else _operator(inputs)
    return {"from": [caller], "ports": _port(port)}


def _anyone(port: int) -> Manifest:
    return {"ports": _port(port)}


def _to(names: Names, component: str, port: int) -> Manifest:
    return {"to": [_pods(names, component)], "ports": _port(port)}


def _pods(names: Names, component: str) -> Manifest:
    return {"podSelector": {"matchLabels": names.selector(component)}}


def _port(port: int) -> list[Manifest]:
    return [{"port": port, "protocol": "TCP"}]
