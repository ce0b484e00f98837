"""An application under `mom run`, whose handlers write down what they do."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from integration.dev_process import MOM, TIMEOUT_SECONDS, environment

# What an application file begins with: ``note`` appends a line to the journal.
PRELUDE = """
import asyncio, os, sys, time
from mom_client import MomApp, ReceivedMessage

app = MomApp(grace=float(os.environ.get("GRACE", "25")))

def note(*words):
    line = " ".join(map(str, words)) + "\\n"
    file = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)
"""


class AppProcess:
    """`mom run` of a file; a context manager that ends it."""

    def __init__(
        self, path: Path, addresses: Sequence[str], journal: Path, *flags: str, **more: str
    ) -> None:
        self._command = [*MOM, "run", str(path), *flags]
        self._environment = environment(
            MOM_URL=",".join(addresses), JOURNAL=str(journal), PYTHONUNBUFFERED="1", **more
        )
        self._log = journal.with_name(f"{journal.name}-{id(self)}.log")

    def __enter__(self) -> AppProcess:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(self._command, env=self._environment, stderr=log)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(TIMEOUT_SECONDS)

    @property
    def log(self) -> str:
        """What it wrote to standard error so far."""
        return self._log.read_text()

    @property
    def runs(self) -> bool:
        """Whether it says that it is ready."""
        assert self.process.poll() is None, self.log
        return "Ctrl-C ends it" in self.log

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the exit code."""
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_SECONDS)


def lines_of(journal: Path) -> list[str]:
    """What handlers noted so far."""
    return journal.read_text().splitlines() if journal.exists() else []
