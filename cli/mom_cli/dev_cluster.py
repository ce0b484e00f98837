"""The parts of ``mom dev``, put together."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import uvloop

from mom_broker.master.app import Master
from mom_broker.master.settings import MasterSettings
from mom_broker.node.app import Node
from mom_broker.node.settings import NodeSettings
from mom_broker.storage.sqlite import SqliteStore
from mom_cli.dev import MASTER_PORT, NODE_PORT
from mom_cli.failures import ExitCode
from mom_core import catalog
from mom_core.errors import ErrorCode, InvalidArgumentError, StoreError, UnavailableError
from mom_core.limits import NODE_CACHE_BYTES_MAX_DEFAULT
from mom_core.ports import KeyWrite, Store
from mom_gateway.app import Gateway
from mom_gateway.settings import GatewaySettings
from mom_process.addresses import Address, check_free, is_free, own_host
from mom_process.log_lines import configure_logging
from mom_process.system import SystemClock, SystemRandom

# From the start of the last part until all partitions are served.
READY_TIMEOUT_MS: Final = 15_000
READY_POLL_MS: Final = 10
CLUSTER_TOKEN_FILE: Final = "cluster-token"


class DevSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What `mom dev` is told."""

    data: Path
    host: str = "127.0.0.1"
    advertise: str = ""
    """The host that clients reach it by; empty: ``host``, or what stands for every interface."""
    port: int = 8080
    """Of the gateway. Here and below 0 chooses a free one."""
    master_port: int | None = None
    """None: the usual one, or a free one where that is taken."""
    node_port: int | None = None
    """Of the first node; the others follow. None: the usual ones, or free ones."""
    nodes_count: int = 3
    allow_open: bool = False
    log_format: str = "human"
    log_level: str = "warning"

    @property
    def is_open(self) -> bool:
        """Whether callers need no token."""
        return self.allow_open or Address(self.host, 0).is_loopback

    def reached_host(self) -> str:
        """The host to tell clients. Raises InvalidArgumentError where none can be found."""
        if self.advertise or not Address(self.host, 0).is_wildcard:
            return self.advertise or self.host
        found = own_host()
        if not found:
            raise InvalidArgumentError(
                f"{self.host} listens on every interface, which is no address that others could "
                "reach, and this machine's own could not be found: say --advertise HOST",
                field="advertise",
            )
        return found

    def chosen_master_port(self) -> int:
        """The port that was asked for; else the usual one if it is free; else any (0)."""
        if self.master_port is not None:
            return self.master_port
        return MASTER_PORT if is_free(Address(self.host, MASTER_PORT)) else 0

    def chosen_node_port(self) -> int:
        """The first node's port, as :meth:`chosen_master_port`: all of them are free, or 0."""
        if self.node_port is not None:
            return self.node_port
        usual = range(NODE_PORT, NODE_PORT + self.nodes_count)
        return NODE_PORT if all(is_free(Address(self.host, port)) for port in usual) else 0


