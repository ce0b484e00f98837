"""Processes of pods, seen from the host: measured, and ended as no call to Kubernetes ends them."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from e2e.kubernetes import Object


def processes_of(pod: Object) -> list[int]:
    """The host's ids of the processes in a pod's containers; none where it does not see them."""
    statuses = pod["status"].get("containerStatuses", ())
    containers = [one["containerID"].rpartition("/")[2] for one in statuses]
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal() and any(one in _control_group(entry) for one in containers)
    ]


def _control_group(process: Path) -> str:
    with suppress(OSError):  # it has ended
        return (process / "cgroup").read_text()
    return ""


def kill(pod: Object) -> None:
    """SIGKILL every process of the pod's containers; Kubernetes starts them again."""
    found = processes_of(pod)
    assert found, f"no process of {pod['metadata']['name']} is seen from here"
    for process in found:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def memory_mib(pod: Object) -> float:
    """What a pod's processes have in memory."""
    page = os.sysconf("SC_PAGE_SIZE")
    sizes = [
        int(Path(f"/proc/{process}/statm").read_text().split()[1]) for process in processes_of(pod)
    ]
    return sum(sizes) * page / (1 << 20)


def cpu_seconds(pod: Object) -> float:
    """The time of a core that a pod's processes have had since they began."""
    ticks = 0
    for process in processes_of(pod):
        # Behind the name, which is in brackets and may have spaces.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
