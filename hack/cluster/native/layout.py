"""Where a cluster's things are: names, addresses and paths, all of them from the cluster's number.

Clusters with different numbers share nothing, so that several can run on one machine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

NUMBER_MAX = 9
NODES_MAX = 60
CONTROL = "control"
# Where a machine finds its own things, whatever machine it is and wherever they lie on the host.
INSIDE = Path("/var/lib/mom")


@dataclass(frozen=True)
class Layout:
    """One cluster. Its network is 10.(231+number).0.0/16: machines in .0, pods of node N in .N."""

    number: int
    programs: Path

    @classmethod
    def from_environment(cls) -> Layout:
        """The cluster that MOM_E2E_CLUSTER names, with the programs of MOM_E2E_BIN."""
        text = os.environ.get("MOM_E2E_CLUSTER") or "0"
        if not text.isdecimal() or int(text) > NUMBER_MAX:
            raise SystemExit(f"MOM_E2E_CLUSTER is a number from 0 to {NUMBER_MAX}, not {text!r}")
        return cls(int(text), Path(os.environ["MOM_E2E_BIN"]))

    @property
    def name(self) -> str:
        """The prefix of what is named on the host: namespaces and control groups."""
        return f"mom-e2e-{self.number}"

    @property
    def bridge(self) -> str:
        """The host's network interface that the machines are on."""
        return f"mom{self.number}"

    @property
    def state(self) -> Path:
        """All files of a cluster; they go with it."""
        return Path("/var/lib/mom-e2e") / str(self.number)

    @property
    def volumes(self) -> Path:
        """The data of persistent volumes, which every node sees: as network storage would be."""
        return self.state / "volumes"

    @property
    def certificates(self) -> Path:
        """Keys, certificates and kubeconfigs."""
        return self.state / "certificates"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.certificates / "admin.kubeconfig"

    @property
    def network(self) -> str:
        """The first two numbers of every address."""
        return f"10.{231 + self.number}"

    @property
    def gateway(self) -> str:
        """The host's address on the bridge."""
        return f"{self.network}.0.1"

    @property
    def control_address(self) -> str:
        """API server (6443), DNS (53) and ingress (80)."""
        return f"{self.network}.0.2"

    def node_address(self, node: int) -> str:
        """A node's."""
        return f"{self.network}.0.{10 + node}"

    def pods(self, node: int) -> str:
        """The addresses of a node's pods."""
        return f"{self.network}.{node}.0/24"

    @property
    def all_pods(self) -> str:
        """A range that holds those of every node."""
        return f"{self.network}.0.0/17"

    @property
    def services(self) -> str:
        """The addresses of Services."""
        return f"{self.network}.128.0/17"

    @property
    def api_service(self) -> str:
        """The Service ``kubernetes``: the first of its range."""
        return f"{self.network}.128.1"

    @property
    def dns_service(self) -> str:
        """Where pods ask for names."""
        return f"{self.network}.128.10"
