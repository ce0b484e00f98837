"""A cluster needs no connection that its own NetworkPolicies would forbid.

The test cluster has nobody who enforces them. What enforces would see the connections that its
machines tracked while all kinds of clients and the operator were at work, so those are judged.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from e2e.judged_load import judged_load
from e2e.kubernetes import Kubernetes, Object
from e2e.mom_cluster import MomCluster

pytestmark = pytest.mark.timeout(300)

COMPONENT = "app.kubernetes.io/component"
# The first two addresses and ports are as the caller sent, the others as the callee answers: behind
# a Service those are the pod's own.
_TRACKED = re.compile(
    r"(?P<protocol>tcp|udp) .*?src=(?P<client>\S+) dst=\S+ sport=\d+ dport=\d+ "
    r".*?src=(?P<server>\S+) dst=\S+ sport=(?P<port>\d+) "
)


class Connection(NamedTuple):
    """Who called whom; by component where that is one of the cluster's pods, else by address."""

    client: str
    server: str
    protocol: str
    port: int


class Policies:
    """The policies of a namespace, and whom they are about."""

    def __init__(self, kubernetes: Kubernetes, namespace: str) -> None:
        pods = kubernetes.get("pods", "-A")["items"]
        self.pods = {pod["status"]["podIP"]: pod for pod in pods if pod["status"].get("podIP")}
        self._policies = kubernetes.get("networkpolicies", "-n", namespace)["items"]
        spaces = kubernetes.get("namespaces")["items"]
        self._labels = {one["metadata"]["name"]: one["metadata"]["labels"] for one in spaces}
        self._namespace = namespace

    def forbids(self, client: str, server: str, protocol: str, port: int) -> bool:
        """Whether a connection between two addresses would not come about."""
        ways = (("ingress", "from", server, client), ("egress", "to", client, server))
        return not all(
            self._lets(direction, peers, of, other, protocol, port)
            for direction, peers, of, other in ways
        )

    def _lets(
        self, direction: str, peers: str, of: str, other: str, protocol: str, port: int
    ) -> bool:
        pod = self.pods.get(of)
        if pod is None or pod["metadata"]["namespace"] != self._namespace:
            return True
        about = [
            one["spec"]
            for one in self._policies
            if _matches(one["spec"]["podSelector"], pod["metadata"]["labels"])
            and direction.capitalize() in one["spec"]["policyTypes"]
        ]
        rules = [rule for spec in about for rule in spec.get(direction) or ()]
        return not about or any(
            self._rule_lets(rule, peers, other, protocol, port) for rule in rules
        )

    def _rule_lets(self, rule: Object, peers: str, other: str, protocol: str, port: int) -> bool:
        ports = rule.get("ports") or ()
        if ports and not any(
            one.get("protocol", "TCP") == protocol and one.get("port") == port for one in ports
        ):
            return False
        return not rule.get(peers) or any(self._is_peer(one, other) for one in rule[peers])

    def _is_peer(self, peer: Object, address: str) -> bool:
        pod = self.pods.get(address)
        if pod is None:
            return False
        metadata = pod["metadata"]
        if "namespaceSelector" in peer:
            if not _matches(peer["namespaceSelector"], self._labels[metadata["namespace"]]):
                return False
        elif metadata["namespace"] != self._namespace:
            return False
        return _matches(peer.get("podSelector", {}), metadata["labels"])


def _matches(selector: Object, labels: dict[str, str]) -> bool:
    assert not selector.get("matchExpressions"), "not evaluated here"
    wanted: dict[str, Any] = selector.get("matchLabels") or {}
    return all(labels.get(key) == value for key, value in wanted.items())


async def test_no_connection_is_one_that_the_policies_forbid(
    shared_mom: MomCluster, tmp_path: Path
) -> None:
    kubernetes = shared_mom.namespace.cluster
    async with judged_load(shared_mom, tmp_path):
        tracked = kubernetes.connections()
    policies = Policies(kubernetes, shared_mom.namespace.name)
    own = {
        address: pod
        for address, pod in policies.pods.items()
        if pod["metadata"]["namespace"] == shared_mom.namespace.name
        and not pod["spec"].get("hostNetwork")
    }
    machines = {f"{address.rpartition('.')[0]}.1" for address in own}

    def name(address: str) -> str:
        pod = policies.pods.get(address)
        return pod["metadata"]["labels"].get(COMPONENT, "operator") if pod else address

    seen, forbidden = set(), set()
    for found in _TRACKED.finditer(tracked):
        client, server, port = found["client"], found["server"], int(found["port"])
        # Probes come from the machine itself, which policies don't shut out.
        if client in machines or not {client, server} & own.keys():
            continue
        protocol = found["protocol"].upper()
        connection = Connection(name(client), name(server), protocol, port)
        seen.add(connection)
        if policies.forbids(client, server, protocol, port):
            forbidden.add(connection)
    assert not forbidden
    pairs = {(one.client, one.server) for one in seen}
    assert pairs >= {
        ("node", "redis"),
        ("master", "redis"),
        ("node", "master"),
        ("gateway", "node"),
        ("operator", "master"),
    }, "the load makes them all"
    stranger = next(address for address in policies.pods if address not in own)
    redis = next(one for one, pod in own.items() if name(one) == "redis")
    assert policies.forbids(stranger, redis, "TCP", 6379)
