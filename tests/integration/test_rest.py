"""REST over real sockets: a broker process, a gateway, and HTTP clients."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from broker_process import BrokerProcess

from mom_gateway.app import entries
from mom_gateway.openapi import kinds_of
from mom_gateway.operations import Operation
from mom_gateway.routes.messages import EXAMPLE_RECEIPT

TIMEOUT_SECONDS = 60
TEXT = {"content-type": "text/plain"}
JSON_BODY = {"content-type": "application/json"}
NDJSON = {"content-type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    with BrokerProcess(nodes=3) as process:
        yield process


async def ok(
    rest: httpx.AsyncClient, method: str, path: str, status: int = 200, **options: Any
) -> Any:
    response = await rest.request(method, path, **options)
    assert response.status_code == status, response.text
    return response.json() if response.content else None


async def shown_when(rest: httpx.AsyncClient, path: str, condition: Callable[[Any], bool]) -> Any:
    """What a resource shows once it is as wanted."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            shown = await ok(rest, "GET", path)
            if condition(shown):
                return shown
            await asyncio.sleep(0.02)


async def read_all(rest: httpx.AsyncClient, topic: str, partitions: int) -> list[Any]:
    values = []
    for partition in range(partitions):
        offset = 0
        while True:
            path = f"/v1/topics/{topic}/partitions/{partition}/records"
            reply = await ok(rest, "GET", path, params={"offset": offset, "max": 3000})
            values += [record["value"] for record in reply["records"]]
            offset = reply["next_offset"]
            if offset >= reply["high_watermark"]:
                break
    return values


def real_lines() -> list[str]:
    """The lines of a file that any machine has."""
    log = Path("/var/log/dpkg.log")
    source = log if log.is_file() else Path(os.__file__)
    return source.read_text(errors="replace").split("\n")[:-1][:20_000]


async def test_a_file_goes_line_by_line_through_a_topic(rest: httpx.AsyncClient) -> None:
    lines = real_lines()
    content = "".join(f"{line}\n" for line in lines).encode()
    await ok(rest, "PUT", "/v1/topics/log", 201, json={"partitions": 3})
    summary = await ok(rest, "POST", "/v1/topics/log/records", content=content, headers=TEXT)
    assert summary == {"accepted": len(lines), "failed": 0, "errors": []}
    for _ in range(2):
        assert Counter(await read_all(rest, "log", 3)) == Counter(lines)
    partitions = (await ok(rest, "GET", "/v1/topics/log/partitions"))["partitions"]
    assert sum(one["high_watermark"] for one in partitions) == len(lines)
    assert all(one["node_id"] for one in partitions)


async def test_two_workers_share_a_queue(rest: httpx.AsyncClient) -> None:
    count = 3000
    await ok(rest, "PUT", "/v1/queues/jobs", 201, json={"partitions": 2})
    content = "".join(json.dumps({"value": {"job": job}}) + "\n" for job in range(count))
    summary = await ok(
        rest, "POST", "/v1/queues/jobs/messages", content=content.encode(), headers=NDJSON
    )
    assert summary["accepted"] == count

    async def work() -> list[int]:
        done: list[int] = []
        while True:
            messages = (
                await ok(rest, "POST", "/v1/queues/jobs/messages:receive", json={"max": 100})
            )["messages"]
            if not messages:
                return done
            receipts = [message["receipt"] for message in messages]
            reply = await ok(
                rest, "POST", "/v1/queues/jobs/messages:ack", json={"receipts": receipts}
            )
            assert {result["status"] for result in reply["results"]} == {"ok"}
            done += [message["value"]["job"] for message in messages]

    first, second = await asyncio.gather(work(), work())
    assert sorted(first + second) == list(range(count))
    queue = await ok(rest, "GET", "/v1/queues/jobs")
    counts = queue["messages"]
    assert [counts[one] for one in ("ready", "delayed", "leased", "dead")] == [0, 0, 0, 0]
    assert counts["oldest_ready_ms"] is counts["oldest_unacked_ms"] is None


