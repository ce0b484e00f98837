"""The names of everything that a cluster consists of, and the addresses that follow from them."""

from __future__ import annotations

from typing import Final

import msgspec

from mom_operator.spec import GROUP

MASTER: Final = "master"
NODE: Final = "node"
GATEWAY: Final = "gateway"
REDIS: Final = "redis"
SHARED: Final = "shared"
"""The component of what belongs to no single process."""

MASTER_PORT: Final = 7070
MASTER_HTTP_PORT: Final = 7170
NODE_PORT: Final = 7071
NODE_HTTP_PORT: Final = 7171
GATEWAY_PORT: Final = 8080
REDIS_PORT: Final = 6379

CLUSTER_LABEL: Final = f"{GROUP}/cluster"
NAME_LABEL: Final = "app.kubernetes.io/name"
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
APPLICATION: Final = "mom"
MANAGED_BY: Final = "mom-operator"
CLUSTER_DOMAIN_DEFAULT: Final = "cluster.local"


class Names(msgspec.Struct, frozen=True):
    """Names and addresses of one cluster's children."""

    cluster: str
    namespace: str
    domain: str = CLUSTER_DOMAIN_DEFAULT

    @property
    def master(self) -> str:
        """Deployment, Service and more of the masters."""
        return f"{self.cluster}-{MASTER}"

    @property
    def node(self) -> str:
        """StatefulSet, headless Service and more of the nodes."""
        return f"{self.cluster}-{NODE}"

    @property
    def gateway(self) -> str:
        """Deployment, Service, Ingress and more of the gateways."""
        return f"{self.cluster}-{GATEWAY}"

    @property
    def redis(self) -> str:
        """StatefulSet, headless Service, ConfigMap and more of managed Redis."""
        return f"{self.cluster}-{REDIS}"

    @property
    def redis_auth(self) -> str:
        """The Secret with the password of managed Redis, key ``password``."""
        return f"{self.cluster}-redis-auth"

    @property
    def redis_claim(self) -> str:
        """The PersistentVolumeClaim of managed Redis."""
        return f"data-{self.redis}-0"

    @property
    def cluster_token(self) -> str:
        """The Secret that the cluster's processes share, key ``token``."""
        return f"{self.cluster}-cluster-token"

    @property
    def admin_token(self) -> str:
        """The Secret with a token of scope admin, key ``token``."""
        return f"{self.cluster}-admin-token"

    @property
    def binding(self) -> str:
        """The Secret in the shape of the Service Binding specification."""
        return f"{self.cluster}-binding"

    @property
    def monitor(self) -> str:
        """The PodMonitor."""
        return self.cluster

    def node_pod(self, ordinal: int) -> str:
        """A pod of the StatefulSet, which is the node's id in MOM too."""
        return f"{self.node}-{ordinal}"

    def node_ordinal(self, pod: str) -> int | None:
        """The number of a pod of the StatefulSet, None when the name is none of its pods'."""
        head, _, number = pod.rpartition("-")
        return int(number) if head == self.node and number.isdecimal() else None

    def node_address(self, pod: str) -> str:
        """Where the gRPC server of a node is reached."""
        return f"{pod}.{self.host(self.node)}:{NODE_PORT}"

    def host(self, service: str) -> str:
        """The DNS name of a Service."""
        return f"{service}.{self.namespace}.svc.{self.domain}"

    @property
    def master_address(self) -> str:
        """Where any of the masters is reached."""
        return f"{self.host(self.master)}:{MASTER_PORT}"

    @property
    def nodes_address(self) -> str:
        """Where any of the nodes is reached: the headless Service resolves to all of them."""
        return f"{self.host(self.node)}:{NODE_PORT}"

    @property
    def redis_address(self) -> str:
        """Where managed Redis is reached."""
        return f"{self.host(self.redis)}:{REDIS_PORT}"

    @property
    def gateway_url(self) -> str:
        """The base URL of REST inside of the Kubernetes cluster."""
        return f"http://{self.host(self.gateway)}:{GATEWAY_PORT}"

    @property
    def admin_endpoints(self) -> tuple[str, ...]:
        """Addresses to ask first for administration."""
        return (self.master_address, self.nodes_address)

    def selector(self, component: str) -> dict[str, str]:
        """The labels that choose a component's pods. They never change."""
        return {
            NAME_LABEL: APPLICATION,
            COMPONENT_LABEL: component,
            CLUSTER_LABEL: self.cluster,
        }

    @property
    def node_selector(self) -> str:
        """The nodes' selector as text, for the scale subresource."""
        return ",".join(f"{key}={value}" for key, value in sorted(self.selector(NODE).items()))
