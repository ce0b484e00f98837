"""Which process of which machine, in a word that another process can check later.

The word names the boot of the machine, the name space of process ids, the process's id and when it
started, so it never comes again. Whoever runs in the same boot and name space can prove that the
process is gone: the kernel knows no such process any more. To anybody else it counts as alive.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_BOOT_ID: Final = _PROC / "sys/kernel/random/boot_id"
# Columns of /proc/PID/stat after the command's name, which may itself have spaces and parentheses.
_STATE: Final = 0
_START_TICKS: Final = 19
_ENDED: Final = ("Z", "X", "x")


def own_process() -> str:
    """The word of this process; empty where the system does not tell."""
    try:
        return f"{_where()}:{os.getpid()}:{_stat(os.getpid())[_START_TICKS]}"
    except (OSError, IndexError):
        return ""


def is_gone(process: str) -> bool:
    """Whether a process is proven to have ended: True only where that can be known."""
    where, _, rest = process.rpartition(":")[0].rpartition(":")
    started = process.rpartition(":")[2]
    try:
        if not where or where != _where():
            return False
        pid = int(rest)
        os.kill(pid, 0)
        stat = _stat(pid)
        return stat[_START_TICKS] != started or (stat[_STATE] in _ENDED and _threads(pid) <= 1)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, IndexError, OverflowError):
        return False  # Another user's, or just ending: not proven.


def _where() -> str:
    """The boot of this machine and the name space of process ids.

    Raises OSError also where /proc is one of another name space, which would tell of others.
    """
    if os.readlink(_PROC / "self") != str(os.getpid()):
        raise FileNotFoundError("/proc is not of this process's name space")
    boot_id = _BOOT_ID.read_text().strip()
    # "pid:[4026531836]": the number suffices, and colons part the word.
    return f"{boot_id}:{os.readlink(_PROC / 'self/ns/pid').strip('pid:[]')}"


def _stat(pid: int) -> list[str]:
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _threads(pid: int) -> int:
    """A main thread that ended may leave others behind, which still run."""
    return len(os.listdir(_PROC / str(pid) / "task"))