async def test_lines_of_a_stream_keep_their_order(rest: httpx.AsyncClient) -> None:
    await ok(rest, "PUT", "/v1/topics/ordered", 201, json={"partitions": 4})
    count = 20_000

    async def lines() -> AsyncIterator[bytes]:
        for first in range(0, count, 500):
            yield "".join(
                json.dumps({"value": number, "key": f"k{number % 3}"}) + "\n"
                for number in range(first, first + 500)
            ).encode()

    await ok(rest, "POST", "/v1/topics/ordered/records", content=lines(), headers=NDJSON)
    values = await read_all(rest, "ordered", 4)
    assert sorted(values) == list(range(count))
    for remainder in range(3):
        of_key = [value for value in values if value % 3 == remainder]
        assert of_key == sorted(of_key)


async def test_every_kind_of_value_survives(rest: httpx.AsyncClient) -> None:
    await ok(rest, "PUT", "/v1/queues/values", 201)
    sent: list[Any] = ["text", "", "ä\n\u0000", {"a": [1, None]}, None, True, 1.5, [], 2**64]
    items = [{"value": value, "key": "k", "headers": {"a": "b"}} for value in sent]
    items.append({"value_base64": base64.b64encode(b"\0\xff").decode(), "key": "k"})
    await ok(rest, "POST", "/v1/queues/values/messages", json={"messages": items})
    reply = await ok(rest, "POST", "/v1/queues/values/messages:receive", json={"max": 50})
    assert [one.get("value") for one in reply["messages"][:-1]] == sent
    assert reply["messages"][-1]["value_base64"] == "AP8="
    assert reply["messages"][0]["headers"] == {"a": "b"}
    assert reply["messages"][0]["key"] == "k"


async def test_a_lease_ends_by_nack_release_and_time(rest: httpx.AsyncClient) -> None:
    path = "/v1/queues/leases/messages"
    await ok(rest, "PUT", "/v1/queues/leases", 201, json={"lease_ms": 1000})
    await ok(rest, "POST", path, json={"value": "once"})
    (first,) = (await ok(rest, "POST", f"{path}:receive"))["messages"]
    assert (await ok(rest, "POST", f"{path}:receive"))["messages"] == []
    await ok(rest, "POST", f"{path}:nack", json={"receipts": [first["receipt"]]})
    (second,) = (await ok(rest, "POST", f"{path}:receive", json={"wait_ms": 5000}))["messages"]
    assert (second["id"], second["deliveries"]) == (first["id"], 2)
    # The lease runs out, and the wait of this call sees the message become ready.
    (third,) = (await ok(rest, "POST", f"{path}:receive", json={"wait_ms": 20_000}))["messages"]
    assert third["deliveries"] == 3
    receipts = [second["receipt"], third["receipt"]]
    reply = await ok(rest, "POST", f"{path}:ack", 207, json={"receipts": receipts})
    assert [one["status"] for one in reply["results"]] == [409, "ok"]
    assert reply["results"][0]["code"] == "lease_lost"


async def test_how_a_queue_flows(rest: httpx.AsyncClient) -> None:
    path = "/v1/queues/flowing"
    wanted = {"ordering": "fair", "fair_by": "header:tenant", "rate_per_s": "6000/m"}
    made = await ok(rest, "PUT", path, 201, json=wanted)
    assert (made["rate_per_s"], made["fair_by"]) == (100.0, "header:tenant")
    altered = await ok(rest, "PATCH", path, json={"rate_per_s": "1/h"})
    assert altered["rate_per_s"] == pytest.approx(1 / 3_600)
    refused = await ok(rest, "PATCH", path, 400, json={"rate_per_s": "fast"})
    assert refused["field"] == "rate_per_s"
    assert "such as 100/s" in refused["detail"]
    messages = [{"value": tenant, "headers": {"tenant": tenant}} for tenant in "aab"]
    await ok(rest, "PATCH", path, json={"rate_per_s": 0})
    await ok(rest, "POST", f"{path}/messages", json={"messages": messages})
    got = await ok(rest, "POST", f"{path}/messages:receive", json={"max": 2, "wait_ms": 20_000})
    assert sorted(one["value"] for one in got["messages"]) == ["a", "b"]
    (partition,) = (await ok(rest, "GET", f"{path}/partitions"))["partitions"]
    (counts,) = partition["subscriptions"]
    assert (counts["leased"], counts["workers"], counts["stalled_since_ms"]) == (2, 0, 0)
    assert (await ok(rest, "GET", path))["messages"]["stalled_since_ms"] == 0


