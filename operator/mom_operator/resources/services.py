"""Services: the names under which processes find one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mom_operator.names import Names
from mom_operator.resources.inputs import Child, Manifest
from mom_operator.resources.metadata import child
from mom_operator.spec import Cluster

# What each port speaks, for proxies and meshes on the way.
_PROTOCOLS: Final = {
    "grpc": "kubernetes.io/h2c",
    "http": "http",
    "redis": "redis",
}


def service(
    cluster: Cluster, names: Names, component: str, name: str, ports: Mapping[str, int]
) -> Child:
    """A Service with one address before a component's ready pods."""
    spec = {"type": "ClusterIP", **_spec(names, component, ports)}
    return child(cluster, names, component, "v1", "Service", name, {"spec": spec})


def headless_service(
    cluster: Cluster, names: Names, component: str, name: str, ports: Mapping[str, int]
) -> Child:
    """A Service that resolves to the pods themselves, ready or not: a node must be found by its
    peers before it is ready, and a Redis that loads says so itself."""
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        **_spec(names, component, ports),
    }
    return child(cluster, names, component, "v1", "Service", name, {"spec": spec})


def _spec(names: Names, component: str, ports: Mapping[str, int]) -> Manifest:
    return {
        "ipFamilyPolicy": "PreferDualStack",
        "selector": names.selector(component),
        "ports": [
            {
                "name": name,
                "port": port,
                "targetPort": port,
                "protocol": "TCP",
                "appProtocol": _PROTOCOLS[name],
            }
            for name, port in ports.items()
        ],
    }
