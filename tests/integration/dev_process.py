"""A `mom dev` of a test's own, on free ports, and `mom` commands against it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

TIMEOUT_SECONDS = 60
FREE_PORTS = ("--port", "0", "--master-port", "0", "--node-port", "0")
MOM = [sys.executable, "-c", "from mom_cli.main import main; main()"]


def environment(**more: str) -> dict[str, str]:
    """This process's environment without settings of MOM."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOM_")}
    return kept | more


class Produced(NamedTuple):
    """What ``mom produce -o json`` prints."""

    results: list[dict[str, Any]]
    counts: dict[str, Any]


class DevProcess:
    """`mom dev` over a data directory; a context manager."""

    def __init__(self, data: Path, *flags: str, ports: Sequence[str] = FREE_PORTS) -> None:
        self._command = [*MOM, "dev", "--data", str(data), *ports, "-o", "json", *flags]
        self.process: subprocess.Popen[bytes] | None = None
        self.facts: dict[str, Any] = {}
        self.more: dict[str, str] = {}
        """More of the environment that commands get."""

    def __enter__(self) -> DevProcess:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start, and wait until it is ready."""
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        if not first:
            _, errors = self.process.communicate(timeout=TIMEOUT_SECONDS)
            raise AssertionError(f"mom dev did not start: {errors.decode()}")
        self.facts = json.loads(first)

    def stop(self) -> int:
        """Stop as Ctrl-C does, and return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        _, errors = self.process.communicate(timeout=TIMEOUT_SECONDS)
        assert errors.decode() == ""
        return self.process.returncode

    def kill(self) -> None:
        """Stop at once, as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate(timeout=TIMEOUT_SECONDS)

    @property
    def environment(self) -> dict[str, str]:
        """For commands and clients that are to talk to this one."""
        return environment(MOM_URL=",".join(self.facts["nodes"]), **self.more)

    def mom(
        self, *words: str | Path, stdin: bytes | None = None, code: int = 0
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command and check its exit code."""
        done = subprocess.run(
            [*MOM, *map(str, words)],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env=self.environment,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert done.returncode == code, (words, done.returncode, done.stdout[-500:], done.stderr)
        return done

    def json(self, *words: str | Path, stdin: bytes | None = None, code: int = 0) -> Any:
        """Run a command with ``--output json`` and parse what it prints."""
        done = self.mom(*words, "--output", "json", stdin=stdin, code=code)
        return json.loads(done.stdout if code == 0 or done.stdout else done.stderr)

    def produced(self, *words: str | Path, stdin: bytes | None = None, code: int = 0) -> Produced:
        """Run ``mom produce`` with JSON output; a result for each message, and the counts."""
        done = self.mom("produce", *words, "--output", "json", stdin=stdin, code=code)
        return Produced(
            [json.loads(line) for line in done.stdout.splitlines()],
            json.loads(done.stderr.splitlines()[-1]),
        )

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command that goes on until it is interrupted."""
        return subprocess.Popen(
            [*MOM, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
        )
