"""The application over an engine in memory: answers, problems, limits, access, drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from rest_engine import TOKEN, Rest

from mom_client.results import Identity
from mom_core.errors import (
    ErrorCode,
    InvalidArgumentError,
    MomError,
    OverloadedError,
    StoreError,
    UnavailableError,
)
from mom_core.topics import TopicKind
from mom_gateway.settings import GatewaySettings
from mom_process.addresses import Address
from mom_proto.v1 import broker_pb2

RECORDS = "/v1/topics/orders/records"
READ = "/v1/topics/orders/partitions/0/records"
MESSAGES = "/v1/queues/mail/messages"
NDJSON = {"content-type": "application/x-ndjson"}
TEXT = {"content-type": "text/plain"}


@pytest.fixture
async def rest() -> AsyncIterator[Rest]:
    rest = Rest()
    rest.engine.add("orders", partitions=3)
    rest.engine.add("mail", TopicKind.QUEUE)
    async with rest.http:
        yield rest


def value_of(rest: Rest, offset: int) -> bytes:
    from mom_core.batch import decode

    return decode(rest.engine.logs["orders", 0][offset])[0].value


# Publishing.


async def test_a_batch_answers_in_the_order_of_the_request(rest: Rest) -> None:
    body = {
        "records": [{"value": "a", "partition": 2}, {"value": 1}, {"value": "b", "partition": 2}]
    }
    reply = await rest.ok("POST", RECORDS, json=body)
    places = [(one["partition"], one["offset"]) for one in reply["results"]]
    assert places == [(2, 0), (0, 0), (2, 1)]
    assert reply["results"][0]["durability"] == "fsync"


async def test_good_items_land_and_bad_ones_are_named(rest: Rest) -> None:
    big = "x" * (1 << 20)
    headers = {f"h{number}": "" for number in range(65)}
    items: list[Any] = [
        {"value": "good"},
        {"value": big + "x"},
        {"value": 1, "headers": headers},
        {"value": 1, "partition": 3},
        {"valu": 1},
        {"value": big},
    ]
    reply = await rest.ok("POST", RECORDS, 207, json={"records": items})
    codes = [one.get("code") for one in reply["results"]]
    assert codes == [None, "too_large", "too_large", "invalid_argument", "invalid_argument", None]
    fields = [one.get("field") for one in reply["results"]]
    assert fields == [None, "value", "headers", "partition", "valu", None]
    assert reply["results"][1]["limit_bytes"] == 1 << 20
    assert "0 to 2" in reply["results"][3]["detail"]
    assert len(rest.engine.logs["orders", 0]) == 2


async def test_when_all_fail_alike_the_answer_is_that_problem(rest: Rest) -> None:
    rest.engine.failure = StoreError("full", code=ErrorCode.STORE_FULL, retry_after_ms=2500)
    response = await rest.call("POST", RECORDS, json={"records": [{"value": 1}, {"value": 2}]})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "3"
    assert [one["code"] for one in response.json()["results"]] == ["store_full"] * 2
    single = await rest.problem("POST", RECORDS, 503, json={"value": 1})
    assert "results" not in single
    assert single["retriable"] is True
    assert single["type"] == "https://mom.dev/problems/store_full"


async def test_overload_says_when_to_come_again(rest: Rest) -> None:
    rest.engine.failure = OverloadedError("too much")
    response = await rest.call("POST", RECORDS, json={"value": 1})
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("path", "status", "code", "field"),
    [
        ("/v1/topics/nope/records", 404, "not_found", "topic"),
        ("/v1/topics/%20/records", 400, "invalid_argument", "topic"),
        ("/v1/topics//records", 400, "invalid_argument", "topic"),
        (f"/v1/topics/{'x' * 250}/records", 400, "invalid_argument", "topic"),
        ("/v1/topics/mail/records", 404, "not_found", "topic"),
        ("/v1/queues/orders/messages", 404, "not_found", "queue"),
        ("/v1/topics/orders/records/", 404, "not_found", "path"),
        ("/nowhere", 404, "not_found", "path"),
    ],
)
async def test_unknown_and_ill_named_things(
    rest: Rest, path: str, status: int, code: str, field: str
) -> None:
    problem = await rest.problem("POST", path, status, json={"value": 1})
    assert problem["code"] == code
    assert problem["field"] == field


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", MESSAGES),
        ("POST", f"{MESSAGES}:receive"),
        ("POST", f"{MESSAGES}:purge"),
        ("GET", "/v1/queues"),
        ("GET", "/v1/queues/mail"),
        ("GET", "/v1/queues/mail/dead-letters"),
    ],
)
async def test_an_unknown_query_parameter_is_refused(rest: Rest, method: str, path: str) -> None:
    """Also where there is a body: what it wishes would be left out without a word."""
    problem = await rest.problem(method, f"{path}?delaly=60s", 400)
    assert not problem["detail"].endswith("known: ")
    assert problem["field"] == "delaly"
    assert "unknown query parameter" in problem["detail"]


async def test_unknown_methods_are_problems_with_what_is_allowed(rest: Rest) -> None:
    for path, allowed in ((RECORDS, "POST"), ("/v1/topics/orders", "PUT")):
        response = await rest.call("POST" if path != RECORDS else "GET", path)
        assert response.status_code == 405
        assert allowed in response.headers["allow"]


@pytest.mark.parametrize(
    "content_type",
    ["application/x-www-form-urlencoded", "text/html", "application/json; charset=latin-1"],
)
async def test_other_media_types_are_refused(rest: Rest, content_type: str) -> None:
    headers = {"content-type": content_type}
    problem = await rest.problem("POST", RECORDS, 415, content=b"a=1", headers=headers)
    assert problem["code"] == "unsupported_media_type"


async def test_a_body_over_the_limit_is_refused_before_and_while_it_comes() -> None:
    rest = Rest(body_bytes_max=2048)
    rest.engine.add("orders")

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    async with rest.http:
        for content in (b" " * 2049, pieces()):
            headers = {"content-type": "application/json"}
            problem = await rest.problem("POST", RECORDS, 413, content=content, headers=headers)
            assert problem["limit_bytes"] == 2048
        assert rest.service.body_memory.held_bytes == 0


async def test_bodies_together_are_bounded(rest: Rest) -> None:
    rest.service.body_memory.limit_bytes = 8
    problem = await rest.problem("POST", RECORDS, 429, json={"value": "0123456789"})
    assert problem["code"] == "overloaded"
    assert rest.service.body_memory.held_bytes == 0


async def test_requests_together_are_bounded(rest: Rest) -> None:
    rest.service.requests = rest.service.settings.requests_max
    for path in (RECORDS, "/v1/topics/orders"):
        problem = await rest.problem("POST", path, 429, json={"value": 1})
        assert problem["retriable"]


async def test_first_use_creates_in_development_and_says_so() -> None:
    rest = Rest(auto_create=True)
    async with rest.http:
        response = await rest.call("POST", RECORDS, json={"value": 1})
        assert response.json()["created"] == "topic"
        assert response.headers["mom-created"] == "topic orders"
        response = await rest.call("POST", MESSAGES, content=b"one\n", headers=TEXT)
        assert response.json()["created"] == "queue"
        assert "created" not in (await rest.call("POST", RECORDS, json={"value": 1})).json()
        problem = await rest.problem("POST", "/v1/topics/-/records", 400, json={"value": 1})
        assert problem["field"] == "topic"


# Streams.


async def test_a_stream_of_lines_of_any_cut(rest: Rest) -> None:
    text = b"".join(b"line %d\n" % number for number in range(10_000)) + b"\nlast"

    async def pieces() -> AsyncIterator[bytes]:
        for first in range(0, len(text), 777):
            yield text[first : first + 777]

    reply = await rest.ok("POST", RECORDS, content=pieces(), headers=TEXT)
    assert reply == {"accepted": 10_002, "failed": 0, "errors": []}
    kept = [value_of(rest, offset) for offset in range(10_002)]
    assert kept == text.split(b"\n")


async def test_bad_lines_of_a_stream_are_named(rest: Rest) -> None:
    body = b'{"value": 1}\n\nnonsense\n{"value": "\xff"}\n{"value": 2}'
    reply = await rest.ok("POST", RECORDS, 207, content=body, headers=NDJSON)
    assert (reply["accepted"], reply["failed"]) == (2, 2)
    assert [(one["line"], one["code"]) for one in reply["errors"]] == [
        (3, "invalid_argument"),
        (4, "invalid_argument"),
    ]
    reply = await rest.problem("POST", RECORDS, 400, content=b"x\n" * 200, headers=NDJSON)
    assert reply["failed"] == 200
    assert len(reply["errors"]) == 100


async def test_a_stream_stops_at_a_reason_that_all_lines_share(rest: Rest) -> None:
    read = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield b"x" * 99_999 + b"\n"

    rest.engine.failure = UnavailableError("no node answers")
    problem = await rest.problem("POST", RECORDS, 503, content=pieces(), headers=TEXT)
    assert problem["code"] == "unavailable"
    assert problem["accepted"] == 0
    assert problem["lines_read"] == read < 100


async def test_an_empty_stream_is_no_error(rest: Rest) -> None:
    reply = await rest.ok("POST", RECORDS, content=b"", headers=NDJSON)
    assert reply == {"accepted": 0, "failed": 0, "errors": []}


# Reading.


async def test_read_in_steps(rest: Rest) -> None:
    for number in range(5):
        await rest.ok("POST", RECORDS, json={"value": number, "key": "k"})
    reply = await rest.ok("GET", READ, params={"max": 3})
    assert [one["value"] for one in reply["records"]] == [0, 1, 2]
    assert reply["next_offset"] == 3
    assert (reply["high_watermark"], reply["log_start"]) == (5, 0)
    reply = await rest.ok("GET", READ, params={"offset": reply["next_offset"]})
    assert [one["offset"] for one in reply["records"]] == [3, 4]
    assert reply["records"][0]["key"] == "k"
    assert (await rest.ok("GET", READ, params={"offset": "latest"}))["records"] == []


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ("offset=-1", 400, "offset"),
        ("offset=x", 400, "offset"),
        ("offset=9007199254740993", 400, "offset"),
        ("offset=7", 416, "offset"),
        ("timestamp=yesterday", 400, "timestamp"),
        ("offset=1&timestamp=1", 400, "timestamp"),
        ("wait_ms=55001", 400, "wait_ms"),
        ("max_bytes=8388609", 400, "max_bytes"),
        ("max=0", 400, "max"),
        ("ofset=1", 400, "ofset"),
        ("max=1&max=2", 400, "max"),
    ],
)
async def test_wrong_parameters_name_what_is_allowed(
    rest: Rest, query: str, status: int, field: str
) -> None:
    problem = await rest.problem("GET", f"{READ}?{query}", status)
    assert problem["field"] == field


@pytest.mark.parametrize("partition", ["3", "x", "-1", "99999999999"])
async def test_a_partition_out_of_range(rest: Rest, partition: str) -> None:
    path = f"/v1/topics/orders/partitions/{partition}/records"
    problem = await rest.problem("GET", path, 404)
    assert problem["field"] == "partition"
    assert "0 to 2" in problem["detail"]


async def test_below_retention_names_where_the_log_starts(rest: Rest) -> None:
    rest.engine.failure = MomError(
        "gone", code=ErrorCode.OFFSET_TRIMMED, field="offset", details={"log_start": "42"}
    )
    problem = await rest.problem("GET", READ, 410)
    assert problem["log_start"] == 42


async def test_a_long_poll_answers_when_something_comes(rest: Rest) -> None:
    poll = asyncio.create_task(rest.ok("GET", READ, params={"wait_ms": 50_000}))
    await rest.engine.waiting.wait()
    await rest.ok("POST", RECORDS, json={"value": "news"})
    assert [one["value"] for one in (await poll)["records"]] == ["news"]


# Queues.


async def test_receive_and_settle(rest: Rest) -> None:
    await rest.ok("POST", MESSAGES, json={"messages": [{"value": "a"}, {"value": {"b": 1}}]})
    reply = await rest.ok("POST", f"{MESSAGES}:receive", json={"max": 10, "lease_ms": 5000})
    first, second = reply["messages"]
    assert first["value"] == "a"
    assert second["value"] == {"b": 1}
    assert first["deliveries"] == 1
    assert first["lease_expires_at"] == "2023-11-14T22:13:50.000Z"
    assert first["lease_ms"] == 5000
    assert await rest.ok("POST", f"{MESSAGES}:receive") == {"messages": []}
    receipts = [first["receipt"], second["receipt"]]
    extended = await rest.ok(
        "POST", f"{MESSAGES}:extend", json={"receipts": receipts, "lease_ms": 1000}
    )
    assert extended["results"][0] == {
        "receipt": receipts[0],
        "status": "ok",
        "lease_expires_at": "2023-11-14T22:13:51.000Z",
    }
    reply = await rest.ok("POST", f"{MESSAGES}:nack", json={"receipts": receipts[1:]})
    assert reply["results"] == [{"receipt": receipts[1], "status": "ok"}]
    reply = await rest.ok("POST", f"{MESSAGES}:ack", 207, json={"receipts": receipts})
    assert reply["results"][0] == {"receipt": receipts[0], "status": "ok"}
    assert reply["results"][1]["receipt"] == receipts[1]
    assert reply["results"][1]["code"] == "lease_lost"


async def test_a_delivery_that_does_not_count(rest: Rest) -> None:
    await rest.ok("POST", MESSAGES, json={"value": "a"})
    (one,) = (await rest.ok("POST", f"{MESSAGES}:receive"))["messages"]
    body = {"receipts": [one["receipt"]], "count": False, "delay_ms": 5}
    await rest.ok("POST", f"{MESSAGES}:nack", json=body)
    assert rest.engine.settled == [(broker_pb2.SETTLE_ACTION_RELEASE, 0)]
    problem = await rest.problem("POST", f"{MESSAGES}:nack", 400, json=body | {"count": 0})
    assert problem["field"] == "count"


async def test_durations_are_taken_in_all_forms(rest: Rest) -> None:
    await rest.ok("POST", MESSAGES, json={"value": "a", "delay_ms": "1m", "ttl_ms": "1h"})
    reply = await rest.ok("POST", f"{MESSAGES}:receive", json={"lease_ms": "1m", "wait_ms": "0s"})
    (one,) = reply["messages"]
    assert one["lease_ms"] == 60_000
    receipts = {"receipts": [one["receipt"]]}
    reply = await rest.ok("POST", f"{MESSAGES}:extend", json=receipts | {"lease_ms": "1s"})
    assert reply["results"][0]["lease_expires_at"] == "2023-11-14T22:13:51.000Z"
    await rest.ok("POST", f"{MESSAGES}:nack", json=receipts | {"delay_ms": "1m"})
    for path, field, value in (
        ("", "delay_ms", "soon"),
        ("", "ttl_ms", "1 h"),
        (":receive", "lease_ms", "1ms"),
        (":receive", "wait_ms", "2m"),
        (":nack", "delay_ms", "-1s"),
        (":nack", "delay_ms", 1.5),
    ):
        body: dict[str, Any] = {field: value}
        body |= {"": {"value": 1}, ":nack": receipts}.get(path, {})
        problem = await rest.problem("POST", f"{MESSAGES}{path}", 400, json=body)
        assert problem["field"] == field


async def test_foreign_and_forged_receipts(rest: Rest) -> None:
    rest.engine.add("other", TopicKind.QUEUE)
    await rest.ok("POST", MESSAGES, json={"value": 1})
    (message,) = (await rest.ok("POST", f"{MESSAGES}:receive"))["messages"]
    receipt = message["receipt"]
    swapped = receipt[:-1] + ("A" if receipt[-1] != "A" else "B")
    for path, wrong in (
        ("/v1/queues/other/messages:ack", receipt),
        (f"{MESSAGES}:ack", swapped),
        (f"{MESSAGES}:ack", "nonsense"),
    ):
        problem = await rest.problem("POST", path, 400, json={"receipts": [wrong]})
        assert problem["code"] == "invalid_receipt"
        assert problem["results"][0]["receipt"] == wrong
    reply = await rest.ok("POST", f"{MESSAGES}:ack", 207, json={"receipts": ["x", receipt]})
    assert [one["status"] for one in reply["results"]] == [400, "ok"]


@pytest.mark.parametrize(
    ("verb", "body", "field"),
    [
        ("receive", {"max": 0}, "max"),
        ("receive", {"max": 10_001}, "max"),
        ("receive", {"max": "1"}, "max"),
        ("receive", {"wait_ms": 55_001}, "wait_ms"),
        ("receive", {"lease_ms": 999}, "lease_ms"),
        ("receive", {"lease": 1}, "lease"),
        ("ack", {}, "receipts"),
        ("ack", {"receipts": []}, "receipts"),
        ("nack", {"receipts": ["a"], "delay_ms": -1}, "delay_ms"),
        ("extend", {"receipts": ["a"], "lease_ms": 1}, "lease_ms"),
    ],
)
async def test_wrong_settings_name_their_field(
    rest: Rest, verb: str, body: dict[str, Any], field: str
) -> None:
    problem = await rest.problem("POST", f"{MESSAGES}:{verb}", 400, json=body)
    assert problem["field"] == field


# Clients that go away, and drains.


class Connection:
    """One ASGI request whose client may go away."""

    def __init__(self, rest: Rest, method: str, path: str, body: bytes, query: bytes = b"") -> None:
        self.sent: list[Any] = []
        self.gone = asyncio.Event()
        self._body: bytes | None = body
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query,
            "headers": [(b"content-type", b"application/json")],
        }
        self.task = asyncio.create_task(rest.app(scope, self.receive, self.send))

    async def receive(self) -> Any:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


async def test_a_client_that_goes_ends_its_long_poll(rest: Rest) -> None:
    for method, path, query in (
        ("GET", READ, b"wait_ms=50000"),
        ("POST", f"{MESSAGES}:receive", b""),
    ):
        rest.engine.waiting.clear()
        rest.engine.cancelled.clear()
        connection = Connection(rest, method, path, b'{"wait_ms": 50000}', query)
        await rest.engine.waiting.wait()
        connection.gone.set()
        await connection.task
        await rest.engine.cancelled.wait()
        assert connection.sent == []
        assert len(rest.service.polls) == 0
        assert rest.service.requests == 0
        assert rest.service.body_memory.held_bytes == 0


async def test_what_a_client_that_went_had_leased_is_released(rest: Rest) -> None:
    await rest.ok("POST", MESSAGES, json={"value": 1})
    connection = Connection(rest, "POST", f"{MESSAGES}:receive", b"{}")
    connection.gone.set()
    await connection.task
    for _ in range(5):
        await asyncio.sleep(0)
    assert connection.sent == []
    assert rest.engine.settled == [(broker_pb2.SETTLE_ACTION_RELEASE, 0)]


async def test_a_drain_answers_long_polls_and_closes_connections(rest: Rest) -> None:
    poll = asyncio.create_task(rest.call("POST", f"{MESSAGES}:receive", json={"wait_ms": 50_000}))
    await rest.engine.waiting.wait()
    assert (await rest.call("GET", "/readyz")).status_code == 200
    rest.service.draining = True
    rest.service.polls.end()
    response = await poll
    assert response.json() == {"messages": []}
    assert response.headers["connection"] == "close"
    response = await rest.call("GET", "/readyz")
    assert response.status_code == 503
    assert response.headers["connection"] == "close"
    assert (await rest.call("GET", "/healthz")).status_code == 200
    again = await rest.call("POST", f"{MESSAGES}:receive", json={"wait_ms": 50_000})
    assert again.json() == {"messages": []}


async def test_not_ready_before_the_first_routing_table(rest: Rest) -> None:
    rest.engine.revision = 0
    assert (await rest.http.get("/readyz")).status_code == 503


# Topics.


async def test_put_is_repeatable_and_a_difference_is_a_conflict(rest: Rest) -> None:
    wanted = {"partitions": 4, "retention_ms": "24h"}
    made = await rest.ok("PUT", "/v1/topics/new", 201, json=wanted)
    assert made["retention_ms"] == 86_400_000
    assert await rest.ok("PUT", "/v1/topics/new", json=wanted) == made
    assert await rest.ok("PUT", "/v1/topics/new") == made
    problem = await rest.problem("PUT", "/v1/topics/new", 409, json={"partitions": 5})
    assert problem["differences"] == {"partitions": {"existing": 4, "wanted": 5}}
    problem = await rest.problem("PUT", "/v1/topics/new", 400, json={"partitions": 2000})
    assert problem["field"] == "partitions"
    problem = await rest.problem("PUT", "/v1/queues/new", 409)
    assert problem["differences"]["kind"] == {"existing": "topic", "wanted": "queue"}


async def test_lists_come_in_pages(rest: Rest) -> None:
    for number in range(5):
        rest.engine.add(f"t{number}")
    reply = await rest.ok("GET", "/v1/topics", params={"limit": 4})
    assert [one["name"] for one in reply["topics"]] == ["orders", "t0", "t1", "t2"]
    rest_of = await rest.ok("GET", "/v1/topics", params={"page_token": reply["next_page_token"]})
    assert [one["name"] for one in rest_of["topics"]] == ["t3", "t4"]
    assert rest_of["next_page_token"] == ""
    for limit in ("0", "1001", "x"):
        problem = await rest.problem("GET", "/v1/topics", 400, params={"limit": limit})
        assert problem["field"] == "limit"
        assert "from 1 to 1000" in problem["detail"]


async def test_a_defect_is_a_problem_and_no_secret(
    rest: Rest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(name: str) -> Any:
        raise ValueError("inner workings")

    monkeypatch.setattr(rest.engine, "topic", broken)
    for method, path in (("POST", RECORDS), ("GET", "/v1/topics/orders")):
        problem = await rest.problem(method, path, 500, json={"value": 1})
        assert "inner" not in problem["detail"]
        assert "inner workings" in caplog.text


# Access.


async def test_tokens_and_scopes() -> None:
    rest = Rest(auth_disabled=False)
    rest.engine.add("orders")
    rest.engine.add("mail", TopicKind.QUEUE)
    rest.engine.tokens[TOKEN] = Identity("billing", ("write:orders", "read:mail"), 10_000)
    bearer = {"authorization": f"Bearer {TOKEN}"}
    async with rest.http:
        for headers in ({}, {"authorization": "Basic x"}, {"authorization": "Bearer wrong"}):
            for method, path in (("POST", RECORDS), ("GET", "/v1/topics"), ("GET", "/v1/nowhere")):
                response = await rest.call(method, path, headers=headers, content=b"{}")
                assert response.status_code == 401
                assert response.headers["www-authenticate"].startswith("Bearer")
                assert "wrong" not in response.text
        await rest.ok("POST", RECORDS, json={"value": 1}, headers=bearer)
        await rest.ok("POST", f"{MESSAGES}:receive", headers=bearer)
        assert (await rest.ok("GET", "/v1/topics", headers=bearer))["topics"]
        for method, path, scope in (
            ("POST", MESSAGES, "write:mail"),
            ("GET", READ, "read:orders"),
            ("PUT", "/v1/topics/x", "admin"),
            ("GET", "/v1/tokens", "admin"),
            ("DELETE", "/v1/queues/mail", "admin"),
        ):
            problem = await rest.problem(method, path, 403, headers=bearer, content=b"{}")
            assert problem["needed_scope"] == scope
        for path in ("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"):
            assert (await rest.http.get(path)).status_code == 200


async def test_who_a_token_stands_for_is_asked_once() -> None:
    rest = Rest(auth_disabled=False)
    rest.engine.tokens[TOKEN] = Identity("a", ("admin",), 10_000)
    async with rest.http:
        for token in (TOKEN, TOKEN, "other", "other"):
            await rest.call("GET", "/v1/topics", headers={"authorization": f"Bearer {token}"})
    assert rest.engine.authentications == 2


async def test_an_open_gateway_refuses_foreign_web_pages(rest: Rest) -> None:
    headers = {"sec-fetch-site": "cross-site", **TEXT}
    await rest.problem("POST", RECORDS, 403, content=b"x\n", headers=headers)


def test_open_beyond_loopback_only_when_told_so() -> None:
    address = Address("0.0.0.0", 8080)
    with pytest.raises(InvalidArgumentError, match="allow-unauthenticated-network-access"):
        GatewaySettings(listen=address, auth_disabled=True).check()
    GatewaySettings(
        listen=address, auth_disabled=True, allow_unauthenticated_network_access=True
    ).check()
    GatewaySettings(listen=Address("::1", 0), auth_disabled=True).check()


# The process's edges.


# Cancelling and rescheduling.


async def test_waiting_messages_are_cancelled_and_moved(rest: Rest) -> None:
    await rest.ok("POST", MESSAGES, json={"value": "leased"})
    await rest.ok("POST", f"{MESSAGES}:receive")
    body = {"positions": ["0:0", "0:7", "nonsense"]}
    reply = await rest.ok("POST", f"{MESSAGES}:cancel", 207, json=body)
    leased, done, nonsense = reply["results"]
    assert (leased["position"], leased["status"], leased["type"][-8:]) == ("0:0", 409, "conflict")
    assert done == {"position": "0:7", "status": "ok"}
    assert (nonsense["status"], nonsense["field"]) == (400, "position")
    moved = {"positions": ["0:8", "0:9"], "deliver_at_ms": 5}
    await rest.ok("POST", f"{MESSAGES}:reschedule", json=moved)
    assert rest.engine.rescheduled == [(7, True, 0), (8, False, 5), (9, False, 5)]
    problem = await rest.problem("POST", f"{MESSAGES}:cancel", 409, json={"positions": ["0:0"]})
    assert problem["results"][0]["position"] == "0:0"


@pytest.mark.parametrize(
    ("verb", "body", "field"),
    [
        ("cancel", {}, "positions"),
        ("cancel", {"positions": []}, "positions"),
        ("cancel", {"positions": ["0:1"] * 1_001}, "positions"),
        ("reschedule", {"positions": ["0:1"], "deliver_at_ms": -1}, "deliver_at_ms"),
        ("reschedule", {"positions": ["0:1"], "deliver_at_ms": 1, "delay_ms": 1}, "delay_ms"),
    ],
)
async def test_what_can_not_be_rescheduled_is_named(
    rest: Rest, verb: str, body: dict[str, Any], field: str
) -> None:
    problem = await rest.problem("POST", f"{MESSAGES}:{verb}", 400, json=body)
    assert problem["field"] == field
