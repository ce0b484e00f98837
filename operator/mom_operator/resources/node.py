"""The StatefulSet and headless Service of the nodes.

A pod's name is the node's id, and its DNS name the address that it advertises: both outlive the
pod. The operator replaces pods itself (``OnDelete``), after it drained them.
"""

from __future__ import annotations

from typing import Final

from mom_core.quantities import parse_bytes
from mom_operator.names import NODE, NODE_HTTP_PORT, NODE_PORT, Names
from mom_operator.resources import environment
from mom_operator.resources.inputs import Child, Inputs, Manifest
from mom_operator.resources.metadata import child
from mom_operator.resources.pods import (
    MOM_USER,
    PodParts,
    health_probes,
    pod_template,
    process_annotations,
    resources_or,
)
from mom_operator.resources.services import headless_service
from mom_operator.spec import Cluster

# A node that is told to stop hands its partitions over within ten seconds, and then ends calls.
_GRACE_SECONDS: Final = 60
_DEFAULT_RESOURCES: Final[Manifest] = {
    "requests": {"cpu": "100m", "memory": "256Mi"},
    "limits": {"memory": "1Gi"},
}


def node_children(cluster: Cluster, names: Names, inputs: Inputs) -> list[Child]:
    """Headless Service and StatefulSet of the nodes."""
    ports = {"grpc": NODE_PORT, "http": NODE_HTTP_PORT}
    return [
        headless_service(cluster, names, NODE, names.node, ports),
        child(
            cluster,
            names,
            NODE,
            "apps/v1",
            "StatefulSet",
            names.node,
            {"spec": _stateful_set(cluster, names, inputs)},
        ),
    ]


def _stateful_set(cluster: Cluster, names: Names, inputs: Inputs) -> Manifest:
    asked = inputs.node_replicas
    return {
        "replicas": cluster.spec.nodes.replicas if asked is None else asked,
        "serviceName": names.node,
        # One pod that can't start must not keep the others, nor its own mended template, waiting.
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "OnDelete"},
        "revisionHistoryLimit": 3,
        "selector": {"matchLabels": names.selector(NODE)},
        "template": _template(cluster, names, inputs),
    }


def _template(cluster: Cluster, names: Names, inputs: Inputs) -> Manifest:
    nodes = cluster.spec.nodes
    parts = PodParts(
        component=NODE,
        container=_container(cluster, names, inputs),
        service_account=names.node,
        grace_seconds=_GRACE_SECONDS,
        user=MOM_USER,
        volumes=[environment.token_volume(names)],
        template=nodes.pod_template,
        annotations=process_annotations(cluster, environment.config_digest(cluster, names, inputs)),
        rack_key=nodes.rack_topology_key,
    )
    return pod_template(cluster, names, inputs, parts)


def _container(cluster: Cluster, names: Names, inputs: Inputs) -> Manifest:
    return {
        "name": NODE,
        **environment.mom_image(cluster, inputs),
        "command": ["mom-node"],
        "env": [*_environment(cluster, names), *environment.store(cluster, names)],
        "ports": [
            {"name": "grpc", "containerPort": NODE_PORT, "protocol": "TCP"},
            {"name": "http", "containerPort": NODE_HTTP_PORT, "protocol": "TCP"},
        ],
        "resources": resources_or(cluster.spec.nodes.resources, _DEFAULT_RESOURCES),
        **health_probes(NODE_HTTP_PORT),
        "volumeMounts": [environment.token_mount()],
    }


def _environment(cluster: Cluster, names: Names) -> list[Manifest]:
    nodes = cluster.spec.nodes
    cache_bytes = parse_bytes(nodes.cache_bytes, "spec.nodes.cacheBytes")
    variables = [
        environment.from_field("POD_NAME", "metadata.name"),
        environment.variable("MOM_ID", "$(POD_NAME)"),
        environment.variable("MOM_LISTEN", f"[::]:{NODE_PORT}"),
        environment.variable("MOM_ADVERTISE", names.node_address("$(POD_NAME)")),
        environment.variable("MOM_MASTERS", names.master_address),
        environment.variable("MOM_HTTP_PORT", str(NODE_HTTP_PORT)),
        environment.variable("MOM_CACHE_BYTES", str(cache_bytes)),
        environment.variable("MOM_AUTH", "required"),
        *environment.common(cluster),
    ]
    if nodes.rack_topology_key:
        # Kubernetes copies a machine's zone and region to its pods' labels from 1.35 on; without
        # the label the variable is empty, and the operator's word to the master counts.
        label = f"metadata.labels['{nodes.rack_topology_key}']"
        variables.append(environment.from_field("MOM_RACK", label))
    return variables
