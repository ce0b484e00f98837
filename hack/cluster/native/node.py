"""The machines ``node1``, ``node2``, …: containerd, kubelet and kube-proxy with their settings."""

from __future__ import annotations

import json

from certificates import Authority
from layout import INSIDE, Layout
from machine import Machine

_BIN = f"{INSIDE}/bin"
_KEYS = f"{INSIDE}/certificates"
_SOCKET = "/run/containerd/containerd.sock"
PAUSE_IMAGE = "mom.local/pause:1"


def machine(layout: Layout, number: int) -> Machine:
    """The machine of a node, made or not."""
    return Machine(layout, f"node{number}", layout.node_address(number))


def prepare(layout: Layout, authority: Authority, number: int) -> Machine:
    """Write all that it needs."""
    made = machine(layout, number)
    authority.issue_kubeconfig(
        made.name,
        f"/O=system:nodes/CN=system:node:{made.name}",
        [f"DNS:{made.name}", f"IP:{made.address}"],
    )
    services = {
        "containerd": ["containerd", "-c", f"{INSIDE}/containerd.toml"],
        "kubelet": _kubelet(made, number),
        "proxy": [f"{_BIN}/kube-proxy", f"--config={INSIDE}/proxy.json"],
    }
    files = {
        "containerd.toml": _CONTAINERD,
        "cni/10-mom.conflist": json.dumps(_cni(layout, number)),
        "kubelet.json": json.dumps(_kubelet_settings(layout, made)),
        "proxy.json": json.dumps(_proxy_settings(layout, made)),
        "resolv.conf": f"nameserver {layout.control_address}\n",
    }
    keys = ["ca.crt", "proxy.kubeconfig"]
    keys += [f"{made.name}.{kind}" for kind in ("crt", "key", "kubeconfig")]
    made.prepare(services, files, keys)
    return made


def _kubelet(made: Machine, number: int) -> list[str]:
    command = [
        f"{_BIN}/kubelet",
        f"--config={INSIDE}/kubelet.json",
        f"--kubeconfig={_KEYS}/{made.name}.kubeconfig",
        f"--hostname-override={made.name}",
        f"--node-ip={made.address}",
        f"--node-labels=topology.kubernetes.io/zone=zone-{number}",
    ]
    wait = f"until test -S {_SOCKET}; do sleep 0.1; done; exec "
    return ["sh", "-c", wait + " ".join(command)]


# restrict_oom_score_adj: in a container or a small virtual machine root may not lower it.
_CONTAINERD = f"""version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{INSIDE}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""


def _cni(layout: Layout, number: int) -> dict[str, object]:
    # ptp routes each packet, also between pods of one node, so Services work without br_netfilter.
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": layout.pods(number)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    return {
        "cniVersion": "1.0.0",
        "name": "mom",
        "plugins": [
            {"type": "ptp", "ipMasq": False, "ipam": addresses},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def _kubelet_settings(layout: Layout, made: Machine) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{_KEYS}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "address": made.address,
        "tlsCertFile": f"{_KEYS}/{made.name}.crt",
        "tlsPrivateKeyFile": f"{_KEYS}/{made.name}.key",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{layout.name}/{made.name}",
        "failSwapOn": False,
        "clusterDNS": [layout.dns_service],
        "clusterDomain": "cluster.local",
        "resolvConf": f"{INSIDE}/resolv.conf",
        "containerRuntimeEndpoint": f"unix://{_SOCKET}",
        # Nodes share one disk and can fetch no image again: they neither evict nor clean up.
        "evictionHard": {
            "memory.available": "200Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "localStorageCapacityIsolation": False,
        "nodeStatusUpdateFrequency": "4s",
        "nodeLeaseDurationSeconds": 12,
    }


def _proxy_settings(layout: Layout, made: Machine) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{_KEYS}/proxy.kubeconfig"},
        "hostnameOverride": made.name,
        "mode": "iptables",
        "clusterCIDR": layout.all_pods,
        # The host's limits of connection tracking are the host's.
        "conntrack": {"maxPerCore": 0, "min": 0},
    }
