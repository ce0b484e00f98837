"""Names of the cluster, for clients that run in the test's own process and outside of it.

Hosts of Ingresses (``….mom.test``) stand in no name server: here they resolve to the ingress.
Nodes advertise names of the cluster's own DNS. Where the test can reach pods, MOM_E2E_DNS says
where that DNS is, and gRPC asks it; elsewhere SDKs find out that they reach no node.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import grpc

HOST_SUFFIX = ".mom.test"
CLUSTER_SUFFIX = ".svc.cluster.local"


@contextmanager
def resolved(ingress_url: str, dns: str) -> Iterator[None]:
    """Within the block names resolve as said above. ``dns`` is ``host:port``, or empty."""
    ingress = urlsplit(ingress_url).hostname
    plain, channel = socket.getaddrinfo, grpc.aio.insecure_channel

    def getaddrinfo(host: Any, *rest: Any, **named: Any) -> Any:
        text = host.decode() if isinstance(host, bytes) else host
        found = ingress if isinstance(text, str) and text.endswith(HOST_SUFFIX) else host
        return plain(found, *rest, **named)

    def insecure_channel(target: str, *rest: Any, **named: Any) -> grpc.aio.Channel:
        host = target.rpartition(":")[0]
        if dns and host.endswith(CLUSTER_SUFFIX):
            target = f"dns://{dns}/{target}"
        return channel(target, *rest, **named)

    with (
        mock.patch.object(socket, "getaddrinfo", getaddrinfo),
        mock.patch.object(grpc.aio, "insecure_channel", insecure_channel),
    ):
        yield