async def test_messages_wish_and_what_contradicts_itself_is_named(
    rest: httpx.AsyncClient,
) -> None:
    await ok(rest, "PUT", "/v1/queues/wishes", 201, json={"message_ttl_ms": "1h"})
    sent = [
        {"value": "later", "delay_ms": 400},
        {"value": "low"},
        {"value": "high", "priority": 9},
        {"value": "never", "delay_ms": 500, "ttl_ms": 100},
        {"value": "odd", "priority": 10},
    ]
    answer = await ok(rest, "POST", "/v1/queues/wishes/messages", 207, json={"messages": sent})
    problems = [one.get("field") for one in answer["results"]]
    assert problems == [None, None, None, "expires_at_ms", "priority"]
    came = []
    while len(came) < 3:
        got = await ok(
            rest,
            "POST",
            "/v1/queues/wishes/messages:receive",
            json={"max": 1, "wait_ms": 10_000},
        )
        came += [one["value"] for one in got["messages"]]
    assert came == ["high", "low", "later"]


async def test_dead_letters_tell_where_they_come_from(rest: httpx.AsyncClient) -> None:
    settings = {"dead_letter": "frail.dlq", "max_deliveries": 1, "retry_backoff_ms": "1s"}
    made = await ok(rest, "PUT", "/v1/queues/frail", 201, json=settings)
    assert (made["dead_letter"], made["retry_backoff_ms"]) == ("frail.dlq", 1_000)
    await ok(rest, "POST", "/v1/queues/frail/messages", json={"value": {"n": 1}})
    receive = {"max": 1, "wait_ms": 10_000}
    (message,) = (await ok(rest, "POST", "/v1/queues/frail/messages:receive", json=receive))[
        "messages"
    ]
    nack = {"receipts": [message["receipt"]]}
    await ok(rest, "POST", "/v1/queues/frail/messages:nack", json=nack)
    (dead,) = (await ok(rest, "POST", "/v1/queues/frail.dlq/messages:receive", json=receive))[
        "messages"
    ]
    assert dead["value"] == {"n": 1}
    assert dead["headers"]["mom-dead-topic"] == "frail"
    problem = await ok(rest, "PATCH", "/v1/queues/frail.dlq", 400, json={"dead_letter": "frail"})
    assert problem["field"] == "dead_letter"


async def test_dead_letters_are_looked_at_and_sent_back(rest: httpx.AsyncClient) -> None:
    await ok(
        rest, "PUT", "/v1/queues/weak", 201, json={"dead_letter": "weak.dlq", "max_deliveries": 1}
    )
    sent = {"messages": [{"value": {"n": n}} for n in range(3)]}
    await ok(rest, "POST", "/v1/queues/weak/messages", json=sent)
    receive = {"max": 3, "wait_ms": 10_000}
    failed: list[str] = []
    while len(failed) < 3:
        got = await ok(rest, "POST", "/v1/queues/weak/messages:receive", json=receive)
        receipts = {"receipts": [one["receipt"] for one in got["messages"]]}
        await ok(rest, "POST", "/v1/queues/weak/messages:nack", json=receipts)
        failed += receipts["receipts"]
    path = "/v1/queues/weak.dlq/dead-letters"
    await shown_when(rest, path, lambda shown: len(shown["dead_letters"]) == 3)
    first = await ok(rest, "GET", path, params={"limit": 2, "topic": "weak"})
    assert [one["value"] for one in first["dead_letters"]] == [{"n": 0}, {"n": 1}]
    more = {"limit": 2, "page_token": first["next_page_token"]}
    second = await ok(rest, "GET", path, params=more)
    assert [one["value"] for one in second["dead_letters"]] == [{"n": 2}]
    assert second["next_page_token"] == ""
    shown = second["dead_letters"][0]
    assert (shown["reason"], shown["topic"], shown["redrives"]) == ("max_deliveries", "weak", 0)
    assert (await ok(rest, "GET", path, params={"reason": "expired"}))["dead_letters"] == []
    for reason in ("handler_failed", "payload"):
        assert (await ok(rest, "GET", path, params={"reason": reason}))["dead_letters"] == []
        begun = await ok(rest, "POST", f"{path}:redrive", 202, json={"reason": reason})
        where = f"/v1/operations/{begun['operation_id']}"
        await shown_when(rest, where, lambda shown: shown["state"] == "done")
    problem = await ok(rest, "GET", path, 400, params={"reason": "boredom"})
    assert (problem["field"], "handler_failed or payload" in problem["detail"]) == ("reason", True)
    await ok(rest, "GET", path, 400, params={"page_token": "x"})
    problem = await ok(rest, "POST", f"{path}:redrive", 400, json={"rate": "fast"})
    assert problem["field"] == "rate"
    response = await rest.post(f"{path}:redrive", json={"ids": [shown["id"]]})
    assert response.status_code == 202
    where = response.headers["location"]
    operation = await shown_when(rest, where, lambda shown: shown["ended_at_ms"] is not None)
    assert (operation["state"], operation["done"]) == ("done", 1)
    got = await ok(rest, "POST", "/v1/queues/weak/messages:receive", json=receive)
    (back,) = got["messages"]
    assert (back["value"], back["headers"]) == ({"n": 2}, {"mom-redrives": "1"})
    assert len((await ok(rest, "GET", "/v1/operations?queue=weak.dlq"))["operations"]) == 3
    assert await ok(rest, "POST", "/v1/queues/weak.dlq/messages:purge") == {"purged": 2}
    await ok(rest, "POST", "/v1/operations/nonsense:cancel", 400)


