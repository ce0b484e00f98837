"""``mom run --reload``: the application in a child process, run anew when its files change.

Files are looked at, and not watched: that works on every file system, and costs a few milliseconds
twice a second for a developer's project.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from mom_cli.command import shared_of
from mom_cli.failures import ExitCode
from mom_cli.run import is_file, split_target

LOOK_SECONDS: Final = 0.5
# Beyond so many files, changes of the others are not seen.
FILES_MAX: Final = 5_000
_SKIPPED: Final = frozenset({"node_modules", "site-packages", "venv", "__pycache__"})
_CHILD: Final = "from mom_cli.main import main; main()"


def run_reloading(context: click.Context, target: str, log_level: str) -> int:
    """Run ``target`` in children, one after the other, until a signal; returns the exit code."""
    place, _ = split_target(target)
    folder = Path(place).resolve().parent if is_file(place) else Path.cwd()
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: told.set())
    child = _Child(context, target, log_level)
    code = 0
    while not told.is_set():
        before = changes(folder)
        child.start()
        if not _await_change(folder, before, child, told):
            break
        click.echo("mom: a file changed: running it anew", err=True)
        child.stop()
    code = child.stop()
    return ExitCode.OK if code == -signal.SIGTERM else code


def _await_change(
    folder: Path, before: dict[str, int], child: _Child, told: threading.Event
) -> bool:
    """Wait until a file changed; False when a signal came."""
    said = False
    while not told.wait(LOOK_SECONDS):
        if changes(folder) != before:
            return True
        if child.has_ended and not said:
            said = True
            click.echo("mom: it ended; waiting for a file to change", err=True)
    return False


class _Child:
    """The application's process."""

    def __init__(self, context: click.Context, target: str, log_level: str) -> None:
        self._command = [sys.executable, "-c", _CHILD, "run", target, "--log-level", log_level]
        shared = shared_of(context)
        self._environment = dict(os.environ)
        # Not as flags: the token would show in the list of processes.
        if shared.nodes:
            self._environment["MOM_URL"] = shared.nodes
        if shared.token:
            self._environment["MOM_TOKEN"] = shared.token
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        self._process = subprocess.Popen(self._command, env=self._environment)

    @property
    def has_ended(self) -> bool:
        """Whether it ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def stop(self) -> int:
        """Let it end gracefully, and return its exit code."""
        if self._process is None:
            return 0
        self._process.terminate()
        return self._process.wait()


def changes(folder: Path) -> dict[str, int]:
    """When each Python file below a folder was changed last, nanoseconds."""
    found: dict[str, int] = {}
    for path in _python_files(folder):
        try:
            found[path] = os.stat(path).st_mtime_ns
        except OSError:
            continue  # It was just removed.
        if len(found) >= FILES_MAX:
            break
    return found


def _python_files(folder: Path) -> Iterator[str]:
    for where, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if one not in _SKIPPED and not one.startswith(".")]
        yield from (os.path.join(where, one) for one in files if one.endswith(".py"))
