"""kopf's part: it watches our three kinds, and each event is handed over to the queue at once.

kopf writes nothing to the objects: with handlers of raw events only it needs neither finalizers nor
annotations of progress. It has no peering, no events of its own, no scanning for definitions, and a
thread and an event loop of its own, because it cancels every task of its loop when it ends. Should
it end, it is started again; what it may have missed is found by the regular listings.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection
from typing import Any, Final

import kopf

from mom_operator.kube import FIELD_MANAGER, Credentials
from mom_operator.kube import KINDS as API_KINDS
from mom_operator.registry import KINDS, Key
from mom_operator.registry import key_of as key_of_resource
from mom_operator.spec import GROUP, VERSION

Object = dict[str, Any]

# A watch is ended by the server after this, and by us soon after that if the server forgot.
WATCH_S: Final = 300
WATCH_S_MAX: Final = 330
# Bookmarks come each minute: a connection that is silent for longer is dead.
SILENCE_S_MAX: Final = 100
CONNECT_S_MAX: Final = 20
CALL_S_MAX: Final = 30
# kopf ends its tasks within this, or the process is ended for it.
EXIT_S_MAX: Final = 20
RESTART_S: Final = 2.0

_log = logging.getLogger(__name__)


def make_settings() -> kopf.OperatorSettings:
    """kopf, without what it does besides watching."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.watching.server_timeout = WATCH_S
    settings.watching.client_timeout = WATCH_S_MAX
    settings.watching.inactivity_timeout = SILENCE_S_MAX
    settings.watching.connect_timeout = CONNECT_S_MAX
    settings.networking.request_timeout = CALL_S_MAX
    settings.process.ultimate_exiting_timeout = EXIT_S_MAX
    # A worker per object: it ends as soon as the object's events are handed over.
    settings.queueing.idle_timeout = 0.5
    return settings


Put = Callable[[Key, str, Object], object]
"""Takes the key, the type of the event (empty at a listing) and the object."""


def make_registry(credentials: Callable[[], Credentials], put: Put) -> kopf.OperatorRegistry:
    """Handlers for each of our kinds that do nothing but hand over."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        known = credentials()
        return kopf.ConnectionInfo(
            server=known.server,
            ca_path=known.ca_path,
            certificate_path=known.certificate_path,
            private_key_path=known.private_key_path,
            token=known.token,
            insecure=known.insecure,
        )

    async def hand_over(event: Any, **_: Any) -> None:
        put(key_of_resource(event["object"]), event["type"] or "", _copied(event["object"]))

    for kind in KINDS:
        plural = API_KINDS[kind].plural
        kopf.on.event(GROUP, VERSION, plural, registry=registry, id=kind)(hand_over)
    return registry


def _copied(obj: Object) -> Object:
    """kopf goes on using the object that it gave."""
    metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    return {**obj, "metadata": metadata}


class ResourceWatch:
    """Runs kopf in a thread, for as long as it is wanted."""

    def __init__(
        self,
        credentials: Callable[[], Credentials],
        namespaces: Collection[str],
        put: Put,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """``put`` is called in ``loop``. No namespaces: all of them."""
        self._namespaces = namespaces
        self._stop = threading.Event()
        self._loop = loop

        def put_there(key: Key, event: str, obj: Object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(put, key, event, obj)

        self._registry = make_registry(credentials, put_there)
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)
        self.restarts = 0

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    async def stop(self) -> None:
        """End kopf and its thread."""
        self._stop.set()
        await asyncio.to_thread(self._thread.join, EXIT_S_MAX)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                asyncio.run(self._operate())
            except Exception as error:  # Whatever ended it, it is begun anew.
                _log.error("the watch of our resources ended: %s", error)
            if not self._stop.wait(RESTART_S):
                self.restarts += 1

    async def _operate(self) -> None:
        # Only for peering, which is off. Without one kopf asks for the user's name, and the user of
        # a container has none.
        identity: Any = FIELD_MANAGER
        await kopf.operator(
            identity=identity,
            registry=self._registry,
            settings=make_settings(),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=list(self._namespaces),
            stop_flag=self._stop,
        )
