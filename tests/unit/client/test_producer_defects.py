"""Whatever fails unexpectedly while messages are sent fails some of them, and hangs nobody.

Faults are put into the real client; what the SDK's own checks would refuse goes past them, straight
to its engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

import mom_client
from mom_client import producer
from mom_client.connections import Connections
from mom_client.engine import Engine
from mom_client.lane import Lane
from mom_client.producer import Producer
from mom_client.results import Published
from mom_client.routing import Routing
from mom_client.testing import TestBroker
from mom_core.batch import BatchBuilder, decode
from mom_core.errors import InternalError, InvalidArgumentError, MomError
from mom_core.message import Message
from polling import WAIT_S_MAX

pytest_plugins = ["mom_client.pytest_plugin"]

UNSENDABLE: list[dict[str, Any]] = [
    {"priority": "high"},
    {"priority": 1.5},
    {"content_type": 5},
    {"dedup_id": 5},
    {"deliver_at_ms": 4e12},
    {"expires_at_ms": 4e12},
    {"timestamp_ms": 10**30},
    {"headers": {"a": "\ud800"}},
    {"key": "text", "value": object()},
]


def once(monkeypatch: pytest.MonkeyPatch, owner: object, method: str) -> list[str]:
    """Let a method or function raise when it is called next, which the list then shows."""
    real = getattr(owner, method)
    raised: list[str] = []

    def faulty(*arguments: Any, **named: Any) -> Any:
        if not raised:
            raised.append(method)
            raise RuntimeError("put in by the test")
        return real(*arguments, **named)

    monkeypatch.setattr(owner, method, faulty)
    return raised


async def lands(client: mom_client.Client, name: str, value: str = "after") -> None:
    """A publish of the same client gets its result."""
    async with asyncio.timeout(WAIT_S_MAX):
        published = await client.publish(name, value)
    assert published.stored


@pytest.fixture
def client(mom_broker: TestBroker) -> mom_client.Client:
    return mom_broker.client()


@pytest.fixture(params=["known", "unknown"])
async def name(client: mom_client.Client, request: pytest.FixtureRequest) -> str:
    """A topic whose lanes are made, or that has yet to be looked up."""
    await client.create_topic("t")
    if request.param == "known":
        await client.publish("t", "before")
    return "t"


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Defects are logged, and here they are wanted."""
    with caplog.at_level(logging.CRITICAL, "mom_client"):
        yield


@pytest.mark.parametrize("wrong", UNSENDABLE)
async def test_a_message_that_can_not_be_encoded_fails_alone(
    client: mom_client.Client, name: str, wrong: dict[str, Any]
) -> None:
    good = [Message(b"%d" % number) for number in range(3)]
    bad = Message(**{"value": b"bad", **wrong})

    sent = [bad, good[0], bad, good[1], good[2], bad]
    async with asyncio.timeout(WAIT_S_MAX):
        results = await asyncio.wrap_future(
            client.io.run(lambda engine: engine.publish_many(name, sent))
        )
    assert [isinstance(one, MomError) for one in results] == [True, False, True, False, False, True]
    await lands(client, name)
    read = [one.text() async for one in client.read(name)]
    assert [one for one in read if one != "before"] == ["0", "1", "2", "after"]


async def test_a_bad_value_beside_good_ones_is_refused_in_its_call(
    client: mom_client.Client, name: str
) -> None:
    futures = [client.publish(name, "1")]
    with pytest.raises(InvalidArgumentError, match="priority is 'high'"):
        client.publish(name, "bad", priority="high")  # type: ignore[arg-type]
    futures += [client.publish(name, "2"), client.publish(name, "3")]
    async with asyncio.timeout(WAIT_S_MAX):
        assert all(one.stored for one in await asyncio.gather(*futures))


async def test_of_many_the_bad_ones_have_errors_as_results(
    client: mom_client.Client, name: str
) -> None:
    values = [Message(b"0"), Message(b"x", priority="1"), object(), "3"]  # type: ignore[arg-type]
    async with asyncio.timeout(WAIT_S_MAX):
        results = await client.publish_many(name, values * 600)
    wrong = [isinstance(one, InvalidArgumentError) for one in results]
    assert wrong == [False, True, True, False] * 600
    shared = mom_client.sync.Client.sharing(client.io)
    again = await asyncio.to_thread(shared.publish_many, name, values)
    assert [isinstance(one, MomError) for one in again] == [False, True, True, False]


