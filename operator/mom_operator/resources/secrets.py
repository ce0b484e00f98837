"""The Secrets of a cluster. Their values are given; nothing here makes or changes one."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping

from mom_operator.names import GATEWAY_PORT, REDIS, SHARED, Names
from mom_operator.resources.inputs import Child, Inputs
from mom_operator.resources.metadata import child
from mom_operator.resources.redis import AUTH_KEY, redis_auth_file
from mom_operator.spec import Cluster

BINDING_TYPE = "servicebinding.io/mom"


def secret_children(cluster: Cluster, names: Names, inputs: Inputs) -> list[Child]:
    """Those Secrets of ours whose value is known."""
    children = []
    password = _value(inputs, names.redis_auth, "password")
    if password and cluster.spec.redis.managed is not None:
        data = {"password": password, AUTH_KEY: redis_auth_file(password.decode()).encode()}
        children.append(_secret(cluster, names, REDIS, names.redis_auth, data))
    for name in (names.cluster_token, names.admin_token):
        token = _value(inputs, name, "token")
        if token:
            children.append(_secret(cluster, names, SHARED, name, {"token": token}))
    token = _value(inputs, names.binding, "token") or _value(inputs, names.admin_token, "token")
    if token:
        data = _binding(names, token)
        children.append(_secret(cluster, names, SHARED, names.binding, data, BINDING_TYPE))
    return children


def _binding(names: Names, token: bytes) -> dict[str, bytes]:
    """What an application mounts to reach the cluster, by the Service Binding specification."""
    return {
        "type": b"mom",
        "provider": b"mom",
        "host": names.host(names.gateway).encode(),
        "port": str(GATEWAY_PORT).encode(),
        "uri": names.gateway_url.encode(),
        "token": token,
    }


def _value(inputs: Inputs, name: str, key: str) -> bytes:
    return inputs.secrets.get(name, {}).get(key, b"")


def _secret(
    cluster: Cluster,
    names: Names,
    component: str,
    name: str,
    data: Mapping[str, bytes],
    kind: str = "Opaque",
) -> Child:
    # As data and not as stringData, which no comparison with what exists would ever find equal.
    body = {
        "type": kind,
        "data": {key: b64encode(value).decode() for key, value in data.items()},
    }
    return child(cluster, names, component, "v1", "Secret", name, body)
