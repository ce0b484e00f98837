"""PodDisruptionBudgets: a drain of Kubernetes nodes takes one process of a kind at a time.

Not for Redis: with one pod a budget could only forbid its eviction, and block the drain for ever.
"""

from __future__ import annotations

from mom_operator.names import GATEWAY, MASTER, NODE, Names
from mom_operator.resources.inputs import Child
from mom_operator.resources.metadata import child
from mom_operator.spec import BudgetPolicy, Cluster


def budget_children(cluster: Cluster, names: Names) -> list[Child]:
    """The budgets, where the spec wants them."""
    if cluster.spec.availability.pod_disruption_budget is BudgetPolicy.DISABLED:
        return []
    allowed = {MASTER: 1, NODE: cluster.spec.rollout.max_unavailable, GATEWAY: 1}
    return [
        child(
            cluster,
            names,
            component,
            "policy/v1",
            "PodDisruptionBudget",
            f"{names.cluster}-{component}",
            {
                "spec": {
                    "maxUnavailable": count,
                    "selector": {"matchLabels": names.selector(component)},
                    # A pod that does not work anyway must not keep a machine from being drained.
                    "unhealthyPodEvictionPolicy": "AlwaysAllow",
                }
            },
        )
        for component, count in allowed.items()
    ]
