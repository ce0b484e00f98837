"""``kubectl mom`` from outside of the cluster, as from a laptop; access by tokens and without."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from e2e.kubernetes import ROOT
from e2e.mom_cluster import MomCluster
from e2e.waiting import wait_until

pytestmark = pytest.mark.timeout(400)
# Where `make setup` put the plugin, which kubectl finds on the PATH.
PROGRAMS = ROOT / ".venv" / "bin"
COMMAND_SECONDS_MAX = 60


def _environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOM_")}
    return kept | {"PATH": f"{PROGRAMS}:{os.environ['PATH']}"} | more


def _run(*words: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS_MAX,
        env=_environment(**more),
        check=False,
    )


def _status(mom: MomCluster) -> subprocess.CompletedProcess[str]:
    return _run("kubectl", "mom", "status", "-n", mom.namespace.name)


@contextmanager
def _connected(mom: MomCluster, *words: str) -> Iterator[dict[str, str]]:
    """A tunnel by ``kubectl mom connect``, and the variables that it says to set."""
    process = subprocess.Popen(
        ["kubectl", "mom", "connect", "-n", mom.namespace.name, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(PYTHONUNBUFFERED="1"),
    )
    try:
        assert process.stdout is not None
        told: dict[str, str] = {}
        for line in process.stdout:
            found = re.match(r"\s+export (MOM_\w+)=(\S+)", line)
            if found:
                told[found[1]] = found[2]
            if "mom cluster status" in line:
                break
        yield told
    finally:
        process.terminate()
        _, said = process.communicate(timeout=COMMAND_SECONDS_MAX)
        print(said)


def test_status_tells_how_the_cluster_is(shared_mom: MomCluster) -> None:
    done = _status(shared_mom)
    assert done.returncode == 0, done.stderr
    assert f"{shared_mom.namespace.name}/my-mom: Ready. 2 nodes serve" in done.stdout
    assert re.search(r"my-mom-node-1\s+Active", done.stdout)
    assert "PAUSED" not in done.stdout


def test_status_says_that_nobody_looks_after_a_paused_one(shared_mom: MomCluster) -> None:
    shared_mom.annotate("mom.dev/pause=true")
    try:
        shared_mom.wait_says("Progressing", "Paused")
        assert "\nPAUSED: nobody looks after it" in _status(shared_mom).stdout
    finally:
        shared_mom.annotate("mom.dev/pause-")
    shared_mom.wait_ready()


def test_a_laptop_connects_sends_and_reads(shared_mom: MomCluster, tmp_path: Path) -> None:
    lines = "".join(f"line {number}\n" for number in range(1000))
    with _connected(shared_mom) as told:
        assert set(told) == {"MOM_URL", "MOM_TOKEN"}
        assert told["MOM_TOKEN"] != shared_mom.token, "the cluster's own token stays there"
        for words, stdin in (
            (("topic", "create", "lines", "--partitions", "2", "--retention-bytes", "16MiB"), ""),
            (("produce", "lines"), lines),
        ):
            done = _run("mom", *words, stdin=stdin, **told)
            assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        done = _run("mom", "consume", "lines", "--until-end", **told)
        assert sorted(done.stdout.splitlines()) == sorted(lines.splitlines()), done.stderr
    assert _run("mom", "topic", "list", **told).returncode != 0, "the tunnel is closed"


def test_a_token_for_less_can_do_less(shared_mom: MomCluster) -> None:
    with _connected(shared_mom, "--scope", "read:lines", "--expires", "10m") as told:
        done = _run("mom", "topic", "create", "other", **told)
        assert done.returncode != 0
        assert "admin" in done.stderr


def test_open_gateways_are_open_and_status_says_so(shared_mom: MomCluster) -> None:
    mom = shared_mom
    mom.patch({"gateway": {"auth": "Disabled"}})
    mom.wait_ready()
    assert "authentication is OFF" in mom.condition("Ready")["message"]
    with mom.http(token="") as client:
        _wait_for_answer(client, 200)
    assert "auth is Disabled" in _status(mom).stdout
    with _connected(mom) as told:
        assert set(told) == {"MOM_URL"}
        assert _run("mom", "topic", "list", **told).returncode == 0
    mom.patch({"gateway": {"auth": "Required"}})
    mom.wait_ready()
    with mom.http(token="") as client:
        _wait_for_answer(client, 401)


def _wait_for_answer(client: httpx.Client, status: int) -> None:
    """Gateways of before serve on for some seconds, for proxies that do not know yet."""
    wait_until(
        f"no gateway of before answers, but all with {status}",
        lambda: {client.get("/v1/topics").status_code for _ in range(20)} == {status},
    )
