"""The application: its handlers, its client, its start and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, TypeVar, Unpack

from mom_client import arguments, operations
from mom_client import sync as sync_client
from mom_client.app.handler import Handler
from mom_client.app.handling import Problems, Runner, end, log
from mom_client.app.queue_runner import QueueRunner, WorkerSettings
from mom_client.app.retry import Retry
from mom_client.app.stream_runner import StreamRunner, SubscriberSettings
from mom_client.client import Client
from mom_client.face import ADDRESS_DEFAULT, member_id
from mom_client.iothread import IoThread
from mom_client.results import Published
from mom_core.errors import ConflictError, InvalidArgumentError, UnavailableError
from mom_core.limits import HANDLERS_AT_ONCE_MAX, RECEIVE_MESSAGES_MAX
from mom_core.names import check_name
from mom_core.topics import parse_start

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

# Kubernetes kills 30 s after SIGTERM: this leaves some for the last acks.
GRACE_SECONDS_DEFAULT: Final = 25.0
CONCURRENCY_DEFAULT: Final = 10
# A worker or subscriber that ended by an error is opened again after a wait that doubles.
REOPEN_SECONDS_FIRST: Final = 1.0
REOPEN_SECONDS_MAX: Final = 30.0

RETRY_DEFAULT: Final = Retry()
# One receive fills a worker, whatever its concurrency.
PREFETCH_MAX: Final = RECEIVE_MESSAGES_MAX - HANDLERS_AT_ONCE_MAX


class Source(NamedTuple):
    """Where a handler's messages come from."""

    topic: str
    subscription: str
    is_queue: bool
    """A queue of this name, and not a topic with a subscription."""
    start: str = ""
    """Of a stream-mode subscription that is made when it does not stand."""
    dead_letter: str = ""
    """Where messages are parked."""

    @property
    def mode(self) -> str:
        """The subscription's mode, ``stream`` or ``queue``."""
        return "stream" if self.start else "queue"


class _Registered(NamedTuple):
    source: Source
    make_runner: Callable[[IoThread, Problems], Runner]


