"""No promise is broken, whatever happens when. A seed that fails here fails again.

``MOM_SIMULATION_SEEDS=100-199`` tries others.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from e2e.history.checker import Settings, check
from e2e.history.events import read_events
from e2e.history.history import History
from e2e.history.report import summary
from simulation.disrupted_load import run_load

DISRUPTIONS = 4
MEMORY = Settings(durabilities=frozenset({"memory"}))


def seeds() -> list[int]:
    """Those to try."""
    first, _, last = os.environ.get("MOM_SIMULATION_SEEDS", "1-3").partition("-")
    return list(range(int(first), int(last or first) + 1))


@pytest.mark.parametrize("seed", seeds())
def test_no_promise_is_broken(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "history.ndjson"
    done = run_load(seed, path, DISRUPTIONS)
    history = History(read_events(path))
    verdict = check(history, MEMORY)
    assert not verdict.findings, f"seed {seed}: {done}\n{summary(history, verdict)}"
    assert verdict.acked > 100
    assert what_was_tried(history) >= {"delayed", "cancelled", "again", "expiring", "died", "fifo"}


def what_was_tried(history: History) -> set[str]:
    """Which rules had something to judge."""
    tried = {"cancelled"} & {
        "cancelled" for found in history.cancels_at.values() for one in found if one.outcome == "ok"
    }
    repeated = Counter(one.dedup_id for one in history.sends.values() if one.dedup_id)
    for one in history.sends.values():
        tried |= {"delayed"} if one.delay_s else set()
        tried |= {"expiring"} if one.ttl_s else set()
        tried |= {"again"} if repeated[one.dedup_id] > 1 else set()
    dead = {one.dead_letter for one in history.queues.values()}
    for lease in history.leases.values():
        target = lease.position.target
        tried |= {"died"} if target in dead else set()
        tried |= {"fifo"} if history.queues[target].ordering == "fifo" else set()
    return tried


def test_a_seed_makes_the_same_run(tmp_path: Path) -> None:
    runs = []
    for name in ("one", "two"):
        run_load(1, tmp_path / name, 1)
        runs.append((tmp_path / name).read_bytes())
    assert runs[0] == runs[1]
