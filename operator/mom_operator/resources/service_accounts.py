"""One ServiceAccount a component, so that policies can tell them apart. None calls the API."""

from __future__ import annotations

from mom_operator.names import GATEWAY, MASTER, NODE, REDIS, Names
from mom_operator.resources.inputs import Child
from mom_operator.resources.metadata import child
from mom_operator.spec import Cluster


def components(cluster: Cluster) -> list[str]:
    """The components that run as pods of the cluster."""
    managed = [REDIS] if cluster.spec.redis.managed is not None else []
    return [*managed, MASTER, NODE, GATEWAY]


def service_account_children(cluster: Cluster, names: Names) -> list[Child]:
    """The ServiceAccounts."""
    return [
        child(
            cluster,
            names,
            component,
            "v1",
            "ServiceAccount",
            f"{names.cluster}-{component}",
            {"automountServiceAccountToken": False},
        )
        for component in components(cluster)
    ]