async def test_a_full_queue_says_when_to_come_again(rest: httpx.AsyncClient) -> None:
    await ok(rest, "PUT", "/v1/queues/short", 201, json={"messages_max": 1})
    await ok(rest, "POST", "/v1/queues/short/messages", json={"value": 1})
    response = await rest.post("/v1/queues/short/messages", json={"value": 2})
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert "messages_max" in response.json()["detail"]
    shown = await ok(rest, "GET", "/v1/queues/short")
    assert shown["messages"]["ready"] == 1
    assert shown["messages"]["oldest_ready_ms"] >= 0
    await ok(rest, "PATCH", "/v1/queues/short", json={"messages_max": None, "paused": True})
    await ok(rest, "POST", "/v1/queues/short/messages", json={"value": 2})
    assert (await ok(rest, "POST", "/v1/queues/short/messages:receive"))["messages"] == []


async def test_what_is_created_is_what_was_asked_for(rest: httpx.AsyncClient) -> None:
    path = "/v1/topics/kept-for-ever"
    made = await ok(rest, "PUT", path, 201, json={"retention_ms": 0, "partitions": 2})
    assert (made["retention_ms"], made["partitions"]) == (0, 2)
    assert await ok(rest, "PUT", path, 200, json={"retention_ms": "0"}) == made
    assert await ok(rest, "PUT", path, 200) == made
    problem = await ok(rest, "PUT", path, 409, json={"retention_ms": None, "partitions": 2})
    assert problem["differences"] == {"retention_ms": {"existing": 0, "wanted": 604_800_000}}
    assert problem["field"] == "retention_ms"


async def test_a_number_beyond_all_bounds_names_the_body(rest: httpx.AsyncClient) -> None:
    for method, path in (("PUT", "/v1/topics/beyond"), ("PUT", "/v1/queues/beyond")):
        response = await rest.request(
            method, path, content=b'{"partitions": 1e999}', headers=JSON_BODY
        )
        assert (response.status_code, response.json()["field"]) == (400, "body"), response.text


async def test_what_is_no_base64_is_named(rest: httpx.AsyncClient) -> None:
    await ok(rest, "PUT", "/v1/topics/bytes", 201)
    records = [{"value_base64": "AAEC"}, {"value_base64": "!"}]
    reply = await ok(rest, "POST", "/v1/topics/bytes/records", 207, json={"records": records})
    assert reply["results"][0]["offset"] == 0
    assert reply["results"][1]["field"] == "value_base64"
    assert "padding" in reply["results"][1]["detail"]


