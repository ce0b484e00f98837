"""The machine ``control``: API server with etcd, controllers, scheduler, DNS, ingress, volumes."""

from __future__ import annotations

from certificates import Authority
from layout import CONTROL, INSIDE, Layout
from machine import Machine

_BIN = f"{INSIDE}/bin"
_KEYS = f"{INSIDE}/certificates"
_ETCD = "http://127.0.0.1:2379"
_ETCD_PEER = "http://127.0.0.1:2380"
# A node that says nothing for so long is NotReady; with Kubernetes' 50 s tests would be slow.
NODE_GRACE_SECONDS = 12


def machine(layout: Layout) -> Machine:
    """The machine, made or not."""
    return Machine(layout, CONTROL, layout.control_address)


def prepare(layout: Layout, authority: Authority) -> Machine:
    """Write all that it needs."""
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")
    addresses = (layout.api_service, layout.control_address, "127.0.0.1")
    authority.issue(
        "apiserver",
        "/CN=kube-apiserver",
        [f"DNS:{name}" for name in names] + [f"IP:{address}" for address in addresses],
    )
    authority.issue_kubeconfig("admin", "/O=system:masters/CN=admin")
    for name in ("controller-manager", "scheduler"):
        authority.issue_kubeconfig(name, f"/CN=system:kube-{name}")
    authority.issue_kubeconfig("proxy", "/CN=system:kube-proxy")
    made = machine(layout)
    services = {
        "etcd": _etcd(),
        "apiserver": _api_server(layout),
        "controller-manager": _after_api(layout, _controller_manager()),
        "scheduler": _after_api(layout, _scheduler()),
        "coredns": _after_api(layout, [f"{_BIN}/coredns", "-conf", f"{INSIDE}/Corefile"]),
        "traefik": _after_api(layout, _traefik(layout)),
        "volumes": _after_api(layout, _volumes(layout)),
    }
    keys = ["ca.crt", "ca.key", "accounts.key", "apiserver.crt", "apiserver.key", "admin.crt"]
    keys += ["admin.key", "admin.kubeconfig", "controller-manager.kubeconfig"]
    made.prepare(services, {"Corefile": _corefile(layout)}, [*keys, "scheduler.kubeconfig"])
    return made


def _after_api(layout: Layout, command: list[str]) -> list[str]:
    """The command, begun when the API server answers: these give up slowly and start slowly."""
    url = f"https://{layout.control_address}:6443/readyz"
    return ["python3", f"{INSIDE}/native/after.py", url, f"{_KEYS}/ca.crt", *command]


def _etcd() -> list[str]:
    return [
        f"{_BIN}/etcd",
        "--data-dir=/var/lib/etcd",
        # The cluster does not outlive its machine, so nothing needs to be on disk.
        "--unsafe-no-fsync",
        "--log-level=warn",
        f"--listen-client-urls={_ETCD}",
        f"--advertise-client-urls={_ETCD}",
        f"--listen-peer-urls={_ETCD_PEER}",
        f"--initial-advertise-peer-urls={_ETCD_PEER}",
        f"--initial-cluster=default={_ETCD_PEER}",
    ]


def _api_server(layout: Layout) -> list[str]:
    return [
        f"{_BIN}/kube-apiserver",
        f"--etcd-servers={_ETCD}",
        f"--advertise-address={layout.control_address}",
        "--secure-port=6443",
        "--allow-privileged",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--client-ca-file={_KEYS}/ca.crt",
        f"--tls-cert-file={_KEYS}/apiserver.crt",
        f"--tls-private-key-file={_KEYS}/apiserver.key",
        f"--kubelet-client-certificate={_KEYS}/admin.crt",
        f"--kubelet-client-key={_KEYS}/admin.key",
        f"--kubelet-certificate-authority={_KEYS}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={_KEYS}/accounts.key",
        f"--service-account-signing-key-file={_KEYS}/accounts.key",
        f"--service-cluster-ip-range={layout.services}",
    ]


def _controller_manager() -> list[str]:
    return [
        f"{_BIN}/kube-controller-manager",
        f"--kubeconfig={_KEYS}/controller-manager.kubeconfig",
        "--use-service-account-credentials",
        f"--service-account-private-key-file={_KEYS}/accounts.key",
        f"--root-ca-file={_KEYS}/ca.crt",
        f"--cluster-signing-cert-file={_KEYS}/ca.crt",
        f"--cluster-signing-key-file={_KEYS}/ca.key",
        "--leader-elect=false",
        f"--node-monitor-grace-period={NODE_GRACE_SECONDS}s",
    ]


def _scheduler() -> list[str]:
    return [
        f"{_BIN}/kube-scheduler",
        f"--kubeconfig={_KEYS}/scheduler.kubeconfig",
        "--leader-elect=false",
    ]


def _traefik(layout: Layout) -> list[str]:
    return [
        "env",
        f"KUBECONFIG={_KEYS}/admin.kubeconfig",
        f"{_BIN}/traefik",
        "--global.checknewversion=false",
        "--global.sendanonymoususage=false",
        f"--entrypoints.web.address={layout.control_address}:80",
        "--providers.kubernetesingress=true",
    ]


def _volumes(layout: Layout) -> list[str]:
    server = f"https://{layout.control_address}:6443"
    return ["python3", f"{INSIDE}/native/volumes.py", server, _KEYS, f"{INSIDE}/volumes"]


def _corefile(layout: Layout) -> str:
    # Nothing outside of the cluster has a name in it: a test that needs the internet fails at once.
    return f"""cluster.local in-addr.arpa {{
    bind {layout.control_address}
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {_KEYS}/admin.kubeconfig
        ttl 2
    }}
}}
. {{
    bind {layout.control_address}
    template ANY ANY . {{
        rcode NXDOMAIN
    }}
}}
"""


def objects(layout: Layout) -> list[dict[str, object]]:
    """What a cluster has from its start: a Service for DNS, a storage class, an ingress class."""
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": layout.dns_service, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns-control",
                "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": "kube-dns"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [layout.control_address], "conditions": {"ready": True}}],
            "ports": ports,
        },
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": "standard",
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "mom-e2e/volumes",
            "volumeBindingMode": "Immediate",
            "reclaimPolicy": "Delete",
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IngressClass",
            "metadata": {
                "name": "traefik",
                "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"},
            },
            "spec": {"controller": "traefik.io/ingress-controller"},
        },
    ]
