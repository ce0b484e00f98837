"""A machine of the cluster: namespaces on this host, and a first process that holds all of them.

Network, mounts and processes are its own. When its first process ends, the kernel ends every other
process in it and drops its mounts: that is both how a machine loses its power and how nothing of
it is left behind.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from layout import INSIDE, Layout

STOP_SECONDS_MAX = 20.0
START_SECONDS_MAX = 10.0
CONTROL_GROUPS = Path("/sys/fs/cgroup")
_HERE = Path(__file__).resolve().parent
# The caller's proxies and settings are not the cluster's.
_ENVIRONMENT = {
    "PATH": f"{INSIDE}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/",
    "LC_ALL": "C.UTF-8",
}


def ip(*lines: str, namespace: str = "", tolerant: bool = False) -> None:
    """Run commands of ip(8), one a line."""
    where = ["-n", namespace] if namespace else []
    how = ["-force"] if tolerant else []
    result = subprocess.run(
        ["ip", *where, *how, "-batch", "-"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
    )
    if result.returncode and not tolerant:
        raise SystemExit(f"ip failed:\n{result.stderr}")


def _processes_in(namespace: str) -> list[int]:
    """The processes that are in a network namespace: none but ours are in one of ours."""
    try:
        wanted = os.stat(f"/run/netns/{namespace}")
    except FileNotFoundError:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # it has ended
                if os.path.samestat(os.stat(entry / "ns" / "net"), wanted):
                    found.append(int(entry.name))
    return found


def _is_first(pid: int) -> bool:
    """Whether it is process 1 of a machine, and not of a container in it."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return line.split()[2:] == ["1"]
    return False


def wait_for(what: str, seconds: float, check: Callable[[], bool]) -> None:
    """Ask until it is so; end the program when it does not come to be."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise SystemExit(f"cluster: {what} did not happen within {seconds:.0f} s")
        time.sleep(0.05)


def _controllers() -> list[Path]:
    """The roots of the hierarchies of control groups: one (version 2), or one a controller."""
    if (CONTROL_GROUPS / "cgroup.controllers").exists():
        return [CONTROL_GROUPS]
    return [
        path
        for path in CONTROL_GROUPS.iterdir()
        if path.is_dir() and not path.is_symlink() and (path / "cgroup.clone_children").exists()
    ]


def make_control_group(path: str) -> None:
    """Make a control group (``NAME/NODE``) in which groups of pods can be made."""
    for root in _controllers():
        group = root
        for part in Path(path).parts:
            parent, group = group, group / part
            group.mkdir(exist_ok=True)
            if root == CONTROL_GROUPS:
                offered = (parent / "cgroup.controllers").read_text().split()
                wanted = " ".join(f"+{one}" for one in offered)
                (parent / "cgroup.subtree_control").write_text(wanted)
            elif (group / "cpuset.cpus").exists():
                for setting in ("cpuset.cpus", "cpuset.mems"):
                    (group / setting).write_text((parent / setting).read_text())


def remove_control_group(path: str) -> None:
    """Remove a control group and all in it; their processes have ended."""
    # Also from hierarchies that only the container runtime wrote to.
    groups = [root / path for root in (CONTROL_GROUPS, *CONTROL_GROUPS.iterdir()) if root.is_dir()]

    def removed() -> bool:
        for group in groups:
            for folder, _, _ in os.walk(group, topdown=False):
                with suppress(OSError):  # a process in it has not quite ended
                    os.rmdir(folder)
        return not any(group.exists() for group in groups)

    wait_for(f"the end of control group {path}", STOP_SECONDS_MAX, removed)


class Machine:
    """One machine by its name. Its files lie in ``folder``, which it sees as /var/lib."""

    def __init__(self, layout: Layout, name: str, address: str) -> None:
        self.layout = layout
        self.name = name
        self.address = address
        self.root = layout.state / "machines" / name
        self.own = self.root / "lib" / INSIDE.name
        self._namespace = f"{layout.name}-{name}"
        self._link = f"{layout.bridge}-{name}"

    def prepare(
        self, services: Mapping[str, Sequence[str]], files: Mapping[str, str], pki: Sequence[str]
    ) -> None:
        """Write what it will run, with its settings and its keys."""
        for folder in ("services", "bin", "native", "volumes", "certificates"):
            (self.own / folder).mkdir(parents=True)
        (self.root / "log").mkdir()
        for name, command in services.items():
            script = self.own / "services" / name
            script.write_text(f"#!/bin/sh\nexec {shlex.join(command)}\n")
            script.chmod(0o755)
        for name, text in files.items():
            path = self.own / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for name in pki:
            shutil.copy2(self.layout.certificates / name, self.own / "certificates" / name)

    def start(self, routes: Mapping[str, str]) -> None:
        """Power on. ``routes`` has the gateway of each network that is not its own."""
        self._connect(routes)
        with open(self.root / "log" / "init.log", "ab") as log:
            subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self._namespace}",
                 "unshare", "--mount", "--pid", "--fork", "--kill-child",
                 str(_HERE / "init"), str(self.root), str(self.layout.programs), str(_HERE),
                 str(self.layout.volumes)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=_ENVIRONMENT, cwd="/", start_new_session=True,
            )  # fmt: skip
        wait_for(f"the start of {self.name}", START_SECONDS_MAX, lambda: self.is_running)

    def _connect(self, routes: Mapping[str, str]) -> None:
        ip(f"netns add {self._namespace}")
        ip(
            f"link add {self._link} type veth peer name eth0 netns {self._namespace}",
            f"link set {self._link} master {self.layout.bridge} up",
        )
        ip(
            f"addr add {self.address}/24 dev eth0",
            "link set eth0 up",
            "link set lo up",
            f"route add default via {self.layout.gateway}",
            *(f"route add {network} via {gateway}" for network, gateway in routes.items()),
            namespace=self._namespace,
        )

    def cut_power(self) -> None:
        """Silence first, so that no connection is closed in good order; then the end."""
        ip(f"link del {self._link}", tolerant=True)
        first = self._first_process()
        # With the first process gone the rest goes; what started it waits until that is so.
        for pid in [first] if first else _processes_in(self._namespace):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(
            f"the end of {self.name}",
            STOP_SECONDS_MAX,
            lambda: not _processes_in(self._namespace),
        )
        ip(f"netns del {self._namespace}", tolerant=True)
        remove_control_group(f"{self.layout.name}/{self.name}")

    @property
    def is_running(self) -> bool:
        """Whether it has power."""
        return self._first_process() is not None

    def enter(self, *command: str) -> list[str]:
        """The command line that runs a command inside it."""
        first = self._first_process()
        if first is None:
            raise SystemExit(f"cluster: {self.name} is not running")
        target = ["nsenter", "--target", str(first), "--mount", "--net", "--pid"]
        return [*target, "env", "-i", *(f"{k}={v}" for k, v in _ENVIRONMENT.items()), *command]

    def _first_process(self) -> int | None:
        return next(filter(_is_first, _processes_in(self._namespace)), None)