MESSAGE_FIELDS = (
    "value, value_base64, key, key_base64, headers, content_type, partition, timestamp_ms, id, "
    "priority, delay_ms, deliver_at_ms, ttl_ms, expires_at_ms, dedup_id"
)
UNKNOWN_FIELDS: dict[str, tuple[str, dict[str, object], str, str]] = {
    "in a message": (
        "topics/fields/records",
        {"value": 1, "dedupId": "a"},
        "dedupId",
        f"unknown field 'dedupId'; did you mean dedup_id? Known: {MESSAGE_FIELDS}, records",
    ),
    "beside the messages": (
        "queues/fields-queue/messages",
        {"mesages": []},
        "mesages",
        f"unknown field 'mesages'; did you mean messages? Known: {MESSAGE_FIELDS}, messages",
    ),
    "in a command": (
        "queues/fields-queue/messages:receive",
        {"xyz": 1},
        "xyz",
        "unknown field 'xyz'; known: max, wait_ms, lease_ms, max_bytes",
    ),
    "in one of a list": (
        "topics/fields/subscriptions/s/leases:commit",
        {"member_id": "a", "offsets": [{"partition": 0, "generation": 1, "ofset": 1}]},
        "offsets[0].ofset",
        "unknown field 'ofset'; did you mean offset? Known: partition, generation, offset",
    ),
}


@pytest.mark.parametrize("case", UNKNOWN_FIELDS)
async def test_an_unknown_field_is_told_with_those_that_are_known(
    rest: httpx.AsyncClient, case: str
) -> None:
    await rest.put("/v1/topics/fields")
    await rest.put("/v1/queues/fields-queue")
    await rest.put("/v1/topics/fields/subscriptions/s")
    path, body, field, detail = UNKNOWN_FIELDS[case]
    problem = await ok(rest, "POST", f"/v1/{path}", 400, json=body)
    assert (problem["field"], problem["detail"]) == (field, detail)


async def test_an_unknown_field_of_one_message_suffers_alone(rest: httpx.AsyncClient) -> None:
    await ok(rest, "PUT", "/v1/topics/some-fields", 201)
    records = [{"value": 1}, {"vlaue": 1}]
    path = "/v1/topics/some-fields/records"
    landed, refused = (await ok(rest, "POST", path, 207, json={"records": records}))["results"]
    assert landed["offset"] == 0
    assert refused["detail"] == (
        f"unknown field 'vlaue'; did you mean value? Known: {MESSAGE_FIELDS}"
    )


async def test_an_unknown_setting_is_told_with_its_like(rest: httpx.AsyncClient) -> None:
    path = "/v1/queues/unknown-setting"
    problem = await ok(rest, "PUT", path, 400, json={"maxDeliverys": 3})
    assert problem["field"] == "maxDeliverys"
    begins = "'maxDeliverys' is no setting of a queue; did you mean max_deliveries? Known: "
    assert problem["detail"].startswith(begins)


async def test_members_share_a_topic(rest: httpx.AsyncClient) -> None:
    base = "/v1/topics/shared/subscriptions/group"
    await ok(rest, "PUT", "/v1/topics/shared", 201, json={"partitions": 2})
    await ok(rest, "PUT", base, 201, json={"mode": "stream"})
    await ok(rest, "PUT", base, 200, json={"mode": "stream"})
    problem = await ok(rest, "PUT", base, 409, json={"mode": "queue"})
    assert problem["differences"] == {"mode": {"existing": "stream", "wanted": "queue"}}
    reply = await ok(rest, "POST", f"{base}/leases:acquire", json={"member_id": "a"})
    assert [one["partition"] for one in reply["leases"]] == [0, 1]
    await ok(rest, "POST", "/v1/topics/shared/records", json={"value": 1, "partition": 0})
    commit = {"partition": 0, "generation": reply["leases"][0]["generation"], "offset": 1}
    body = {"member_id": "a", "offsets": [commit]}
    reply = await ok(rest, "POST", f"{base}/leases:commit", json=body)
    assert reply["results"] == [{"partition": 0, "status": "ok"}]
    lost = {"partition": 0, "generation": 99, "offset": 1}
    never = [{**commit, "partition": 7}, {**commit, "partition": -1}, {**commit, "offset": -1}]
    body["offsets"] = [never[0], commit, *never[1:], lost]
    reply = await ok(rest, "POST", f"{base}/leases:commit", 207, json=body)
    assert [(one["partition"], one.get("code", "ok")) for one in reply["results"]] == [
        (7, "invalid_argument"), (0, "ok"), (-1, "invalid_argument"), (0, "invalid_argument"),
        (0, "fenced"),
    ]  # fmt: skip
    assert "it has 0 to 1" in reply["results"][0]["detail"]
    body["offsets"] = never
    problem = await ok(rest, "POST", f"{base}/leases:commit", 400, json=body)
    assert len(problem["results"]) == 3
    body["offsets"] = [commit]
    body["member_id"] = "stranger"
    problem = await ok(rest, "POST", f"{base}/leases:commit", 409, json=body)
    assert problem["code"] == "fenced"
    await ok(rest, "POST", f"{base}/leases:release", json={"member_id": "a"})
    reply = await ok(rest, "POST", f"{base}/leases:acquire", json={"member_id": "b"})
    assert reply["leases"][0]["committed_offset"] == 1
    await ok(rest, "POST", f"{base}/leases:release", json={"member_id": "b"})
    reply = await ok(rest, "POST", f"{base}/offsets:seek", json={"to": "earliest"})
    assert {one["offset"] for one in reply["offsets"]} == {0}
    assert sum(one["lag"] for one in reply["offsets"]) == 1
    shown = await ok(rest, "GET", base)
    assert shown["lag"] == 1
    altered = await ok(rest, "PATCH", base, json={"session_ms": "20s"})
    assert altered["session_ms"] == 20_000
    problem = await ok(rest, "PATCH", base, 400, json={"paused": True})
    assert problem["field"] == "paused"
    problem = await ok(rest, "POST", f"{base}/messages:receive", 400)
    assert problem["code"] == "invalid_argument"


