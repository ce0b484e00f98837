"""Names, labels and owner of each child."""

from __future__ import annotations

from typing import Any, Final

from mom_operator.names import APPLICATION, COMPONENT_LABEL, MANAGED_BY, SHARED, Names
from mom_operator.resources.inputs import Child, Manifest
from mom_operator.spec import API_VERSION, CLUSTER_KIND, Cluster

VERSION_LABEL: Final = "app.kubernetes.io/version"


def labels(names: Names, component: str) -> dict[str, str]:
    """The labels of every child and pod. None of them changes with a version."""
    own = names.selector(component)
    if component == SHARED:
        del own[COMPONENT_LABEL]
    return {
        **own,
        "app.kubernetes.io/instance": names.cluster,
        "app.kubernetes.io/part-of": APPLICATION,
        "app.kubernetes.io/managed-by": MANAGED_BY,
    }


def owner_reference(cluster: Cluster) -> dict[str, Any]:
    """The reference by which a child goes away with its cluster."""
    return {
        "apiVersion": API_VERSION,
        "kind": CLUSTER_KIND,
        "name": cluster.name,
        "uid": cluster.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def child(
    cluster: Cluster,
    names: Names,
    component: str,
    api_version: str,
    kind: str,
    name: str,
    body: Manifest,
    annotations: dict[str, str] | None = None,
) -> Child:
    """A child with ``body`` (spec, data and the like) under the common metadata."""
    metadata: Manifest = {
        "name": name,
        "namespace": cluster.namespace,
        "labels": labels(names, component),
        "ownerReferences": [owner_reference(cluster)],
    }
    if annotations:
        metadata["annotations"] = dict(annotations)
    return Child(component, {"apiVersion": api_version, "kind": kind, "metadata": metadata, **body})
