"""A process that does nothing but live, and says which one it is."""

from __future__ import annotations

import subprocess
import sys

_CODE = (
    "import sys; from mom_process.process_identity import own_process; "
    "print(own_process(), flush=True); sys.stdin.read()"
)


class WaitingProcess:
    """Lives until it is killed. ``word`` is what :func:`own_process` says in it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.word = self.process.stdout.readline().strip()

    def kill(self) -> None:
        """End it as a crash does, and leave nothing of it."""
        self.process.kill()
        self.process.communicate()
