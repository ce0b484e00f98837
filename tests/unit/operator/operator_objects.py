"""Objects for the tests of the operator, as the API server would give them."""

from __future__ import annotations

from typing import Any

from mom_operator.resources import Inputs, OperatorSettings
from mom_operator.spec import Cluster, parse_cluster

UID = "11111111-2222-3333-4444-555555555555"

SECRETS = {
    "my-mom-redis-auth": {"password": b"s3cret"},
    "my-mom-cluster-token": {"token": b"shared-word"},
    "my-mom-admin-token": {"token": b"mom_0123"},
}


def cluster_object(spec: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    """A MomCluster, minimal unless ``spec`` says more."""
    return {
        "apiVersion": "mom.dev/v1alpha1",
        "kind": "MomCluster",
        "metadata": {
            "name": "my-mom",
            "namespace": "shop",
            "uid": UID,
            "generation": 1,
            **metadata,
        },
        "spec": {"version": "0.1.0", "redis": {"managed": {}}} | (spec or {}),
    }


def make_cluster(spec: dict[str, Any] | None = None, **metadata: Any) -> Cluster:
    """A MomCluster, read."""
    return parse_cluster(cluster_object(spec, **metadata))


MINIMAL = make_cluster()
MINIMAL_INPUTS = Inputs(secrets=SECRETS)

FULL = make_cluster(
    {
        "version": "0.2.0",
        "image": {
            "repository": "registry.example/mom",
            "tag": "0.2.0-debug",
            "pullPolicy": "Always",
            "pullSecrets": [{"name": "own"}, {"name": "shared"}],
        },
        "nodes": {
            "replicas": 5,
            "resources": {"limits": {"memory": "2Gi"}},
            "cacheBytes": "128Mi",
            "podTemplate": {
                "metadata": {"labels": {"team": "a", "mom.dev/cluster": "stolen"}},
                "spec": {
                    "nodeSelector": {"disk": "ssd"},
                    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
                    "containers": [{"name": "node", "env": [{"name": "TZ", "value": "UTC"}]}],
                },
            },
        },
        "gateway": {
            "replicas": 3,
            "auth": "Disabled",
            "ingress": {
                "className": "traefik",
                "host": "mom.example.com",
                "tlsSecretName": "mom-tls",
                "annotations": {"nginx.ingress.kubernetes.io/proxy-body-size": "1g"},
            },
        },
        "redis": {
            "external": {
                "urlSecretRef": {"name": "my-redis", "key": "address"},
                "durability": "os",
                "declaredDurability": "provider",
                "replicasRequired": 1,
            }
        },
        "rollout": {"maxUnavailable": 2},
        "monitoring": {"enabled": True},
        "deletionPolicy": "Delete",
    },
    annotations={"mom.dev/restart": "2026-01-31"},
)
FULL_INPUTS = Inputs(
    settings=OperatorSettings(
        image_registry="mirror.example",
        pull_secrets=("shared", "mirror"),
        cluster_domain="k8s.example",
        operator_namespace="mom-system",
        pod_monitors=True,
    ),
    secrets=SECRETS | {"my-redis": {"address": b"redis://elsewhere:6379"}},
    node_replicas=6,
)
