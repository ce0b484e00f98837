"""A load on real processes while nodes die, leave and come, judged by the history checker."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

import mom_client
from e2e.history import messengers
from e2e.history.checker import Settings, check
from e2e.history.events import Action, read_events
from e2e.history.history import History
from e2e.history.load import Load, Plan
from e2e.history.recorder import CallError, Recorder
from e2e.history.report import markdown_table, rows, summary
from integration.server_processes import ServerProcesses
from mom_client.options import REQUEST_TIMEOUT_MS_DEFAULT
from redis_server import RedisServer

PLAN = Plan(sends_per_s=20, lease_s=2, wait_s=0.5, deadline_s=15, drain_s=30)
FSYNC = Settings(durabilities=frozenset({"fsync"}))


async def test_no_promise_is_broken_while_nodes_come_and_go(
    own_redis_server: RedisServer, tmp_path: Path
) -> None:
    own_redis_server.start()
    path = tmp_path / "history.ndjson"
    async with ServerProcesses(own_redis_server.url, nodes=3) as cluster:
        kinds = [
            messengers.sdk(cluster.node_addresses),
            messengers.sdk(cluster.node_addresses),
            messengers.http(cluster.url),
            messengers.http(cluster.url),
        ]
        with Recorder(path) as recorder:
            async with Load(PLAN, kinds, recorder) as load:
                await load.every_client_sends()
                async with load.disruption("a node is killed"):
                    cluster.nodes[0].kill()
                    await cluster.nodes[0].ended()
                async with load.disruption("a node comes"):
                    await cluster.start_node().serves()
                async with load.disruption("a node leaves"):
                    cluster.nodes[1].terminate()
                    assert await cluster.nodes[1].ended() == 0
                async with load.disruption("a node goes silent"):
                    cluster.nodes[2].suspend()
                async with load.disruption("the silent node wakes"):
                    cluster.nodes[2].resume()
        history = History(read_events(path))
        verdict = check(history, FSYNC)
        print(summary(history, verdict), markdown_table(rows(history, verdict)), sep="\n")
        assert not verdict.findings, f"{summary(history, verdict)}\n{cluster.logs()}"
    assert verdict.acked > 100
    by_name = {one.disruption: one for one in rows(history, verdict)}
    assert list(by_name) == [
        "a node is killed",
        "a node comes",
        "a node leaves",
        "a node goes silent",
        "the silent node wakes",
    ]
    for one in by_name.values():
        assert sum(one.failed.values()) == 0, one
    # Calls under way at the silent node do not wait for their timeout, after which they would be
    # made again.
    longest_ms = by_name["a node goes silent"].longest_call_s * 1000
    assert longest_ms < REQUEST_TIMEOUT_MS_DEFAULT


@pytest.mark.parametrize("action", [Action.ACK, Action.NACK, Action.EXTEND])
async def test_a_purge_in_between_is_an_answer_and_no_failed_call(
    client: mom_client.Client, rest: httpx.AsyncClient, name: str, tmp_path: Path, action: Action
) -> None:
    """A load purges by itself, and then a worker that was at it is refused."""
    await client.create_queue(name)
    for kind in (messengers.sdk(str(rest.base_url)), messengers.http(str(rest.base_url))):
        await client.publish(name, "a")
        with Recorder(tmp_path / "history.ndjson") as recorder:
            own = recorder.client("one", kind.name, idempotent=True, ordered=True)
            async with kind.connect(own) as messenger:
                held = await messenger.receive(name, 1, wait_s=5, lease_s=30)
                await messenger.purge(name)
                assert await messenger.settle(name, held, action, lease_s=30) == ["purged"]


async def test_a_full_queue_is_a_clear_answer(
    client: mom_client.Client, rest: httpx.AsyncClient, name: str, tmp_path: Path
) -> None:
    await client.create_queue(name, messages_max=1)
    await client.publish(name, "a")
    for kind in (messengers.sdk(str(rest.base_url)), messengers.http(str(rest.base_url))):
        with Recorder(tmp_path / "history.ndjson") as recorder:
            own = recorder.client("one", kind.name, idempotent=True, ordered=True)
            async with kind.connect(own) as messenger:
                with pytest.raises(CallError) as caught:
                    await messenger.offer(name, "b")
                assert (caught.value.code, caught.value.may_have_landed) == ("overloaded", False)


async def test_every_kind_of_client_pauses_queues_and_knows_stalls(
    client: mom_client.Client, rest: httpx.AsyncClient, name: str, tmp_path: Path
) -> None:
    await client.create_queue(name)
    for kind in (messengers.sdk(str(rest.base_url)), messengers.http(str(rest.base_url))):
        with Recorder(tmp_path / "history.ndjson") as recorder:
            own = recorder.client("one", kind.name, idempotent=True, ordered=True)
            async with kind.connect(own) as messenger:
                for paused in (True, False):
                    await messenger.set_paused(name, paused)
                    (shown,) = [one for one in await client.queues() if one.name == name]
                    assert shown.queue is not None
                    assert shown.queue.paused is paused
                assert not await messenger.is_stalled(name)


async def test_every_kind_of_client_looks_at_dead_letters_and_sends_them_back(
    client: mom_client.Client, rest: httpx.AsyncClient, name: str, tmp_path: Path
) -> None:
    dead = f"{name}.dead"
    await client.create_queue(dead)
    await client.create_queue(name, max_deliveries=1, dead_letter=dead)
    for kind in (messengers.sdk(str(rest.base_url)), messengers.http(str(rest.base_url))):
        published = await client.publish(name, kind.name)
        with Recorder(tmp_path / "history.ndjson") as recorder:
            own = recorder.client("one", kind.name, idempotent=True, ordered=True)
            async with kind.connect(own) as messenger:
                (held,) = await messenger.receive(name, 1, wait_s=5, lease_s=30)
                assert (held.redrives, held.facts) == (0, None)
                await messenger.settle(name, [held], Action.NACK)
                (leased,) = await messenger.receive(dead, 1, wait_s=5, lease_s=30)
                await messenger.settle(dead, [leased], Action.NACK)
                (seen,) = await messenger.dead_letters(dead)
                assert seen.facts == leased.facts
                assert seen[:3] == leased[:3]
                assert (seen.facts.deliveries, seen.facts.offset) == (1, published.offset)
                operation_id = await messenger.redrive(dead, 100.0)
                (again,) = await messenger.receive(name, 1, wait_s=5, lease_s=30)
                assert (again.body, again.redrives, again.facts) == (kind.name, 1, None)
                await messenger.settle(name, [again], Action.ACK)
                await client.operation(operation_id, wait=True)
                assert await messenger.operation(operation_id) == ("done", 1)
