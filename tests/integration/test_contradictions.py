"""Settings that make no sense are refused with the reason, by REST and by the command line alike.

What the API server says to them is in ``test_crds.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from contradictions import (
    NEEDS_DEAD_LETTER,
    OF_DELIVERY,
    OF_QUEUES,
    Contradiction,
    in_rest,
    on_command_line,
)
from dev_process import TIMEOUT_SECONDS, DevProcess

# The command itself reads it and finds it wrong, before anybody is asked.
USAGE_ERROR = 2


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevProcess]:
    with DevProcess(tmp_path_factory.mktemp("dev") / "data") as process:
        process.mom("topic", "create", "events")
        yield process


@pytest.fixture
def rest(dev: DevProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=dev.facts["rest_url"], timeout=TIMEOUT_SECONDS) as client:
        yield client


def blamed(response: httpx.Response) -> tuple[int, str]:
    problem: dict[str, Any] = response.json()
    assert problem["detail"], "the reason in words"
    return response.status_code, problem.get("field", "")


@pytest.mark.parametrize("one", OF_QUEUES, ids=lambda one: one.name)
def test_rest_refuses_them_for_a_queue(rest: httpx.Client, one: Contradiction) -> None:
    body = in_rest(one.settings, "jobs")
    assert blamed(rest.put("/v1/queues/jobs", json=body)) == (400, _field(one))
    assert rest.get("/v1/queues/jobs").status_code == 404, "nothing of it was made"


@pytest.mark.parametrize("one", OF_DELIVERY, ids=lambda one: one.name)
def test_rest_refuses_them_for_a_subscription(rest: httpx.Client, one: Contradiction) -> None:
    path = "/v1/topics/events/subscriptions/mail"
    body = in_rest(one.settings, "events") | {"mode": "queue"}
    assert blamed(rest.put(path, json=body)) == (400, _field(one))
    assert rest.get(path).status_code == 404


def test_rest_refuses_them_as_a_change(rest: httpx.Client) -> None:
    assert rest.put("/v1/queues/changed", json={"dead_letter": "changed.dlq"}).status_code == 201
    for one in OF_QUEUES:
        if one.words == NEEDS_DEAD_LETTER:
            continue  # There is a place for them here.
        patch = in_rest(one.settings, "changed")
        status, field = blamed(rest.patch("/v1/queues/changed", json=patch))
        assert (status, field) in ((400, _field(one)), (400, "ordering")), one


@pytest.mark.parametrize("one", OF_QUEUES, ids=lambda one: one.name)
def test_the_command_line_refuses_them(dev: DevProcess, one: Contradiction) -> None:
    options = on_command_line(one.settings, "jobs")
    done = dev.mom("queue", "create", "jobs", *options, "-o", "json", code=_exit_code(one))
    error = json.loads(done.stderr)["error"]
    if _exit_code(one) == USAGE_ERROR:
        assert f"--{one.field.removesuffix('_ms')}" in error["message"]
    else:
        assert error["field"] == _field(one)


def test_settings_of_queue_mode_are_refused_for_streams(
    rest: httpx.Client, dev: DevProcess
) -> None:
    path = "/v1/topics/events/subscriptions/reader"
    assert blamed(rest.put(path, json={"dead_letter": "x"}))[0] == 400
    options = ["--dead-letter", "x", "-o", "json"]
    done = dev.mom("subscription", "create", "events", "reader", *options, code=1)
    assert json.loads(done.stderr)["error"]["field"] == "dead_letter"


def test_two_headers_in_one_topic_are_refused(rest: httpx.Client, dev: DevProcess) -> None:
    assert rest.put("/v1/topics/shared", json={}).status_code == 201
    base = "/v1/topics/shared/subscriptions"
    fair = {"mode": "queue", "ordering": "fair"}
    made = rest.put(f"{base}/one", json=fair | {"fair_by": "header:tenant"})
    assert made.status_code == 201
    other = rest.put(f"{base}/two", json=fair | {"fair_by": "header:customer"})
    assert blamed(other) == (409, "fair_by")
    options = ["--mode", "queue", "--ordering", "fair", "--fair-by", "header:customer"]
    done = dev.mom("subscription", "create", "shared", "two", *options, "-o", "json", code=1)
    assert json.loads(done.stderr)["error"]["code"] == "conflict"


def test_dead_letters_that_would_come_back_are_refused(rest: httpx.Client, dev: DevProcess) -> None:
    assert rest.put("/v1/queues/first", json={"dead_letter": "second"}).status_code == 201
    assert rest.patch("/v1/queues/second", json={"dead_letter": "third"}).status_code == 200
    assert blamed(rest.patch("/v1/queues/third", json={"dead_letter": "first"}))[0] == 400
    options = ["--dead-letter", "first", "-o", "json"]
    done = dev.mom("queue", "alter", "third", *options, code=1)
    assert "come back" in json.loads(done.stderr)["error"]["message"]


def test_a_priority_is_refused_where_there_are_none_and_no_other_message_suffers(
    rest: httpx.Client, dev: DevProcess
) -> None:
    assert rest.put("/v1/queues/strict", json={"ordering": "fifo"}).status_code == 201
    messages = [{"value": "a"}, {"value": "b", "priority": 5}, {"value": "c"}]
    done = rest.post("/v1/queues/strict/messages", json={"messages": messages}).json()
    assert [one.get("field") for one in done["results"]] == [None, "priority", None]
    assert ["offset" in one for one in done["results"]] == [True, False, True]
    done = dev.mom("produce", "strict", "d", "--priority", "5", code=1)
    assert "which knows no priorities" in done.stderr.decode()


def test_a_delay_beyond_the_expiry_is_refused_and_no_other_message_suffers(
    rest: httpx.Client, dev: DevProcess
) -> None:
    assert rest.put("/v1/queues/brief", json={"message_ttl_ms": "1m"}).status_code == 201
    delays_ms = [0, 120_000, 30_000, 60_000, 59_000]
    messages = [{"value": "a", "delay_ms": delay_ms} for delay_ms in delays_ms]
    done = rest.post("/v1/queues/brief/messages", json={"messages": messages}).json()
    fields = [one.get("field") for one in done["results"]]
    assert fields == [None, "deliver_at_ms", None, "deliver_at_ms", None]
    assert ["offset" in one for one in done["results"]] == [True, False, True, False, True]
    refused = dev.mom("produce", "brief", "late", "--delay", "2m", code=1).stderr.decode()
    assert "would expire" in refused
    assert "before it may be delivered" in refused
    dev.mom("produce", "brief", "in time", "--delay", "30s")


def _field(one: Contradiction) -> str:
    return "rate_per_s" if one.field == "rate" else one.field


def _exit_code(one: Contradiction) -> int:
    return USAGE_ERROR if one.settings.get(one.field) in ("random", "100/d") else 1
