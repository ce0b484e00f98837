"""The Ingress before the gateway, with what the common controllers need for messaging.

Bodies may be streamed without end and answers too, a long poll lasts up to 55 s, and streams send
heartbeats. So: no limit on bodies (the gateway has its own), no buffering, and read timeouts well
above a poll. Traefik neither buffers nor limits bodies; its one timeout of this kind (readTimeout
of the entry point, 60 s by default) belongs to its own configuration and only cuts uploads.
"""

from __future__ import annotations

from typing import Final

from mom_operator.names import GATEWAY, Names
from mom_operator.resources.inputs import Child, Manifest
from mom_operator.resources.metadata import child
from mom_operator.spec import Cluster, Ingress

_TIMEOUT_SECONDS: Final = 3600
_NGINX: Final = {
    "proxy-body-size": "0",
    "proxy-buffering": "off",
    "proxy-request-buffering": "off",
    "proxy-http-version": "1.1",
    "proxy-read-timeout": str(_TIMEOUT_SECONDS),
    "proxy-send-timeout": str(_TIMEOUT_SECONDS),
}
ANNOTATIONS: Final = {
    f"nginx.ingress.kubernetes.io/{name}": value for name, value in _NGINX.items()
}


def ingress(cluster: Cluster, names: Names, wanted: Ingress) -> Child:
    """The Ingress of the gateway; the user's annotations win over ours."""
    spec: Manifest = {"rules": [_rule(names, wanted.host)]}
    if wanted.class_name:
        spec["ingressClassName"] = wanted.class_name
    if wanted.tls_secret_name:
        hosts = {"hosts": [wanted.host]} if wanted.host else {}
        spec["tls"] = [{**hosts, "secretName": wanted.tls_secret_name}]
    return child(
        cluster,
        names,
        GATEWAY,
        "networking.k8s.io/v1",
        "Ingress",
        names.gateway,
        {"spec": spec},
        annotations=ANNOTATIONS | wanted.annotations,
    )


def ingress_url(wanted: Ingress) -> str:
    """The URL by which the Ingress is reached; empty where every host is."""
    scheme = "https" if wanted.tls_secret_name else "http"
    return f"{scheme}://{wanted.host}" if wanted.host else ""


def _rule(names: Names, host: str) -> Manifest:
    backend = {"service": {"name": names.gateway, "port": {"name": "http"}}}
    rule: Manifest = {"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    return {"host": host, **rule} if host else rule
