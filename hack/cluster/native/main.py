"""A real Kubernetes of several nodes on one Linux host, as root and without Docker.

Every node is a machine in the sense of machine.py; the control plane, DNS and the ingress are on a
machine of their own. hack/cluster/cluster calls this, and has seen to programs and packages.
"""

from __future__ import annotations

import argparse
import fcntl
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import control_plane
import node
from api import Api, ApiError, collection
from certificates import Authority
from layout import CONTROL, NODES_MAX, Layout
from machine import Machine, ip, make_control_group, remove_control_group, wait_for

READY_SECONDS_MAX = 120.0


def say(text: str) -> None:
    """Tell the person; standard output is for what scripts read."""
    print(f"cluster: {text}", file=sys.stderr, flush=True)


@contextmanager
def exclusive(layout: Layout) -> Iterator[None]:
    """Nobody else changes this cluster meanwhile."""
    layout.state.parent.mkdir(exist_ok=True)
    with open(layout.state.parent / f"{layout.number}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another command changes this cluster; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def machines(layout: Layout) -> list[Machine]:
    """Those that were made, also by a run that was broken off."""
    names = [path.name for path in (layout.state / "machines").glob("*")]
    names += [path.name.removeprefix(f"{layout.name}-") for path in _namespaces(layout)]
    return [machine_of(layout, name) for name in sorted(set(names))]


def _namespaces(layout: Layout) -> Iterator[Path]:
    return Path("/run/netns").glob(f"{layout.name}-*")


def machine_of(layout: Layout, name: str) -> Machine:
    """The machine of this name."""
    if name == CONTROL:
        return control_plane.machine(layout)
    number = name.removeprefix("node")
    if not number.isdecimal():
        raise SystemExit(f"cluster: nodes are called node1, node2, …, not {name!r}")
    return node.machine(layout, int(number))


def existing(layout: Layout, name: str) -> Machine:
    """A machine that was made."""
    found = machine_of(layout, name)
    if not found.own.is_dir():
        raise SystemExit(f"cluster: there is no {name} in cluster {layout.number}")
    return found


def routes(layout: Layout, own: str, nodes: int) -> dict[str, str]:
    """The way to the pods of each node but ``own``."""
    return {
        layout.pods(number): layout.node_address(number)
        for number in range(1, nodes + 1)
        if own != f"node{number}"
    }


def start(layout: Layout, machine: Machine) -> None:
    """Power a machine on; a node as after a reboot."""
    if machine.is_running:
        return
    machine.cut_power()  # whatever a crash left of it
    if machine.name != CONTROL:
        make_control_group(f"{layout.name}/{machine.name}")
    nodes = len(list((layout.state / "machines").glob("node*")))
    machine.start(routes(layout, machine.name, nodes))


def api_of(layout: Layout) -> Api:
    """The API server, as its administrator."""
    return Api(f"https://{layout.control_address}:6443", layout.certificates, "admin")


def ready_nodes(api: Api) -> set[str]:
    """The names of nodes that say they are Ready."""
    try:
        listed = api.get("/api/v1/nodes")["items"]
    except ApiError:
        return set()
    return {
        one["metadata"]["name"]
        for one in listed
        for condition in one["status"].get("conditions", [])
        if condition["type"] == "Ready" and condition["status"] == "True"
    }


def is_up(layout: Layout, nodes: int) -> bool:
    """Whether the cluster runs with exactly these nodes."""
    made = machines(layout)
    if len(made) != nodes + 1 or not all(one.is_running for one in made):
        return False
    return len(ready_nodes(api_of(layout))) == nodes


def up(layout: Layout, nodes: int) -> None:
    """Make the cluster, unless it runs; print the path of its kubeconfig."""
    if is_up(layout, nodes):
        say(f"cluster {layout.number} runs already")
    else:
        down(layout)
        _make(layout, nodes)
    print(layout.kubeconfig)


def _make(layout: Layout, nodes: int) -> None:
    began = time.monotonic()
    say(f"making cluster {layout.number} with {nodes} nodes")
    layout.volumes.mkdir(parents=True)
    ip(
        f"link add {layout.bridge} type bridge",
        f"addr add {layout.gateway}/24 dev {layout.bridge}",
        f"link set {layout.bridge} up",
        *(
            f"route add {network} via {gateway}"
            for network, gateway in routes(layout, "", nodes).items()
        ),
    )
    authority = Authority(layout)
    made = [control_plane.prepare(layout, authority)]
    made += [node.prepare(layout, authority, number) for number in range(1, nodes + 1)]
    for one in made:
        start(layout, one)
    api = api_of(layout)
    wait_for("an answer of the API server", READY_SECONDS_MAX, lambda: _applied(layout, api))
    wait_for("nodes ready", READY_SECONDS_MAX, lambda: len(ready_nodes(api)) == nodes)
    say(f"ready after {time.monotonic() - began:.1f} s; ingress: http://{layout.control_address}")


def _applied(layout: Layout, api: Api) -> bool:
    objects: list[dict[str, Any]] = control_plane.objects(layout)
    try:
        api.get("/readyz")
        for one in objects:
            api.apply(collection(one), one)
    except ApiError:
        return False  # it is still starting
    return True


def down(layout: Layout) -> None:
    """End and remove all of the cluster, also what a broken run left."""
    made = machines(layout)
    if made:
        say(f"removing cluster {layout.number}")
    for one in made:
        one.cut_power()
    remove_control_group(layout.name)
    ip(f"link del {layout.bridge}", tolerant=True)
    shutil.rmtree(layout.state, ignore_errors=True)


def _on_every_node(layout: Layout, *command: str, data: str = "/dev/null") -> None:
    """Run a command on all nodes that run, at once, each with a file as its input."""
    running = [one for one in machines(layout) if one.name != CONTROL and one.is_running]

    def run(machine: Machine) -> str:
        with open(data, "rb") as stdin:
            words = machine.enter(*command)
            result = subprocess.run(words, stdin=stdin, capture_output=True, text=True)
        return f"{machine.name}: {result.stderr}" if result.returncode else ""

    with ThreadPoolExecutor() as pool:
        failures = list(filter(None, pool.map(run, running)))
    if failures:
        raise SystemExit(f"cluster: {' '.join(command)} failed on\n" + "\n".join(failures))


def load(layout: Layout, archives: list[str]) -> None:
    """Put images on every node that runs."""
    for archive in archives:
        _on_every_node(layout, "ctr", "-n", "k8s.io", "images", "import", "-", data=archive)


def tag(layout: Layout, image: str, new: str) -> None:
    """Give an image that is on every node another name."""
    names = [name if "/" in name else f"docker.io/library/{name}" for name in (image, new)]
    _on_every_node(layout, "ctr", "-n", "k8s.io", "images", "tag", "--force", *names)


def show(layout: Layout) -> None:
    """Print what there is."""
    for one in machines(layout):
        print(f"{one.name:10} {one.address:12} {'runs' if one.is_running else 'stopped'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hack/cluster/cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("up", help="make it; prints the path of the kubeconfig")
    making.add_argument("nodes", type=int, nargs="?", default=3)
    commands.add_parser("down", help="remove it")
    commands.add_parser("status", help="list its machines")
    commands.add_parser("kubeconfig", help="print the path of the kubeconfig")
    commands.add_parser("ingress", help="print the address of the ingress")
    commands.add_parser("load", help="put images on every node").add_argument("archives", nargs="+")
    tagging = commands.add_parser("tag", help="give an image on every node another name")
    tagging.add_argument("image")
    tagging.add_argument("new")
    for name, text in (("stop-node", "cut a node's power"), ("start-node", "power a node on")):
        commands.add_parser(name, help=text).add_argument("name", metavar="NODE")
    entering = commands.add_parser("enter", help="run a command on a machine")
    entering.add_argument("name", metavar="MACHINE")
    entering.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    return parser.parse_args()


def main() -> None:
    """Do one command."""
    arguments = _arguments()
    layout = Layout.from_environment()
    match arguments.command:
        case "up":
            if not 1 <= arguments.nodes <= NODES_MAX:
                raise SystemExit(f"cluster: from 1 to {NODES_MAX} nodes, not {arguments.nodes}")
            with exclusive(layout):
                up(layout, arguments.nodes)
        case "down":
            with exclusive(layout):
                down(layout)
        case "load":
            load(layout, arguments.archives)
        case "tag":
            tag(layout, arguments.image, arguments.new)
        case "stop-node":
            existing(layout, arguments.name).cut_power()
        case "start-node":
            start(layout, existing(layout, arguments.name))
        case "status":
            show(layout)
        case "kubeconfig":
            print(layout.kubeconfig)
        case "ingress":
            print(f"http://{layout.control_address}")
        case "enter":
            command = existing(layout, arguments.name).enter(*(arguments.words or ["bash"]))
            raise SystemExit(subprocess.run(command).returncode)


if __name__ == "__main__":
    main()
