"""No promise is broken, whatever happens when. A seed that fails here fails again.

``MOM_SIMULATION_SEEDS=100-199`` tries others.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.history import bounds, flow
from e2e.history.checker import Settings, check
from e2e.history.events import Outcome, ReadMode, read_events
from e2e.history.history import History
from e2e.history.report import summary
from simulation.disrupted_load import run_load

DISRUPTIONS = 4
# It begins by killing a node, which has to tell many waiters and streams.
KILLING_SEED = 3
# Messages that waited while another one was delivered, each with each.
WAITS_MIN = 100
# Nodes follow the store there without delay.
MEMORY = Settings(durabilities=frozenset({"memory"}), settings_lag_s=0.0)


TRIED = {
    *("delayed", "cancelled", "moved", "again", "expiring", "died", "fifo", "purged"),
    *("rated", "priorities", "turns"),
    *("paused", "full", "short of time"),
    *("redriven", "dead again", "crashed", "killed", "third try"),
}


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
    assert what_was_tried(history) >= TRIED


def what_was_tried(history: History) -> set[str]:
    """Which rules had something to judge."""
    changes = {
        "cancelled": [one for found in history.cancels_at.values() for one in found],
        "moved": [one for found in history.moves_at.values() for one in found],
        "purged": [one for found in history.purges_of.values() for one in found],
    }
    tried = {
        name
        for name, found in changes.items()
        if any(one.outcome is Outcome.OK for one in found)  # type: ignore[attr-defined]
    }
    tried |= {"priorities"} if enough_waited(history, "priority") else set()
    tried |= {"turns"} if enough_waited(history, "fair") else set()
    tried |= {"rated"} if any(one.rate_per_s for one in history.queues.values()) else set()
    tried |= {"paused"} if any(bounds.paused_times(history, MEMORY)) else set()
    tried |= {"full"} if any(one.refused for one in history.sends.values()) else set()
    tried |= {"short of time"} if any(was_trimmed(history)) else set()
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
    return tried | tried_of_deaths(history)


def tried_of_deaths(history: History) -> set[str]:
    """Of what workers fail at, and of what becomes of it."""
    crashing = {one.target for one in history.queues.values() if one.crashes}
    dead_letters = history.dead_at.values()
    leases = history.leases.values()
    found = {
        "redriven": any(one.redrives for one in leases),
        "third try": any(one.deliveries > 2 for one in leases),
        "dead again": any(one.facts.redrives for one in dead_letters),
        "killed": any(one.origin.target in crashing for one in dead_letters),
        "crashed": any(len(one.leases) > 1 for one in history.crashes),
    }
    return {name for name, tried in found.items() if tried}


def was_trimmed(history: History) -> Iterator[bool]:
    """Of each reading of a topic that keeps little, whether its beginning was gone."""
    reads = history.reads_of(ReadMode.LOG)
    for one in history.readings:
        found = reads.get((one.reader, one.target, one.partition))
        yield found is not None and found[0].offset > 0


def enough_waited(history: History, ordering: str) -> bool:
    """Whether an order had much to choose from, in times in which it can be judged."""
    lanes = flow.lanes(history, MEMORY, ordering)
    return sum(len(waits) for one in lanes for _, _, waits in one.with_waits()) > WAITS_MIN


def test_a_seed_makes_the_same_run(tmp_path: Path) -> None:
    """Also when memory is collected at other times, which nothing may hang on."""
    runs = []
    thresholds = gc.get_threshold()
    try:
        for name, allocations in (("one", thresholds[0]), ("two", 50)):
            gc.set_threshold(allocations, *thresholds[1:])
            run_load(KILLING_SEED, tmp_path / name, 1)
            runs.append((tmp_path / name).read_bytes())
    finally:
        gc.set_threshold(*thresholds)
    assert runs[0] == runs[1]
