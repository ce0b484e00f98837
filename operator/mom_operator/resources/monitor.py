"""The PodMonitor of the Prometheus operator, where it is wanted and known to the API server."""

from __future__ import annotations

from mom_operator.names import CLUSTER_LABEL, COMPONENT_LABEL, GATEWAY, MASTER, NODE, SHARED, Names
from mom_operator.resources.inputs import Child, Inputs
from mom_operator.resources.metadata import child
from mom_operator.spec import Cluster


def monitor_children(cluster: Cluster, names: Names, inputs: Inputs) -> list[Child]:
    """One PodMonitor for all processes of MOM: each names its page's port ``http``."""
    if not (cluster.spec.monitoring.enabled and inputs.settings.pod_monitors):
        return []
    spec = {
        "selector": {
            "matchLabels": {CLUSTER_LABEL: names.cluster},
            "matchExpressions": [
                {"key": COMPONENT_LABEL, "operator": "In", "values": [MASTER, NODE, GATEWAY]}
            ],
        },
        "podTargetLabels": [CLUSTER_LABEL, COMPONENT_LABEL],
        "podMetricsEndpoints": [{"port": "http", "path": "/metrics"}],
    }
    return [
        child(
            cluster,
            names,
            SHARED,
            "monitoring.coreos.com/v1",
            "PodMonitor",
            names.monitor,
            {"spec": spec},
        )
    ]
