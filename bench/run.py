"""Measures MOM over SQLite and over Redis, beside Redis Streams, and prints a table.

All of it runs on this machine: servers, store and load share its cores. Repetitions are interleaved
over the stores and the median is shown, so that a noisy minute hurts all of them alike. Every
publish is on disk before its acknowledgement. Figures go to bench/results/ as JSON, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from backlog import Backlog, status_mib
from backlog import measure as measure_backlog
from queues import DELAYED, LEASED, READY, fan_out, large_queue
from redis_streams import measure as measure_redis_streams
from scenarios import SCENARIOS, Target

BIN = Path(sys.executable).parent
RESULTS = Path(__file__).parent / "results"
START_TIMEOUT_S = 30
STREAMS = "Redis Streams"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process for as long as the block lasts."""
    running = subprocess.Popen(
        [str(one) for one in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def wait_ready(port: int) -> None:
    """Wait for a gateway to be ready."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"the gateway on port {port} is not ready after {START_TIMEOUT_S} s")


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    return status_mib(pid, "VmRSS")


def start_dev(stack: ExitStack, folder: Path) -> tuple[str, int, list[int]]:
    """All of MOM in one process over SQLite."""
    gateway, master, node = free_port(), free_port(), free_port()
    running = stack.enter_context(
        process(
            BIN / "mom",
            "dev",
            "--data",
            folder / "sqlite",
            "--nodes",
            "1",
            "--port",
            str(gateway),
            "--master-port",
            str(master),
            "--node-port",
            str(node),
        )
    )
    wait_ready(gateway)
    return f"127.0.0.1:{node}", gateway, [running.pid]


class Cluster(NamedTuple):
    """Processes of their own over a real Redis."""

    node_address: str
    gateway_port: int
    processes: dict[str, subprocess.Popen[bytes]]
    redis_url: str
    another_node: list[str]
    """The command of a second node."""

    def pid(self, name: str) -> int:
        """Of mom-master, mom-node or mom-gateway."""
        return self.processes[name].pid


def start_cluster(stack: ExitStack, folder: Path) -> Cluster:
    """Start one of each."""
    port, master, node, gateway, other = (free_port() for _ in range(5))
    data = folder / "redis"
    data.mkdir(parents=True)
    redis_server = shutil.which("redis-server")
    if redis_server is None:
        raise SystemExit("redis-server is missing: apt-get install redis-server")
    stack.enter_context(
        process(
            redis_server,
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--dir",
            data,
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--maxmemory-policy",
            "noeviction",
        )
    )
    url = f"redis://127.0.0.1:{port}"
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    common = ("--store", url, "--http-port", "-1")
    masters = ("--masters", f"127.0.0.1:{master}")

    def node_command(node_port: int) -> list[str]:
        listen = ("--listen", f"127.0.0.1:{node_port}")
        return [str(BIN / "mom-node"), *common, *listen, *masters]

    commands = {
        "mom-master": [str(BIN / "mom-master"), *common, "--listen", f"127.0.0.1:{master}"],
        "mom-node": node_command(node),
        "mom-gateway": [
            str(BIN / "mom-gateway"),
            "--nodes",
            f"127.0.0.1:{node}",
            "--listen",
            f"127.0.0.1:{gateway}",
        ],
    }
    running = {name: stack.enter_context(process(*one)) for name, one in commands.items()}
    wait_ready(gateway)
    return Cluster(f"127.0.0.1:{node}", gateway, running, url, node_command(other))


def run(scale: float, repetitions: int) -> dict[str, object]:
    """Measure everything and return the medians."""
    samples: dict[str, dict[str, list[float]]] = {}
    memory: dict[str, object] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mom-bench-")))
        dev_nodes, dev_port, dev_pids = start_dev(stack, folder)
        cluster = start_cluster(stack, folder)
        memory["mom dev, idle, MiB"] = round(rss_mib(dev_pids[0]))
        targets = {
            "MOM over SQLite": Target(dev_nodes, dev_port, scale),
            "MOM over Redis": Target(cluster.node_address, cluster.gateway_port, scale),
        }
        for repetition in range(repetitions):
            for scenario, (_, measure) in SCENARIOS.items():
                for name, target in targets.items():
                    value = asyncio.run(measure(target))
                    samples.setdefault(scenario, {}).setdefault(name, []).append(value)
            for scenario, value in measure_redis_streams(cluster.redis_url, scale).items():
                samples.setdefault(scenario, {}).setdefault(STREAMS, []).append(value)
            print(f"repetition {repetition + 1} of {repetitions} done", file=sys.stderr)
        memory["mom dev, after the load, MiB"] = round(rss_mib(dev_pids[0]))
        for name, running in cluster.processes.items():
            memory[f"{name}, after the load, MiB"] = round(rss_mib(running.pid))
        # Last, so that the peaks hold what the load before left behind, too.
        backlogs = {
            "mom dev": (targets["MOM over SQLite"], dev_pids),
            "mom-node": (targets["MOM over Redis"], [cluster.pid("mom-node")]),
        }
        for name, (target, its_pids) in backlogs.items():
            found = asyncio.run(measure_backlog(target, its_pids))
            memory |= _backlog_rows(name, found)
        memory |= _queue_rows(targets["MOM over Redis"], cluster, scale)
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}",
        "message_bytes": 1024,
        "scale": scale,
        "repetitions": repetitions,
        "medians": {
            scenario: {name: statistics.median(values) for name, values in by_name.items()}
            for scenario, by_name in samples.items()
        },
        "samples": samples,
        "memory": memory,
    }


def _backlog_rows(name: str, found: Backlog) -> dict[str, object]:
    what = f"{name}, backlog of {found.mib} MiB"
    return {
        f"{what}, peak MiB": round(found.peak_mib),
        f"{what}, in, msg/s": round(found.published_per_s),
        f"{what}, out, msg/s": round(found.received_per_s),
    }


def _queue_rows(target: Target, cluster: Cluster, scale: float) -> dict[str, object]:
    """The last, since the node is killed."""
    written = asyncio.run(fan_out(target))
    found = asyncio.run(large_queue(target, cluster.processes["mom-node"], cluster.another_node))
    what = f"queue of {int((READY + LEASED + DELAYED) * scale):,}"
    return {
        "ten subscriptions, bytes stored per byte": round(written, 2),
        "small queue, receive+ack, msg/s": round(found.small_per_s),
        f"{what}, receive+ack, msg/s": round(found.large_per_s),
        f"{what}, peak of its node, MiB": round(found.peak_mib),
        f"{what}, its node killed, s": round(found.takeover_s, 2),
    }


def table(result: dict) -> str:
    """The medians as text."""
    names = ["MOM over SQLite", "MOM over Redis", STREAMS]
    lines = [f"{'1 KiB messages, fsync before the ack':<36}" + "".join(f"{n:>18}" for n in names)]
    for scenario, (unit, _) in SCENARIOS.items():
        row = result["medians"][scenario]
        shown = [
            (f"{row[name]:,.2f} {unit}" if unit == "ms" else f"{row[name]:,.0f} {unit}")
            if name in row
            else "-"
            for name in names
        ]
        lines.append(f"{scenario:<36}" + "".join(f"{one:>18}" for one in shown))
    lines += [f"{name:<46}{value:>8,}" for name, value in result["memory"].items()]
    return "\n".join(lines)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all counts")
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    result = run(arguments.scale, arguments.repetitions)
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{str(result['at']).replace(':', '')}.json"
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    print(f"\nwritten to {target}", file=sys.stderr)


if __name__ == "__main__":
    main()
