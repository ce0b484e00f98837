"""A trace goes through messages: from the publisher through handlers that publish themselves.

In processes of their own: one without OpenTelemetry, and one that sets it up.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from integration.broker_process import BrokerProcess
from integration.dev_process import environment

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"

CHAIN = """
import asyncio, json, sys
import mom_client
from mom_client import Message, MomApp, Retry

app = MomApp(sys.argv[1])

@app.worker("a", retry=Retry(tries=2, backoff=0.01))
async def first(text: str):
    if text == "fails" and not failed:
        failed.append(text)
        raise ValueError("once")
    await app.publish("b", text, headers={"mine": "kept"})

@app.worker("b")
def second(text: str):
    app.sync.publish("c", text)
    app.sync.publish_many("c", ["many", Message(b"own", headers={"traceparent": OWN})])

failed = []
OWN = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"

async def chain(publish):
    async with mom_client.connect(sys.argv[1]) as client:
        for name in "abc":
            await client.create_queue(name)
        found = []
        async with app.running():
            await publish()
            while len(found) < 3:
                messages = await client.receive("c", 10, wait=20)
                await client.ack(messages)
                found += messages
    return {one.text(): one.headers for one in found}
"""

PLAIN = """
async def publish():
    await app.publish("a", "x", headers={"traceparent": sys.argv[2], "tracestate": "k=v"})

print(json.dumps(asyncio.run(chain(publish))))
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""

TRACED = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)

async def publish():
    with trace.get_tracer("test").start_as_current_span("root"):
        await app.publish("a", "fails")

headers = asyncio.run(chain(publish))
print(json.dumps([headers, [json.loads(one.to_json()) for one in spans.get_finished_spans()]]))
"""


@pytest.fixture
def broker() -> Iterator[BrokerProcess]:
    with BrokerProcess(1) as process:
        yield process


def run(program: str, broker: BrokerProcess) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", CHAIN + program, broker.addresses[0], PARENT],
        capture_output=True, text=True, env=environment(), timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_without_opentelemetry_the_headers_are_passed_on(broker: BrokerProcess) -> None:
    headers = run(PLAIN, broker)
    passed_on = {"traceparent": PARENT, "tracestate": "k=v"}
    assert headers["x"] == passed_on
    assert headers["many"] == passed_on
    assert headers["own"] == {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}


def test_with_opentelemetry_there_are_spans(broker: BrokerProcess) -> None:
    headers, spans = run(TRACED, broker)
    (trace_id,) = {one["context"]["trace_id"] for one in spans}
    by_id = {one["context"]["span_id"]: one for one in spans}

    def line(span: dict[str, Any]) -> list[str]:
        """A span's name and those above it."""
        above = by_id.get(span["parent_id"] or "")
        return [span["name"], *(line(above) if above else [])]

    lines = sorted(line(one) for one in spans)
    root, sent_a = ["root"], ["send a", "root"]
    processed_a = ["process a", *sent_a]
    processed_b = ["process b", "send b", *processed_a]
    assert lines == sorted(
        [
            root, sent_a, processed_a, processed_a, ["send b", *processed_a], processed_b,
            ["send c", *processed_b], ["send c", *processed_b],
        ]
    )  # fmt: skip
    assert trace_id.removeprefix("0x") in headers["fails"]["traceparent"]
    assert trace_id.removeprefix("0x") in headers["many"]["traceparent"]
    assert headers["own"] == {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
    failed = [one for one in spans if one["status"]["status_code"] == "ERROR"]
    assert [one["name"] for one in failed] == ["process a"]
    assert failed[0]["attributes"]["error.type"] == "ValueError"
    assert [one["name"] for one in failed[0]["events"]] == ["exception"]
    sent = next(one for one in spans if one["name"] == "send a")
    processed = next(one for one in spans if one["name"] == "process a")
    assert (sent["kind"], processed["kind"]) == ("SpanKind.PRODUCER", "SpanKind.CONSUMER")
    shared = {"messaging.system": "mom", "messaging.destination.name": "a"}
    assert sent["attributes"].items() >= shared.items()
    assert sent["attributes"]["messaging.operation.type"] == "send"
    assert processed["attributes"].items() >= shared.items()
    assert processed["attributes"]["messaging.operation.type"] == "process"
    assert processed["attributes"]["messaging.consumer.group.name"] == "a"
    assert processed["attributes"]["messaging.message.body.size"] == len("fails")
    ids = [one["attributes"]["messaging.message.id"] for one in (sent, processed)]
    assert ids[0] == ids[1]
