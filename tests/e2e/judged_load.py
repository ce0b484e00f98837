"""A load on a MomCluster by clients of three kinds, judged by the history checker afterwards."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

from e2e.history import messengers
from e2e.history.checker import Settings, Verdict, check
from e2e.history.events import read_events
from e2e.history.history import History
from e2e.history.load import Load, Plan
from e2e.history.messengers import Kind
from e2e.history.recorder import Recorder
from e2e.history.report import Row, markdown_table, rows, summary
from e2e.mom_cluster import MomCluster

# Modest, since cluster, clients and other work share a few cores.
PLAN = Plan(sends_per_s=10, lease_s=10, wait_s=1, deadline_s=30, drain_s=90)
DURABLE = Settings(durabilities=frozenset({"fsync"}))


@dataclass
class Judged:
    """A load that runs; when it is over, what it found."""

    load: Load
    rows: list[Row] = field(default_factory=list)
    verdict: Verdict | None = None


def kinds_of(mom: MomCluster) -> list[Kind]:
    """The SDK at nodes where pods can be reached, through the gateway, and plain HTTP."""
    token = mom.token
    kinds = [
        messengers.sdk(mom.url, token, name="sdk-gateway"),
        messengers.http(mom.url, token, name="http-ingress"),
    ]
    if os.environ.get("MOM_E2E_DNS"):
        kinds.append(messengers.sdk(mom.node_addresses, token, name="sdk-nodes"))
    return kinds


@asynccontextmanager
async def judged_load(mom: MomCluster, folder: Path, plan: Plan = PLAN) -> AsyncIterator[Judged]:
    """Load a cluster during the block; afterwards no promise may turn out to be broken."""
    # A topic and a queue of its own: the checker knows of all that was ever sent to them.
    own = uuid4().hex[:6]
    plan = replace(plan, topic=f"history-log-{own}", queue=f"history-queue-{own}")
    path = folder / "history.ndjson"
    with Recorder(path) as recorder:
        async with Load(plan, kinds_of(mom), recorder) as load:
            judged = Judged(load)
            await load.every_client_sends()
            yield judged
    history = History(read_events(path))
    judged.verdict = check(history, DURABLE)
    judged.rows = rows(history, judged.verdict)
    told = f"{summary(history, judged.verdict)}\n{markdown_table(judged.rows)}"
    print(told)
    assert not judged.verdict.findings, told
    assert judged.verdict.acked > 0
