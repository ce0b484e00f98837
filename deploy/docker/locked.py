"""Prints the part of requirements.lock that is needed, with its hashes.

The lock has the tools of development too; its remarks say through whom each package is there.
Usage: locked.py LOCK [PACKAGE...]   (default: what the project itself needs, with all extras)
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PROJECT = "mom-mq (pyproject.toml)"
_PIN = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==")
_REMARK = re.compile(r"\s+#\s+(?:via\s+)?(\S.*)")


def entries(lock: str) -> dict[str, str]:
    """The lines of each package, by its name."""
    found: dict[str, str] = {}
    name = ""
    for line in lock.splitlines(keepends=True):
        if pin := _PIN.match(line):
            name = pin[1]
        found[name] = found.get(name, "") + line
    return found


def through(lines: str) -> set[str]:
    """Through which packages one is there."""
    return {remark[1] for line in lines.splitlines() if (remark := _REMARK.match(line))}


def needed(packages: dict[str, str], roots: set[str]) -> list[str]:
    """The names of what the roots are, or need."""
    reached = set(roots)
    while more := {
        name for name, lines in packages.items() if reached & through(lines) and name not in reached
    }:
        reached |= more
    return sorted(reached & set(packages))


def main() -> None:
    """Filter the lock."""
    path, *names = sys.argv[1:]
    packages = entries(Path(path).read_text())
    for name in needed(packages, set(names) or {PROJECT}):
        sys.stdout.write(packages[name])


if __name__ == "__main__":
    main()
