"""Everything that a MomCluster consists of, as manifests: pure functions of spec and inputs."""

from __future__ import annotations

from mom_operator.names import Names
from mom_operator.resources.budgets import budget_children
from mom_operator.resources.gateway import gateway_children
from mom_operator.resources.inputs import Child, Inputs, Manifest, OperatorSettings
from mom_operator.resources.master import master_children
from mom_operator.resources.monitor import monitor_children
from mom_operator.resources.network_policies import network_policy_children
from mom_operator.resources.node import node_children
from mom_operator.resources.pods import pod_template_hash
from mom_operator.resources.redis import redis_children
from mom_operator.resources.secrets import secret_children
from mom_operator.resources.service_accounts import service_account_children
from mom_operator.spec import Cluster

__all__ = [
    "Child",
    "Inputs",
    "Manifest",
    "OperatorSettings",
    "desired",
    "pod_template_hash",
]


def desired(cluster: Cluster, inputs: Inputs) -> tuple[Child, ...]:
    """All children, in the order in which they are applied: what others refer to comes first.

    Equal arguments give equal manifests. Raises InvalidArgumentError when a quantity of the spec
    can't be read.
    """
    names = Names(cluster.name, cluster.namespace, inputs.settings.cluster_domain)
    managed = cluster.spec.redis.managed
    return (
        *service_account_children(cluster, names),
        *secret_children(cluster, names, inputs),
        *network_policy_children(cluster, names, inputs),
        *(redis_children(cluster, names, inputs, managed) if managed is not None else ()),
        *budget_children(cluster, names),
        *master_children(cluster, names, inputs),
        *node_children(cluster, names, inputs),
        *gateway_children(cluster, names, inputs),
        *monitor_children(cluster, names, inputs),
    )