@pytest.mark.parametrize(
    ("owner", "method"),
    [
        (Routing, "topic"),
        (Producer, "submit"),
        (Producer, "_open"),
        (Producer, "_take_ready"),
        (producer, "_split"),
        (Producer, "_set_timer"),
        (Producer, "_call"),
        (Producer, "_returned"),
        (Producer, "_published"),
        (BatchBuilder, "add"),
        (BatchBuilder, "build"),
        (Lane, "ready"),
        (Connections, "call"),
    ],
)
async def test_a_defect_fails_what_waits_and_the_next_one_lands(
    client: mom_client.Client,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    method: str,
) -> None:
    await client.ready()
    raised = once(monkeypatch, owner, method)
    futures = [client.publish(name, str(number)) for number in range(3)]
    async with asyncio.timeout(WAIT_S_MAX):
        results = await asyncio.gather(*futures, return_exceptions=True)
    failed = [one for one in results if isinstance(one, BaseException)]
    assert all(isinstance(one, InternalError) for one in failed), results
    assert all("put in by the test" in str(one) for one in failed)
    assert failed or method == "_set_timer" or not raised
    assert raised or method == "topic", "a topic that is known is not looked up"
    await lands(client, name)
    async with asyncio.timeout(WAIT_S_MAX):
        await client.close()


async def test_a_batch_that_can_not_be_made_fails_alone(
    client: mom_client.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.create_topic("t", partitions=2)
    await lands(client, "t")
    once(monkeypatch, BatchBuilder, "build")
    futures = [client.publish("t", "x", partition=index) for index in range(2)]
    async with asyncio.timeout(WAIT_S_MAX):
        results = await asyncio.gather(*futures, return_exceptions=True)
    assert sorted(isinstance(one, InternalError) for one in results) == [False, True]


async def test_a_message_that_fails_leaves_no_empty_batch(
    client: mom_client.Client, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [Message(b"x", deliver_at_ms=4e12)]  # type: ignore[arg-type]
    with caplog.at_level(logging.ERROR, "mom_client"):
        await asyncio.wrap_future(client.io.run(lambda engine: engine.publish_many(name, bad)))
        await client.close()
    assert [one.message.partition(":")[0] for one in caplog.records] == [
        "a message could not be put into its batch"
    ]


async def test_flushing_ends_though_what_waits_fails(
    client: mom_client.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.create_topic("t")
    await lands(client, "t")

    async def flush(engine: Engine) -> list[Published | MomError]:
        await engine.producer.flush()  # All that was sent before is done with.
        once(monkeypatch, Producer, "_take_ready")
        publishing = asyncio.ensure_future(engine.publish_many("t", [Message(b"waits")]))
        await asyncio.sleep(0)  # It waits to be sent when the flush begins.
        await engine.producer.flush()
        return await publishing

    async with asyncio.timeout(WAIT_S_MAX):
        [result] = await asyncio.wrap_future(client.io.run(flush))
    assert isinstance(result, InternalError)


async def test_an_answer_that_is_none_fails_its_messages(
    client: mom_client.Client, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lands(client, name)
    real = Connections.call
    garbage = [b"\xff\xff", b""]

    async def faulty(self: Connections, address: str, method: str, *more: Any) -> bytes:
        if method.endswith("/Produce") and garbage:
            return garbage.pop()
        return await real(self, address, method, *more)

    monkeypatch.setattr(Connections, "call", faulty)
    for _ in range(2):
        async with asyncio.timeout(WAIT_S_MAX):
            with pytest.raises(InternalError, match="a defect in MOM's client"):
                await client.publish(name, "lost")
    await lands(client, name)


def test_a_batch_stays_as_it_was_when_a_message_has_no_form() -> None:
    builder = BatchBuilder()
    good = [Message(b"0"), Message(b"1", priority=3), Message(b"2", deliver_at_ms=5, key=b"k")]
    for number, message in enumerate(good):
        for wrong in (
            Message(b"x", headers={"a": "\ud800"}),
            Message(b"x", deliver_at_ms=4e12),  # type: ignore[arg-type]
            Message(b"x", expires_at_ms=-1),
            Message(b"x", priority=300),
            Message(b"x", dedup_id=5),  # type: ignore[arg-type]
        ):
            with pytest.raises(Exception):  # noqa: B017, PT011 - whichever it is
                builder.add(wrong, 7, None)
        builder.add(message, 7 if message.key else None)
        assert builder.count == number + 1
    read = decode(builder.build(base_id=bytes(16), timestamp_ms=1))
    assert [(one.value, one.priority, one.deliver_at_ms) for one in read] == [
        (b"0", 0, 0),
        (b"1", 3, 0),
        (b"2", 0, 5),
    ]
    plain = BatchBuilder()
    for message in good:
        plain.add(message, 7 if message.key else None)
    built = [one.build(base_id=bytes(16), timestamp_ms=1) for one in (builder, plain)]
    assert built[0] == built[1]