class MomApp:
    """Handlers of queues and topics, run together over one client.

    Without ``addresses`` the environment says whom to ask (``MOM_URL``, ``MOM_TOKEN``), when the
    application starts. ``grace`` is how many seconds handlers may go on after the application was
    told to end. ``options`` are the fields of :class:`mom_client.EngineOptions`. Creating it does
    no I/O.
    """

    def __init__(
        self,
        addresses: str | list[str] | tuple[str, ...] | None = None,
        *,
        token: str | None = None,
        grace: float = GRACE_SECONDS_DEFAULT,
        **options: Any,
    ) -> None:
        self._addresses = addresses
        self._token = token
        self._grace_seconds = arguments.duration_ms(grace, "grace") / 1000
        self._options = options
        self._registered: list[_Registered] = []
        self._client: Client | None = None
        self._problems = Problems()
        self._over = asyncio.Event()
        """The grace period is over."""

    # Handlers.

    def worker(
        self,
        queue: str,
        *,
        subscription: str | None = None,
        concurrency: int = CONCURRENCY_DEFAULT,
        prefetch: int = 0,
        lease: float = 0,
        retry: Retry = RETRY_DEFAULT,
    ) -> Callable[[FunctionT], FunctionT]:
        """Work on a queue, or on the queue-mode ``subscription`` of a topic.

        The handler runs for up to ``concurrency`` messages at once; one that is not async runs in
        threads. Its lease is renewed meanwhile. When it returns, the message is acknowledged; when
        it raises, after the tries of ``retry``, it is given back, and the queue's own settings
        decide about its next delivery and its dead letters. ``prefetch`` messages may wait here.

        The function stays as it is. Raises InvalidArgumentError when it can't be a handler.
        """
        check_name(queue, "queue")
        if subscription is not None:
            check_name(subscription, "subscription")
        settings = WorkerSettings(
            queue=queue,
            subscription=subscription or queue,
            concurrency=_concurrency(concurrency),
            prefetch=arguments.whole(prefetch, "prefetch", 0, PREFETCH_MAX),
            lease_ms=arguments.lease_ms(lease),
            retry=_retry(retry),
        )
        source = Source(queue, settings.subscription, subscription is None)
        names = _callers_names()

        def register(function: FunctionT) -> FunctionT:
            handler = Handler(function, settings.subscription, names)
            self._register(source, lambda io, problems: QueueRunner(io, handler, settings))
            return function

        return register

    def subscriber(
        self,
        topic: str,
        *,
        subscription: str,
        create: bool = True,
        start: str = "earliest",
        concurrency: int = CONCURRENCY_DEFAULT,
        retry: Retry = RETRY_DEFAULT,
        dead_letter: str | None = None,
        stop_on_failure: bool = False,
        member: str | None = None,
        session: float = 0,
    ) -> Callable[[FunctionT], FunctionT]:
        """Read a topic as a member of a subscription, each partition in its order.

        Up to ``concurrency`` partitions are handled at once. A message whose handler raises is
        tried again after a wait. After the tries of ``retry`` it is parked in the topic or queue
        ``dead_letter``, or with ``stop_on_failure`` its partition stops; with neither it is tried
        for ever. ``create``, ``start``, ``member`` and ``session`` are those of
        :meth:`mom_client.Client.subscribe`.

        The function stays as it is. Raises InvalidArgumentError when it can't be a handler, and for
        settings that contradict each other.
        """
        check_name(topic, "topic")
        check_name(subscription, "subscription")
        parse_start(start)
        arguments.flag(stop_on_failure, "stop_on_failure")
        _check_failure_policy(topic, _retry(retry), dead_letter, stop_on_failure)
        settings = SubscriberSettings(
            topic=topic,
            subscription=subscription,
            create=arguments.flag(create, "create"),
            start=start,
            concurrency=_concurrency(concurrency),
            session_ms=arguments.session_ms(session),
            member_id=member_id(member),
            retry=retry,
            dead_letter=dead_letter or "",
            stops=stop_on_failure,
        )
        source = Source(topic, subscription, False, start, settings.dead_letter)
        names = _callers_names()

        def register(function: FunctionT) -> FunctionT:
            handler = Handler(function, subscription, names)
            self._register(
                source, lambda io, problems: StreamRunner(io, handler, settings, problems)
            )
            return function

        return register

    def _register(
        self, source: Source, make_runner: Callable[[IoThread, Problems], Runner]
    ) -> None:
        if self._client is not None:
            raise ConflictError("the application runs already: name its handlers before it starts")
        if any(one.source[:2] == source[:2] for one in self._registered):
            raise ConflictError(
                f"{source.topic!r}/{source.subscription!r} has a handler already: two would share "
                "its messages at random"
            )
        self._registered.append(_Registered(source, make_runner))

    @property
    def sources(self) -> list[Source]:
        """Where the handlers' messages come from."""
        return [one.source for one in self._registered]

    # While it runs.

    @property
    def client(self) -> Client:
        """The client, while the application runs. Raises UnavailableError else."""
        if self._client is None:
            raise UnavailableError(
                "the application does not run: use it in a handler, or within `async with "
                "app.running()`"
            )
        return self._client

    @property
    def sync(self) -> sync_client.Client:
        """The same client without asyncio, for handlers that are not async."""
        return sync_client.Client.sharing(self.client.io)

    def publish(
        self,
        topic: str,
        value: Any,
        *,
        key: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        partition: int | None = None,
        content_type: str | None = None,
        timestamp_ms: int | None = None,
        **wishes: Unpack[operations.Wishes],
    ) -> asyncio.Future[Published]:
        """Publish one message: see :meth:`mom_client.Client.publish`."""
        return self.client.publish(
            topic,
            value,
            key=key,
            headers=headers,
            partition=partition,
            content_type=content_type,
            timestamp_ms=timestamp_ms,
            **wishes,
        )

    @property
    def problems(self) -> dict[str, str]:
        """What does not work now: workers that could not go on, partitions whose message fails or
        that have stopped, each with the reason. Empty: all is well, as a health check asks."""
        return dict(self._problems.now)

    # Running.

    def use(self, addresses: str | list[str] | tuple[str, ...] | None, token: str | None) -> None:
        """Ask these instead of those the application names; None leaves them."""
        self._addresses = addresses or self._addresses
        self._token = token or self._token

    @asynccontextmanager
    async def running(self, client: Client | None = None) -> AsyncIterator[MomApp]:
        """Run all handlers in this loop, inside of ``async with``; then end gracefully.

        ``client`` is one to use instead of a connection of the application's own, such as a
        test's; it stays open. Raises UnavailableError when no server answers, NotFoundError when a
        queue or topic is not there, and ConflictError when the application runs already.
        """
        if self._client is not None:
            raise ConflictError("the application runs already")
        self._client = client or self.connect()
        self._problems = Problems()
        self._over = asyncio.Event()
        try:
            await self._client.ready()
            runners = [one.make_runner(self._client.io, self._problems) for one in self._registered]
            tasks = await self._start(runners)
            try:
                yield self
            finally:
                await self._stop(runners, tasks)
        finally:
            used, self._client = self._client, None
            if client is None and used is not None:
                await used.close()

    @asynccontextmanager
    async def lifespan(self, asgi_app: object = None) -> AsyncIterator[None]:
        """A lifespan of FastAPI or Starlette: ``FastAPI(lifespan=app.lifespan)``."""
        async with self.running():
            yield

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, then end gracefully; the same signal again ends at once."""
        asyncio.run(self.serve())

    async def serve(self, on_ready: Callable[[], None] | None = None) -> None:
        """The same in a loop of the caller's, which must be the main thread's."""
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        serving = asyncio.current_task()
        assert serving is not None, "a coroutine without a task"
        started = False
        told_by: set[int] = set()

        def tell(number: int) -> None:
            if number in told_by:
                self._over.set()
            elif not started and not told.is_set():
                serving.cancel()
            told_by.add(number)
            told.set()

        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, tell, number)
        try:
            async with self.running():
                started = True
                if on_ready is not None:
                    on_ready()
                await told.wait()
        except asyncio.CancelledError:
            if not told.is_set():
                raise
            serving.uncancel()
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def connect(self) -> Client:
        """A client of those whom the application asks, as :func:`mom_client.connect` makes it."""
        environment = os.environ.get("MOM_URL") or os.environ.get("MOM_NODES")
        addresses = self._addresses or environment or ADDRESS_DEFAULT
        token = self._token or os.environ.get("MOM_TOKEN") or None
        return Client(addresses, token=token, **self._options)

    async def _start(self, runners: list[Runner]) -> list[asyncio.Task[None]]:
        opened: list[Runner] = []
        try:
            for runner in runners:
                await runner.open()
                opened.append(runner)
        except BaseException:
            self._over.set()
            await self._close(opened)
            raise
        loop = asyncio.get_running_loop()
        return [loop.create_task(_keep_running(one, self._problems)) for one in runners]

    async def _stop(self, runners: list[Runner], tasks: list[asyncio.Task[None]]) -> None:
        timer = asyncio.get_running_loop().call_later(self._grace_seconds, self._over.set)
        try:
            for task in tasks:
                await end(task)
            for runner in runners:
                runner.stop()
            await self._close(runners)
        finally:
            timer.cancel()

    async def _close(self, runners: list[Runner]) -> None:
        results = await asyncio.gather(
            *(one.close(self._over) for one in runners), return_exceptions=True
        )
        for runner, result in zip(runners, results, strict=True):
            if isinstance(result, BaseException):
                log.warning("%s did not end well: %r", runner.name, result)


async def _keep_running(runner: Runner, problems: Problems) -> None:
    """Run; after an error, say so and begin anew, for an application must not stop silently."""
    over = asyncio.Event()
    over.set()
    loop = asyncio.get_running_loop()
    wait_seconds = REOPEN_SECONDS_FIRST
    is_open = True
    while True:
        begun = loop.time()
        try:
            if not is_open:
                await runner.open()
                is_open = True
                problems.over(runner.name)
            await runner.run()
        except Exception as error:
            if loop.time() - begun > REOPEN_SECONDS_MAX:
                wait_seconds = REOPEN_SECONDS_FIRST
            problems.tell(runner.name, f"ended, and begins anew in {wait_seconds:g} s", error)
        is_open = False
        try:
            await runner.close(over)
        except Exception as error:
            log.warning("%s did not end well: %r", runner.name, error)
        await asyncio.sleep(wait_seconds)
        wait_seconds = min(2 * wait_seconds, REOPEN_SECONDS_MAX)


def _callers_names() -> Mapping[str, Any]:
    """What the decorated function's annotations may refer to besides its module's names: types that
    were made in the function around it."""
    frame = sys._getframe(2)
    return {} if frame.f_locals is frame.f_globals else dict(frame.f_locals)


def _concurrency(value: int) -> int:
    return arguments.whole(value, "concurrency", 1, HANDLERS_AT_ONCE_MAX)


def _retry(value: Retry) -> Retry:
    if not isinstance(value, Retry):
        raise arguments.wrong("retry", value, "a Retry, such as mom_client.Retry(tries=3),")
    return value


def _check_failure_policy(
    topic: str, retry: Retry, dead_letter: str | None, stop_on_failure: bool
) -> None:
    if dead_letter is not None:
        check_name(dead_letter, "dead_letter")
        if stop_on_failure:
            raise InvalidArgumentError(
                "a message is either parked or stops its partition: give dead_letter or "
                "stop_on_failure, not both",
                field="stop_on_failure",
            )
        if dead_letter == topic:
            raise InvalidArgumentError(
                f"dead_letter is {topic!r} itself: its messages would come back for ever",
                field="dead_letter",
            )
    elif retry.tries is not None and not stop_on_failure:
        raise InvalidArgumentError(
            f"after {retry.tries} tries, what then? Give dead_letter or stop_on_failure=True, or "
            "leave tries out, to try for ever",
            field="retry",
        )
