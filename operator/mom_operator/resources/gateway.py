"""The Deployment, Service and Ingress of the gateway.

No call fails when a gateway goes: its pod serves on while proxies learn that it leaves (preStop),
then answers with ``Connection: close`` for a while, then finishes what is under way.
"""

from __future__ import annotations

from typing import Final

from mom_core.quantities import parse_bytes
from mom_operator.names import GATEWAY, GATEWAY_PORT, Names
from mom_operator.resources import environment
from mom_operator.resources.ingress import ingress
from mom_operator.resources.inputs import Child, Inputs, Manifest
from mom_operator.resources.master import deployment
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
from mom_operator.spec import Cluster, GatewayAuth

PRE_STOP_SECONDS: Final = 10
_DRAIN_MS: Final = 5_000
# Both of the above, ten seconds in which the gateway ends requests under way, and a margin.
_GRACE_SECONDS: Final = 40
_DEFAULT_RESOURCES: Final[Manifest] = {
    "requests": {"cpu": "100m", "memory": "192Mi"},
    "limits": {"memory": "1Gi"},
}


def gateway_children(cluster: Cluster, names: Names, inputs: Inputs) -> list[Child]:
    """Service, Deployment and, where it is asked for, Ingress of the gateway."""
    children = [
        service(cluster, names, GATEWAY, names.gateway, {"http": GATEWAY_PORT}),
        child(
            cluster,
            names,
            GATEWAY,
            "apps/v1",
            "Deployment",
            names.gateway,
            {
                "spec": deployment(cluster.spec.gateway.replicas, names, GATEWAY)
                | {"template": _template(cluster, names, inputs)}
            },
        ),
    ]
    wanted = cluster.spec.gateway.ingress
    return children if wanted is None else [*children, ingress(cluster, names, wanted)]


def _template(cluster: Cluster, names: Names, inputs: Inputs) -> Manifest:
    parts = PodParts(
        component=GATEWAY,
        container=_container(cluster, names, inputs),
        service_account=names.gateway,
        grace_seconds=_GRACE_SECONDS,
        user=MOM_USER,
        volumes=[environment.token_volume(names)],
        template=cluster.spec.gateway.pod_template,
        annotations=process_annotations(cluster, environment.config_digest(cluster, names, inputs)),
        revision_label=True,
    )
    return pod_template(cluster, names, inputs, parts)


def _container(cluster: Cluster, names: Names, inputs: Inputs) -> Manifest:
    gateway = cluster.spec.gateway
    body_bytes_max = parse_bytes(gateway.body_bytes_max, "spec.gateway.bodyBytesMax")
    return {
        "name": GATEWAY,
        **environment.mom_image(cluster, inputs),
        "command": ["mom-gateway"],
        "env": [
            environment.variable("MOM_LISTEN", f"[::]:{GATEWAY_PORT}"),
            environment.variable("MOM_NODES", names.nodes_address),
            environment.variable("MOM_BODY_BYTES_MAX", str(body_bytes_max)),
            environment.variable("MOM_DRAIN_MS", str(_DRAIN_MS)),
            *_access(gateway.auth),
            *environment.common(cluster),
        ],
        "ports": [{"name": "http", "containerPort": GATEWAY_PORT, "protocol": "TCP"}],
        "resources": resources_or(gateway.resources, _DEFAULT_RESOURCES),
        **health_probes(GATEWAY_PORT),
        # By a program and not by the handler "sleep", which Kubernetes 1.29 does not have.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(PRE_STOP_SECONDS)]}}},
        "volumeMounts": [environment.token_mount()],
    }


def _access(auth: GatewayAuth) -> list[Manifest]:
    if auth is GatewayAuth.REQUIRED:
        return [environment.variable("MOM_AUTH", "required")]
    return [
        environment.variable("MOM_AUTH", "disabled"),
        environment.variable("MOM_ALLOW_UNAUTHENTICATED_NETWORK_ACCESS", "true"),
    ]