async def test_reads_from_a_time_and_past_the_end(rest: httpx.AsyncClient) -> None:
    await ok(rest, "PUT", "/v1/topics/times", 201)
    await ok(rest, "POST", "/v1/topics/times/records", json={"value": 1})
    path = "/v1/topics/times/partitions/0/records"
    for start in ("1", "2020-01-01T00:00:00Z"):
        assert len((await ok(rest, "GET", path, params={"timestamp": start}))["records"]) == 1
    future = await ok(rest, "GET", path, params={"timestamp": "2100-01-01T00:00:00Z"})
    assert future["records"] == []
    problem = await ok(rest, "GET", path, 416, params={"offset": 7})
    assert problem["high_watermark"] == 1


async def test_settings_change_and_partitions_never_shrink(rest: httpx.AsyncClient) -> None:
    path = "/v1/topics/altered"
    await ok(rest, "PUT", path, 201, json={"partitions": 2, "retention_ms": 0})
    assert (await ok(rest, "GET", path))["retention_ms"] == 0
    merge = {"content-type": "application/merge-patch+json"}
    changed = await ok(rest, "PATCH", path, content=b'{"partitions": 4}', headers=merge)
    assert changed["partitions"] == 4
    problem = await ok(rest, "PATCH", path, 400, json={"partitions": 3})
    assert problem["field"] == "partitions"
    problem = await ok(rest, "PATCH", path, 400, json={"retention": 3})
    assert problem["field"] == "retention"
    problem = await ok(rest, "PATCH", path, 400, content=b"[]")
    assert problem["field"] == "body"
    await ok(rest, "DELETE", path, 204)
    await ok(rest, "GET", path, 404)
    await ok(rest, "DELETE", path, 404)


async def test_a_topic_made_again_is_another_one(rest: httpx.AsyncClient) -> None:
    path = "/v1/queues/again"
    await ok(rest, "PUT", path, 201)
    await ok(rest, "POST", f"{path}/messages", json={"value": "old"})
    (message,) = (await ok(rest, "POST", f"{path}/messages:receive"))["messages"]
    await ok(rest, "DELETE", path, 204)
    await ok(rest, "PUT", path, 201)
    body = {"receipts": [message["receipt"]]}
    problem = await ok(rest, "POST", f"{path}/messages:ack", 400, json=body)
    assert problem["code"] == "invalid_receipt"
    assert (await ok(rest, "POST", f"{path}/messages:receive"))["messages"] == []


