"""Handlers without a server: payloads by annotation, retry policies, threads, refused settings."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import functools
import threading
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import msgspec
import pydantic
import pytest

from mom_client import MomApp, PayloadError, ReceivedMessage, Retry
from mom_client.app.handler import Handler
from mom_client.app.payload import decoder
from mom_client.app.threads import HandlerThreads
from mom_client.received import Origin
from mom_core.errors import ConflictError, InvalidArgumentError, UnavailableError
from mom_core.message import Message, encode_value


class Email(msgspec.Struct):
    to: str
    size: Annotated[int, msgspec.Meta(ge=0)] = 0


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Order(pydantic.BaseModel):
    id: int
    note: str = pydantic.Field(default="", max_length=3)


@pydantic.dataclasses.dataclass
class Checked:
    id: pydantic.PositiveInt


def received(value: bytes) -> ReceivedMessage:
    return ReceivedMessage(Message(value, headers={}), 7, Origin("q", b"", 0, 0, "q", 1))


@pytest.mark.parametrize(
    ("wanted", "value", "expected"),
    [
        (bytes, b"\xff", b"\xff"),
        (str, "grün".encode(), "grün"),
        (dict, b'{"a": 1}', {"a": 1}),
        (dict[str, int], b'{"a": 1}', {"a": 1}),
        (list[int], b"[1, 2]", [1, 2]),
        (Any, b"null", None),
        (int | None, b"5", 5),
        (Email, b'{"to": "x"}', Email("x")),
        (list[Email], b'[{"to": "x"}]', [Email("x")]),
        (Point, b'{"x": 1}', Point(1)),
        (Order, b'{"id": 1}', Order(id=1)),
        (list[Order], b'[{"id": 1}]', [Order(id=1)]),
        (Checked, b'{"id": 1}', Checked(id=1)),
    ],
    ids=str,
)
def test_a_payload_is_what_the_annotation_says(wanted: Any, value: bytes, expected: Any) -> None:
    assert decoder(wanted)(received(value)) == expected


@pytest.mark.parametrize(
    ("wanted", "value", "reason"),
    [
        (str, b"\xff", "UTF-8"),
        (dict, b"{", "truncated"),
        (Email, b'{"to": 1}', r"got `int` - at `\$\.to`"),
        (Email, b'{"to": "x", "size": -1}', "Email.*>= 0"),
        (Order, b'{"id": "many"}', "(?s)Order.*valid integer"),
        (Order, b'{"id": 1, "note": "long"}', "(?s)at most 3"),
        (Checked, b'{"id": -1}', "(?s)greater than 0"),
    ],
    ids=str,
)
def test_a_payload_that_is_something_else_is_refused_with_the_reason(
    wanted: Any, value: bytes, reason: str
) -> None:
    with pytest.raises(PayloadError, match=reason) as caught:
        decoder(wanted)(received(value))
    assert "partition 0 offset 7" in str(caught.value)


async def handled(function: Callable[..., Any], value: bytes = b'{"to": "x"}') -> None:
    threads = HandlerThreads("test", 1)
    try:
        await Handler(function, "s").run(received(value), threads)
    finally:
        threads.close()


async def test_arguments_are_the_payload_the_message_or_both() -> None:
    seen: list[object] = []

    async def payload(email: Email) -> None:
        seen.append(email)

    async def message(anything) -> None:  # type: ignore[no-untyped-def]
        seen.append(anything.offset)

    async def both(about: ReceivedMessage, email: Email, default: int = 3) -> None:
        seen.append((about.offset, email, default))

    class Service:
        async def __call__(self, email: Email) -> None:
            seen.append(email.to)

        def method(self, email: Email) -> None:
            seen.append(email.size)

    async def partly(first: str, email: Email) -> None:
        seen.append((first, email))

    for function in (payload, message, both, Service(), Service().method):
        await handled(function)
    assert seen == [Email("x"), 7, (7, Email("x"), 3), "x", 0]
    with pytest.raises(InvalidArgumentError, match="no value for its argument 'email'"):
        Handler(partly, "s")
    await handled(functools.partial(partly, email=Email("given")), b"text")
    assert seen[-1] == ("text", Email("given"))


async def test_a_plain_function_runs_in_a_thread_within_the_context() -> None:
    where: list[object] = []
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("kept")

    def plain(value: bytes) -> None:
        where.extend([threading.current_thread(), variable.get()])

    async def hidden(value: bytes) -> None:
        where.append("awaited")

    await handled(plain)
    assert where[0] is not threading.main_thread()
    assert where[1] == "kept"
    await handled(lambda value: hidden(value))
    assert where[2] == "awaited"

    def leaves(value: bytes) -> None:
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match=r"SystemExit\(3\)"):
        await handled(leaves)


async def test_threads_are_as_many_as_are_needed_and_end() -> None:
    threads = HandlerThreads("counted", 3)
    barrier = threading.Barrier(3)
    names = set()

    def wait() -> None:
        names.add(threading.current_thread().name)
        barrier.wait(30)

    for _ in range(3):
        await asyncio.gather(*(threads.run(wait) for _ in range(3)))
    assert names == {"counted-1", "counted-2", "counted-3"}
    running = [one for one in threading.enumerate() if one.name in names]
    threads.close()
    for one in running:
        one.join(30)
        assert not one.is_alive()


class Unknown:
    pass


async def _yields(value: str) -> AsyncIterator[str]:
    yield value


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda: None, "takes no argument"),
        (lambda a, *, b: None, "no value for its argument 'b'"),
        (lambda a: (yield a), "it is a generator"),
        (_yields, "it is a generator"),
    ],
)
def test_a_function_that_takes_no_message_is_refused(
    function: Callable[..., Any], reason: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=reason):
        Handler(function, "s")


def test_types_that_no_message_can_be_are_refused() -> None:
    app = MomApp()

    def unknown(value: Unknown) -> None: ...

    def missing(value: Nowhere) -> None: ...  # type: ignore[name-defined] # noqa: F821

    class Local(msgspec.Struct):
        a: int

    with pytest.raises(InvalidArgumentError, match="can't be read as Unknown"):
        app.worker("q")(unknown)
    with pytest.raises(InvalidArgumentError, match="Nowhere"):
        app.worker("q")(missing)
    assert app.sources == []

    @app.worker("q")
    def local(value: Local) -> None: ...

    assert [one.topic for one in app.sources] == ["q"]
    assert local.__name__ == "local", "a handler can be called by a test"


def test_a_retry_waits_longer_each_time_and_never_not_at_all() -> None:
    retry = Retry(backoff=0.5, multiplier=3, backoff_max=10)
    assert [retry.wait_seconds(failures) for failures in (1, 2, 3, 4, 500)] == [
        0.5, 1.5, 4.5, 10, 10,
    ]  # fmt: skip
    for wrong in (
        {"backoff": 0},
        {"tries": 0},
        {"tries": 1_001},
        {"multiplier": 0.5},
        {"backoff": 5, "backoff_max": 1},
        {"backoff_max": 1e9},
        {"backoff": float("nan")},
    ):
        with pytest.raises(InvalidArgumentError, match="is allowed"):
            Retry(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"dead_letter": "dlq", "stop_on_failure": True}, "not both"),
        ({"dead_letter": "orders"}, "itself"),
        ({"dead_letter": "?"}, "dead_letter"),
        ({"retry": Retry(tries=3)}, "what then"),
        ({"start": "yesterday"}, "not a start position"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"concurrency": 1_001}, "1 to 1000 is allowed"),
        ({"session": -1}, "session"),
    ],
    ids=str,
)
def test_settings_of_a_subscriber_that_contradict_are_refused(
    settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=reason):
        MomApp().subscriber("orders", subscription="s", **settings)


def test_settings_of_a_worker_out_of_bounds_are_refused() -> None:
    app = MomApp()
    for wrong in ({"concurrency": 0}, {"prefetch": -1}, {"lease": -1}):
        with pytest.raises(InvalidArgumentError, match=r"is allowed|0 or more"):
            app.worker("q", **wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="name"):
        app.worker("no name")


def test_one_handler_a_source() -> None:
    app = MomApp()
    app.worker("q")(lambda message: None)
    with pytest.raises(ConflictError, match="has a handler already"):
        app.worker("q")(lambda message: None)
    app.worker("q", subscription="other")(lambda message: None)


def test_an_application_that_does_not_run_has_no_client() -> None:
    with pytest.raises(UnavailableError, match="does not run"):
        _ = MomApp().client


def test_what_a_handler_takes_can_be_published() -> None:
    assert encode_value(Order(id=1)) == (b'{"id":1,"note":""}', "application/json")
    assert encode_value([Email("x"), Point(1)])[0] == b'[{"to":"x","size":0},{"x":1,"y":0}]'
    assert encode_value({"deep": [Order(id=1)]})[0] == b'{"deep":[{"id":1,"note":""}]}'
    with pytest.raises(InvalidArgumentError, match="Unknown has no JSON form"):
        encode_value(Unknown())
