"""What a run measured: kept as lines of JSON, and made into docs/disruptions.md when asked.

``python -m e2e.report FOLDER`` prints the page of the runs whose lines lie in a folder.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from e2e.history.report import Row, markdown_table

FILE = "report.ndjson"
_HEAD = """# What disruptions cost clients

Measured by `make e2e ARGS=--report`, which writes this page anew. Clients of several kinds send and
receive all the while: the SDK straight at the nodes, the SDK through the gateway, and plain HTTP
through the Ingress. A checker then reads the record of every call. A failed call is one that the
application sees. The longest call is beyond what it asked to wait; the longest gap is between two
successful sends of one client, {interval} apart when nothing is in the way.

Plain HTTP has nobody who tries again: a call that is at a gateway when that is killed gets the
proxy's 502, and one whose gateway's machine dies lasts as long as its client waits, so give each
a timeout. The SDK tries again by itself, and gives up when the store is away for longer than its
patience.
"""
_MACHINE = """
The machine: {cores} cores for all of it, three Kubernetes nodes, clients and tests included.
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number and what was aimed at."""

    name: str
    value: float
    unit: str
    goal: str = ""


class Report:
    """Where tests write what they measured; a run without a folder only prints it."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / FILE if folder else None
        if folder:
            folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def from_environment(cls) -> Report:
        """In the folder of MOM_E2E_REPORT."""
        folder = os.environ.get("MOM_E2E_REPORT")
        return cls(Path(folder) if folder else None)

    def disruptions(self, rows: Iterable[Row]) -> None:
        """Add what disruptions cost."""
        for row in rows:
            # A copy of a Counter by asdict counts its items.
            self._write({"disruption": asdict(row) | {"errors": dict(row.errors)}})

    def figure(self, name: str, value: float, unit: str, goal: str = "") -> None:
        """Add a measured number."""
        print(f"measured: {name}: {value:.2f} {unit}")
        self._write({"figure": asdict(Figure(name, value, unit, goal))})

    def _write(self, line: object) -> None:
        if self._path:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def page(lines: Iterable[str], interval: str = "100 ms") -> str:
    """The page of what was measured; of several measurements of one thing the last counts."""
    rows: dict[str, Row] = {}
    figures: dict[str, Figure] = {}
    for line in lines:
        found = json.loads(line)
        if "disruption" in found:
            fields = found["disruption"]
            row = Row(**fields | {"errors": Counter(fields["errors"])})
            rows[row.disruption] = row
        else:
            figure = Figure(**found["figure"])
            figures[figure.name] = figure
    parts = [_HEAD.format(interval=interval), markdown_table(list(rows.values()))]
    if figures:
        parts += ["## Times and memory\n", _figures(figures.values())]
    return "\n".join(parts) + _MACHINE.format(cores=os.cpu_count())


def _figures(figures: Iterable[Figure]) -> str:
    lines = ["| measured | value | goal |", "| --- | ---: | --- |"]
    lines += [f"| {one.name} | {one.value:.1f} {one.unit} | {one.goal} |" for one in figures]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page((Path(sys.argv[1]) / FILE).read_text().splitlines()))
