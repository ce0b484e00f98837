"""The Deployment and Service of the masters."""

from __future__ import annotations

from typing import Final

from mom_operator.names import MASTER, MASTER_HTTP_PORT, MASTER_PORT, Names
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
from mom_operator.resources.services import service
from mom_operator.spec import Cluster

_GRACE_SECONDS: Final = 30
_DEFAULT_RESOURCES: Final[Manifest] = {
    "requests": {"cpu": "50m", "memory": "128Mi"},
    "limits": {"memory": "512Mi"},
}


def master_children(cluster: Cluster, names: Names, inputs: Inputs) -> list[Child]:
    """Service and Deployment of the masters."""
    ports = {"grpc": MASTER_PORT, "http": MASTER_HTTP_PORT}
    return [
        service(cluster, names, MASTER, names.master, ports),
        child(
            cluster,
            names,
            MASTER,
            "apps/v1",
            "Deployment",
            names.master,
            {
                "spec": deployment(cluster.spec.master.replicas, names, MASTER)
                | {"template": _template(cluster, names, inputs)}
            },
        ),
    ]


def deployment(replicas: int, names: Names, component: str) -> Manifest:
    """The spec of a Deployment without its template: new pods first, then old ones go."""
    return {
        "replicas": replicas,
        "revisionHistoryLimit": 3,
        "progressDeadlineSeconds": 600,
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
        },
        "selector": {"matchLabels": names.selector(component)},
    }


def _template(cluster: Cluster, names: Names, inputs: Inputs) -> Manifest:
    parts = PodParts(
        component=MASTER,
        container=_container(cluster, names, inputs),
        service_account=names.master,
        grace_seconds=_GRACE_SECONDS,
        user=MOM_USER,
        volumes=[environment.token_volume(names)],
        template=cluster.spec.master.pod_template,
        annotations=process_annotations(cluster, environment.config_digest(cluster, names, inputs)),
        revision_label=True,
    )
    return pod_template(cluster, names, inputs, parts)


def _container(cluster: Cluster, names: Names, inputs: Inputs) -> Manifest:
    return {
        "name": MASTER,
        **environment.mom_image(cluster, inputs),
        "command": ["mom-master"],
        "env": [
            environment.from_field("POD_NAME", "metadata.name"),
            environment.from_field("POD_IP", "status.podIP"),
            environment.variable("MOM_ID", "$(POD_NAME)"),
            environment.variable("MOM_LISTEN", f"[::]:{MASTER_PORT}"),
            # The brackets are right for either family of addresses.
            environment.variable("MOM_ADVERTISE", f"[$(POD_IP)]:{MASTER_PORT}"),
            environment.variable("MOM_HTTP_PORT", str(MASTER_HTTP_PORT)),
            environment.variable("MOM_AUTH", "required"),
            *environment.common(cluster),
            *environment.store(cluster, names),
        ],
        "ports": [
            {"name": "grpc", "containerPort": MASTER_PORT, "protocol": "TCP"},
            {"name": "http", "containerPort": MASTER_HTTP_PORT, "protocol": "TCP"},
        ],
        "resources": resources_or(cluster.spec.master.resources, _DEFAULT_RESOURCES),
        **health_probes(MASTER_HTTP_PORT),
        "volumeMounts": [environment.token_mount()],
    }
