"""The environment of MOM's processes: flags as ``MOM_…`` variables, secrets by reference only."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Final

from mom_operator.names import Names
from mom_operator.resources.inputs import Inputs, Manifest, image_reference
from mom_operator.resources.pods import digest
from mom_operator.spec import Cluster, ExternalRedis

CLUSTER_TOKEN_PATH: Final = "/etc/mom/cluster-token"
CLUSTER_TOKEN_VOLUME: Final = "cluster-token"
# While the store is away a process waits for it; ending would only let Kubernetes back off.
STORE_WAIT_MS: Final = 24 * 3_600_000


def variable(name: str, value: str) -> Manifest:
    """An environment variable with a plain value."""
    return {"name": name, "value": value}


def from_field(name: str, path: str) -> Manifest:
    """An environment variable from a field of the pod."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def from_secret(name: str, secret: str, key: str) -> Manifest:
    """An environment variable from a key of a Secret."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def common(cluster: Cluster) -> list[Manifest]:
    """Variables of every process."""
    return [
        variable("MOM_LOG_FORMAT", "json"),
        variable("MOM_LOG_LEVEL", cluster.spec.log_level),
        variable("MOM_CLUSTER_TOKEN_FILE", f"{CLUSTER_TOKEN_PATH}/token"),
    ]


def store(cluster: Cluster, names: Names) -> list[Manifest]:
    """Variables of the processes that use the store."""
    external = cluster.spec.redis.external
    variables = _managed_store(names) if external is None else _external_store(cluster, external)
    return [*variables, variable("MOM_STORE_WAIT_MS", str(STORE_WAIT_MS))]


def _managed_store(names: Names) -> list[Manifest]:
    return [
        from_secret("REDIS_PASSWORD", names.redis_auth, "password"),
        # Kubernetes puts the value in, so the pod's spec does not show it.
        variable("MOM_STORE", f"redis://:$(REDIS_PASSWORD)@{names.redis_address}"),
    ]


def _external_store(cluster: Cluster, external: ExternalRedis) -> list[Manifest]:
    reference = external.url_secret_ref
    variables = [
        from_secret("MOM_STORE", reference.name, reference.key),
        variable("MOM_NAMESPACE", external.key_prefix or f"{cluster.namespace}.{cluster.name}"),
        variable("MOM_ACCEPT_DURABILITY", external.durability),
    ]
    if external.declared_durability:
        variables.append(variable("MOM_DECLARED_DURABILITY", external.declared_durability))
    if external.replicas_required:
        variables.append(variable("MOM_REPLICAS_REQUIRED", str(external.replicas_required)))
    return variables


def token_volume(names: Names) -> Manifest:
    """The volume with the cluster's token."""
    return {
        "name": CLUSTER_TOKEN_VOLUME,
        "secret": {"secretName": names.cluster_token, "defaultMode": 0o444},
    }


def token_mount() -> Manifest:
    """Where a process finds the cluster's token."""
    return {"name": CLUSTER_TOKEN_VOLUME, "mountPath": CLUSTER_TOKEN_PATH, "readOnly": True}


def mom_image(cluster: Cluster, inputs: Inputs) -> Manifest:
    """Image and pull policy of MOM's own processes."""
    image = cluster.spec.image
    reference = f"{image.repository}:{image.tag or cluster.spec.version}"
    return {
        "image": image_reference(reference, inputs.settings.image_registry),
        "imagePullPolicy": image.pull_policy,
    }


def config_digest(cluster: Cluster, names: Names, inputs: Inputs) -> str:
    """Digest of the Secrets that processes read at their start.

    Keyed with the cluster's token, so that whoever may read pods can't try passwords against it.
    """
    token = inputs.secrets.get(names.cluster_token, {}).get("token", b"")
    external = cluster.spec.redis.external
    if external is None:
        address = inputs.secrets.get(names.redis_auth, {}).get("password", b"")
    else:
        reference = external.url_secret_ref
        address = inputs.secrets.get(reference.name, {}).get(reference.key, b"")
    return digest(hmac.digest(token or b"none", token + b"\0" + address, sha256))