async def test_a_client_that_vanishes_leaks_nothing(rest: httpx.AsyncClient) -> None:
    path = "/v1/queues/vanish/messages"
    await ok(rest, "PUT", "/v1/queues/vanish", 201)
    url = httpx.URL(str(rest.base_url))
    request = (
        f'POST {path}:receive HTTP/1.1\r\nhost: x\r\ncontent-length: 18\r\n\r\n{{"wait_ms": 50000}}'
    )
    for _ in range(3):
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(request.encode())
        await writer.drain()
        await gauge(rest, "mom_gateway_long_polls", 1)
        writer.transport.abort()
        await gauge(rest, "mom_gateway_long_polls", 0)
    # A body that stops in its middle.
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 99999\r\n\r\n{{".encode())
    await writer.drain()
    await gauge(rest, "mom_gateway_requests_in_hand", 2)
    writer.transport.abort()
    await gauge(rest, "mom_gateway_requests_in_hand", 1)
    await gauge(rest, "mom_gateway_body_bytes", 0)
    # Nobody of those waits any more: the message goes to the one who asks.
    await ok(rest, "POST", path, json={"value": 1})
    reply = await ok(rest, "POST", f"{path}:receive", json={"wait_ms": 10_000})
    assert reply["messages"][0]["deliveries"] == 1


async def gauge(rest: httpx.AsyncClient, name: str, value: float) -> None:
    """Wait until a gauge of the gateway has a value; the request that asks counts itself."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            page = (await rest.get("/metrics")).text
            found = re.search(rf"^{name} (\S+)$", page, re.MULTILINE)
            assert found is not None
            if float(found[1]) == value:
                return


async def test_cluster_and_nodes(rest: httpx.AsyncClient) -> None:
    cluster = await ok(rest, "GET", "/v1/cluster")
    assert len(cluster["nodes"]) == 3
    assert cluster["store"]["durability"] == "memory"
    nodes = (await ok(rest, "GET", "/v1/nodes"))["nodes"]
    assert {node["state"] for node in nodes} == {"active"}
    await ok(rest, "PATCH", "/v1/nodes/nobody", 404, json={"state": "cordoned"})
    await ok(rest, "PATCH", f"/v1/nodes/{nodes[0]['node_id']}", 400, json={"state": "happy"})


# Every example of the OpenAPI document, against the live gateway.

_NAMES = {"topic": "orders", "queue": "mail", "subscription": "billing", "partition": "0"}


class Examples:
    """Makes what the examples speak of, anew for each."""

    def __init__(self, rest: httpx.AsyncClient) -> None:
        self._rest = rest
        self._names = dict(_NAMES)

    async def prepare(self, operation: Operation) -> None:
        """Topic orders, queue mail, subscription billing, a token and a node."""
        rest = self._rest
        if operation.open:
            return
        await rest.delete("/v1/topics/orders")
        await rest.delete("/v1/queues/mail")
        if operation.id != "put_topic":
            await ok(rest, "PUT", "/v1/topics/orders", 201, json={"partitions": 2})
            mode = "queue" if operation.id.startswith("subscription_") else "stream"
            if operation.id != "put_subscription":
                path = "/v1/topics/orders/subscriptions/billing"
                await ok(rest, "PUT", path, 201, json={"mode": mode})
        if operation.id != "put_queue":
            await ok(rest, "PUT", "/v1/queues/mail", 201)
            begun = await ok(rest, "POST", "/v1/queues/mail/dead-letters:redrive", 202)
            self._names["operation"] = begun["operation_id"]
        self._names["node"] = (await ok(rest, "GET", "/v1/nodes"))["nodes"][0]["node_id"]
        body = {"name": "example", "scopes": ["read:*"]}
        self._names["token_id"] = (await ok(rest, "POST", "/v1/tokens", 201, json=body))["token_id"]

    def path(self, path: str) -> str:
        """The path with the names of what was made."""
        return re.sub(r"\{(\w+)\}", lambda name: self._names[name[1]], path)

    async def body(self, path: str, body: str) -> str:
        """The body with a real receipt and generation."""
        if EXAMPLE_RECEIPT in body:
            base = self.path(path).partition("/messages")[0]
            topic = "/v1/topics/orders/records" if "orders" in base else f"{base}/messages"
            await ok(self._rest, "POST", topic, json={"value": 1})
            received = await ok(self._rest, "POST", f"{base}/messages:receive")
            body = body.replace(EXAMPLE_RECEIPT, received["messages"][0]["receipt"])
        if '"0:12"' in body:
            base = self.path(path).partition("/messages")[0]
            topic = "/v1/topics/orders/records" if "orders" in base else f"{base}/messages"
            later = {"value": 1, "deliver_at_ms": 4_000_000_000_000}
            (sent,) = (await ok(self._rest, "POST", topic, json=later))["results"]
            body = body.replace("0:12", f"{sent['partition']}:{sent['offset']}")
        if "generation" in body:
            base = self.path(path).partition("/leases")[0]
            member = {"member_id": "worker-1"}
            acquired = await ok(self._rest, "POST", f"{base}/leases:acquire", json=member)
            generation = acquired["leases"][0]["generation"]
            body = re.sub(r'"generation": \d+', f'"generation": {generation}', body)
            body = re.sub(r'"offset": \d+', '"offset": 0', body)
        return body


async def test_every_example_works_against_a_live_gateway(rest: httpx.AsyncClient) -> None:
    examples = Examples(rest)
    for method, path, operation in entries():
        bodies = [(example.media_type, example.value) for example in operation.examples]
        for media_type, value in bodies or [(None, None)]:
            await examples.prepare(operation)
            text = value if isinstance(value, str) else json.dumps(value)
            content = await examples.body(path, text) if media_type else None
            headers = {"content-type": media_type} if media_type else {}
            query = {one.name: one.example for one in operation.query if one.example is not None}
            response = await rest.request(
                method, examples.path(path), content=content, headers=headers, params=query
            )
            assert response.status_code in operation.answers, (method, path, response.text)
            assert response.status_code < 300, (method, path, response.text)
            answer = operation.answers[response.status_code]
            assert answer.media_type in (response.headers.get("content-type", "") or "none") or (
                response.status_code == 204
            )
            _check_type(response, answer)
        if operation.id == "patch_node":
            await ok(rest, "PATCH", examples.path(path), json={"state": "active"})


def _check_type(response: httpx.Response, answer: Any) -> None:
    kinds = kinds_of(answer)
    if not kinds:
        return
    for kind in kinds:
        try:
            shown = msgspec.json.decode(response.content, type=kind)
        except msgspec.ValidationError:
            continue
        # Nothing beyond what is described.
        assert set(response.json()) <= set(kind.__struct_fields__), (response.text, shown)
        return
    raise AssertionError(f"{response.text} is none of {kinds}")


# As a process.

GATEWAY = [sys.executable, "-c", "from mom_gateway.main import main; main()"]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOM_")}
    return kept | more


def refused(*flags: str, **variables: str) -> str:
    """What the process says when it refuses to start."""
    done = subprocess.run(
        [*GATEWAY, *flags],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    return done.stderr


def test_the_process_refuses_what_is_unsafe_or_taken() -> None:
    assert "--allow-unauthenticated-network-access" in refused(
        "--listen", "0.0.0.0:0", "--auth", "disabled"
    )
    assert "MOM_CLUSTER_TOKEN" in refused(MOM_LISTEN="0.0.0.0:0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused("--listen", f"127.0.0.1:{port}")
        assert f"port {port} on 127.0.0.1 is taken by " in said
        assert f"(pid {os.getpid()})" in said


async def test_the_process_drains_at_sigterm(broker: BrokerProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *GATEWAY,
        env=environment(
            MOM_LISTEN=f"127.0.0.1:{port}",
            MOM_NODES=",".join(broker.addresses),
            MOM_LOG_FORMAT="json",
            MOM_AUTO_CREATE="1",
        ),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    lines = [json.loads(await process.stderr.readline()) for _ in range(2)]
    assert lines[0]["message"].startswith("authentication is off")
    assert lines[1]["message"] == "serving REST"
    async with httpx.AsyncClient(base_url=lines[1]["url"], timeout=TIMEOUT_SECONDS) as client:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while (await client.get("/readyz")).status_code != 200:
                pass
        path = "/v1/queues/drained/messages"
        await ok(client, "POST", path, json={"value": 1})
        (message,) = (await ok(client, "POST", f"{path}:receive"))["messages"]
        poll = asyncio.create_task(
            client.post(f"{path}:receive", json={"wait_ms": 50_000}, timeout=TIMEOUT_SECONDS)
        )
        await gauge(client, "mom_gateway_long_polls", 1)
        process.send_signal(signal.SIGTERM)
        response = await poll
        assert response.json() == {"messages": []}
        assert response.headers["connection"] == "close"
        # It still serves for a moment, and is unready.
        assert (await client.get("/readyz")).status_code == 503
        body = {"receipts": [message["receipt"]]}
        await ok(client, "POST", f"{path}:ack", json=body)
    _, rest_of_log = await process.communicate()
    assert process.returncode == 0
    assert json.loads(rest_of_log.splitlines()[-1])["message"] == "stopped"