class DevCluster:
    """A whole MOM in this event loop."""

    def __init__(self, settings: DevSettings) -> None:
        self.settings = settings
        self._clock = SystemClock()
        self._random = SystemRandom()
        self._stack = AsyncExitStack()
        self._master: Master | None = None
        self._nodes: list[Node] = []
        self._gateway: Gateway | None = None
        self._host = settings.host

    async def start(self) -> None:
        """Start everything, or nothing. Raises MomError that says what is in the way."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop what was started, the last part first. What was acknowledged is kept."""
        await self._stack.aclose()

    async def _start(self) -> None:
        settings = self.settings
        self._host = settings.reached_host()
        store = SqliteStore(settings.data, self._clock)
        await self._begin(store.open, store.close)
        await self._forget_nodes(store)
        # Before others take part of what it needs: it is the port that users know.
        check_free(Address(settings.host, settings.port), "port")
        token = None if settings.is_open else cluster_token(settings.data)
        self._master = Master(self._master_settings(token), store, self._clock, self._random)
        await self._begin(self._master.start, self._master.stop)
        first_port = settings.chosen_node_port()
        for index in range(settings.nodes_count):
            port = first_port + index if first_port else 0
            node_settings = self._node_settings(index, port, self._master.local_address, token)
            node = Node(node_settings, store, self._clock, self._random)
            self._nodes.append(node)
            # No draining: there is nobody to hand over to when all stop.
            await self._begin(node.start, partial(node.stop, drain=False))
        self._gateway = Gateway(self._gateway_settings(token))
        await self._begin(self._gateway.start, self._gateway.stop)
        await self._until_ready()

    async def _forget_nodes(self, store: Store) -> None:
        """Drop the nodes of an earlier start that had more: nobody else can have this store.

        So their partitions are placed at once, and not when their silence shows that they are lost.
        """
        here = {catalog.node_key(_node_id(index)) for index in range(self.settings.nodes_count)}
        known = await store.list(catalog.NODES_PREFIX)
        await store.write([KeyWrite(one.key, None) for one in known if one.key not in here])

    async def _begin(
        self, start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]]
    ) -> None:
        await start()
        self._stack.push_async_callback(stop)

    @property
    def _advertised(self) -> str:
        """Of masters and nodes: with port 0, for the one that is bound."""
        return str(Address(self._host, 0))

    def _listen(self, port: int) -> str:
        return str(Address(self.settings.host, port))

    def _master_settings(self, token: str | None) -> MasterSettings:
        return MasterSettings(
            master_id="dev",
            listen=self._listen(self.settings.chosen_master_port()),
            advertise=self._advertised,
            cluster_token=token,
            open_to_all=self.settings.is_open,
        )

    def _node_settings(self, index: int, port: int, master: str, token: str | None) -> NodeSettings:
        return NodeSettings(
            node_id=_node_id(index),
            listen=self._listen(port),
            advertise=self._advertised,
            masters=(master,),
            cluster_token=token,
            open_to_all=self.settings.is_open,
            # One process has the bound of one node, however many share it.
            cache_bytes_max=NODE_CACHE_BYTES_MAX_DEFAULT // self.settings.nodes_count,
        )

    def _gateway_settings(self, token: str | None) -> GatewaySettings:
        return GatewaySettings(
            listen=Address(self.settings.host, self.settings.port),
            nodes=tuple(node.local_address for node in self._nodes),
            cluster_token=token,
            auth_disabled=self.settings.is_open,
            allow_unauthenticated_network_access=self.settings.allow_open,
            auto_create=True,
            drain_ms=0,
        )

    async def _until_ready(self) -> None:
        deadline_ms = self._clock.monotonic_ms() + READY_TIMEOUT_MS
        while (reason := self._not_ready()) is not None:
            if self._clock.monotonic_ms() > deadline_ms:
                raise UnavailableError(
                    f"MOM was not ready {READY_TIMEOUT_MS // 1000} seconds after its start: "
                    f"{reason}. --log-level info shows what it does"
                )
            await self._clock.sleep(READY_POLL_MS)

    def _not_ready(self) -> str | None:
        assert self._master is not None, "the parts are made before"
        if not self._master.leading:
            return "the master does not lead yet"
        for node in self._nodes:
            is_ready, reason = node.ready()
            if not is_ready:
                return f"node {node.settings.node_id}: {reason}"
        count = self._master.partitions_without_node()
        return f"{count} partitions have no node yet" if count else None

    def describe(self) -> dict[str, Any]:
        """Where everything is."""
        assert self._master is not None, "describe follows start"
        assert self._gateway is not None, "describe follows start"
        return {
            "version": version("mom-mq"),
            "rest_url": f"http://{Address(self._host, self._gateway.port)}",
            "nodes": [node.address for node in self._nodes],
            "master": self._master.address,
            "data": str(self.settings.data),
            "authentication": not self.settings.is_open,
            "pid": os.getpid(),
        }


def _node_id(index: int) -> str:
    return f"dev-{index}"


def cluster_token(data: Path) -> str:
    """The secret of a data directory, made at its first use; readable by its owner alone.

    Raises StoreError when it can't be read or written.
    """
    path = data / CLUSTER_TOKEN_FILE
    try:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_text().strip()
        with os.fdopen(descriptor, "w") as file:
            token = secrets.token_urlsafe(32)
            file.write(f"{token}\n")
        return token
    except OSError as error:
        raise StoreError(
            f"the secret in {path} can't be used: {error.strerror}",
            code=ErrorCode.STORE_MISCONFIGURED,
        ) from None


def run(cluster: DevCluster, as_json: bool) -> None:
    """Run until SIGINT or SIGTERM. Raises MomError when it can't start."""
    configure_logging(cluster.settings.log_format, cluster.settings.log_level)

    async def serve() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, _on_signal, stopping)
        start = asyncio.create_task(cluster.start())
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait({start, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not start.done():
            start.cancel()
            await asyncio.wait({start})
            return
        start.result()
        _announce(cluster, as_json)
        await stop
        await cluster.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
    if not as_json:
        click.echo(f"stopped; everything is in {cluster.settings.data}")


def _on_signal(stopping: asyncio.Event) -> None:
    """Stop in order; the second time at once, which costs nothing that was acknowledged."""
    if stopping.is_set():
        os._exit(ExitCode.INTERRUPTED)
    stopping.set()


def _announce(cluster: DevCluster, as_json: bool) -> None:
    found = cluster.describe()
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        click.echo(_banner(cluster, found))


def _where_to_look(nodes: list[str]) -> list[str]:
    """How commands find nodes that are not where they look by themselves."""
    if str(Address("127.0.0.1", NODE_PORT)) in nodes:
        return []
    return [f"Here `mom` needs to be told:  export MOM_URL={nodes[0]}", ""]


def _banner(cluster: DevCluster, found: dict[str, Any]) -> str:
    settings = cluster.settings
    data = settings.data if settings.data.is_absolute() else f"./{settings.data}"
    if not settings.is_open:
        access = f"Callers need a token; the first one's is in {settings.data / CLUSTER_TOKEN_FILE}"
    elif Address(settings.host, 0).is_loopback:
        access = "No authentication: any process of this machine may use it."
    else:
        access = "NO AUTHENTICATION: everyone who reaches this host may read and delete everything."
    return "\n".join(
        [
            f"MOM {found['version']} is running",
            "",
            f"  REST      {found['rest_url']}      documentation at {found['rest_url']}/docs",
            f"  gRPC      {', '.join(found['nodes'])}",
            f"  master    {found['master']}",
            f"  data      {data}",
            "",
            *_where_to_look(found["nodes"]),
            access,
            "REST, `mom` and `mom run` create a topic or queue at its first use. Ctrl-C stops.",
        ]
    )
