"""The interface between the tracker and its extensions.

An extension is a class derived from `Extension`, named by an entry point of the group `peerservers.extensions`. Its
name there is also the name of its section in the configuration, `[extensions.NAME]`.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from prometheus_client import CollectorRegistry
from pydantic import Field

from tracker.core.hub import Hub
from tracker.core.nodes import NodePeers
from tracker.core.remote import RemotePeers
from tracker.core.swarm import RemoteMember, Swarm
from tracker.extension.admission import Admission, Admitted
from tracker.extension.channel import Channel, SocketChannel
from tracker.extension.cluster import Cluster
from tracker.extension.files import FileReaders
from tracker.extension.gateway import Gateway
from tracker.extension.members import Members
from tracker.extension.state import StateDirectory
from tracker.files import aside
from tracker.net.endpoint import Endpoint
from tracker.net.routes import Route
from tracker.protocol.messages import Answer, Offer
from tracker.settings import Section, Settings
from tracker.tasks import BackgroundTasks
from tracker.web.gather import Gather, Others
from tracker.web.merging import How
from tracker.web.stats import Table, Tables
from tracker.worker import Worker

T = TypeVar("T")


class ExtensionSettings(Section):
    """The section of an extension. Derive from it to add keys."""

    enabled: bool = Field(True, description="Whether the extension is started.")


class Extension:
    """Base class of extensions. Methods that are not overridden cost nothing.

    All methods below but `admit` are events. Events come one after the other, a moment after the tracker has served its
    own peers. They run on the tracker's event loop and must not block it. One that raises or awaits for long harms only
    its own extension.
    """

    Settings: ClassVar[type[ExtensionSettings]] = ExtensionSettings
    wanted_by_workers: ClassVar[bool] = False
    """Whether the extension makes several workers one tracker. With `server.workers`, it is on unless disabled."""
    at_gateway: ClassVar[bool] = False
    """Whether the extension exists once in a cluster of processes that are one tracker: it runs at their gateway.

    Then it is started whenever this process becomes the gateway, and stopped when another one does. Its constructor and
    `prepare` run in each process. It cannot override `admit`.
    """

    def __init_subclass__(cls) -> None:
        if cls.at_gateway and cls.admit is not Extension.admit:
            raise TypeError("an extension that runs at the gateway only cannot admit peers of other processes")

    def __init__(self, tracker: "TrackerHandle", settings: Any) -> None:
        """Register routes, subprotocols, tables and metrics. `settings` is an instance of the class's `Settings`."""
        self.tracker = tracker
        self.settings = settings

    async def prepare(self) -> None:
        """Check whether the extension can run. Called once, before the tracker serves its first peer.

        Raise `ConfigError` if the tracker must not start with these settings, and `ExtensionOff` if it is to serve
        without this extension, which `start` may raise, too. After two seconds, the tracker waits no longer.
        """

    async def start(self) -> None:
        """Start. Called once, when the tracker already serves its peers; with `at_gateway` perhaps several times."""

    async def stop(self) -> None:
        """Stop, within `STOP_TIMEOUT` seconds. Called once after each `start` that has not failed."""

    async def admit(self, request: Admission) -> str | Admitted | None:
        """Decide whether a peer may join a swarm: return None if it may, or the reason, which its client gets.

        Return `Admitted(seconds)` if the peer may join for a time: its first announce after that time needs another
        verdict, and the peer leaves if it gets none or makes none.

        An extension that overrides this method is asked before a peer joins, also when the peer comes back on another
        connection, but not when a member announces again. It has `access.admission_timeout` seconds from the announce
        on, and is asked about many peers at once. Without a verdict, because the method raises or takes too long or
        because `start` has failed, the peer may not join.
        """

    async def swarm_opened(self, swarm: Swarm) -> None:
        """Take notice that a swarm has its first local peer, or is held open for the peers of other nodes."""

    async def swarm_changed(self, swarm: Swarm) -> None:
        """Take notice that the counts of a swarm's own peers have changed. Changes coalesce.

        Changes at other nodes of this tracker are told for swarms that are held.
        """

    async def swarm_closed(self, swarm: Swarm) -> None:
        """Take notice that a swarm has lost its last local peer, and its remote members with it, and is not held."""

    async def offers_placed(self, member: RemoteMember, peer_id: str, offers: list[Offer]) -> None:
        """Take offers of a local peer for as many peers behind a remote member of this extension."""

    async def offers_unplaced(self, swarm: Swarm, peer_id: str, offers: list[Offer]) -> None:
        """Take notice of offers of a local peer that found no receiver."""

    async def offers_returned(self, swarm: Swarm, peer_id: str, offers: list[Offer]) -> None:
        """Take back offers of a remote peer that `deliver_offers` has given to other nodes of this tracker.

        No peer there could be given them.
        """

    async def answer_unplaced(self, answer: Answer) -> None:
        """Take a local peer's answer to a peer that is not here."""


class TrackerHandle(Members):
    """The tracker, as an extension sees it.

    An info_hash and a peer_id are 20 bytes as latin-1 text. In a text swarm they are text of 1 to 64 characters.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        hub: Hub,
        remote: RemotePeers,
        endpoint: Endpoint,
        registry: CollectorRegistry,
        extensions: Mapping[str, Extension] = MappingProxyType({}),
        tables: Tables | None = None,
        task_failures: Counter[str] | None = None,
        files: FileReaders | None = None,
        enabled: Collection[str] = (),
        state: StateDirectory | None = None,
        nodes: NodePeers | None = None,
        gateway: Gateway | None = None,
        at_gateway: bool = False,
        worker: Worker | None = None,
        others: Others | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(name, hub, remote, clock)
        self.settings = settings
        self.task_failures: Counter[str] = Counter() if task_failures is None else task_failures
        """Background tasks that failed, by name; for `BackgroundTasks` of the extension's own."""
        self.registry = registry
        """The registry for the extension's own metrics, whose names start with `peerservers_`."""
        self.nodes = nodes or NodePeers(hub, remote.outbox)
        """The peers at other nodes of this tracker. One extension may attach: the one that connects the nodes."""
        self.worker = worker
        """This process, if it is one of several workers (`server.workers`)."""
        self._name = name
        self._endpoint = endpoint
        self._extensions = extensions
        self._tables = Tables() if tables is None else tables
        self._files = FileReaders() if files is None else files
        self._enabled = enabled
        self._others = Others() if others is None else others
        self._state = state or StateDirectory(settings)
        self._gateway = gateway or Gateway()
        self._at_gateway = at_gateway
        self._tasks = BackgroundTasks(self.task_failures)

    def extension(self, name: str) -> Extension | None:
        """Return another extension of this tracker, or None if it is not enabled.

        Call this from `prepare` on. The other extension may not have started yet, and its start may have failed.
        """
        return self._extensions.get(name)

    def is_enabled(self, name: str) -> bool:
        """Return whether an extension of this name is enabled. Unlike `extension`, also tells in `__init__`."""
        return name in self._enabled

    @property
    def runs_here(self) -> bool:
        """Whether extensions `at_gateway` run in this process: not if another node of its cluster is the gateway."""
        return self._gateway.is_here

    @property
    def needs_gateway(self) -> bool:
        """Whether an extension `at_gateway` is enabled: a cluster needs a gateway. Call this from `prepare` on."""
        return any(extension.at_gateway for extension in self._extensions.values())

    @property
    def connections(self) -> int:
        """The number of open WebSockets of this process."""
        return len(self._endpoint.websockets)

    def join_cluster(self, cluster: Cluster) -> Gateway:
        """Make this process a node of a cluster. Call this from `__init__`.

        Return the object to be told when this node is the gateway. Until then, extensions `at_gateway` do not start.

        Raises:
            ValueError: if another extension has called this.
        """
        self._gateway.join(cluster)
        return self._gateway

    def show_id(self, tracker_id: str) -> None:
        """Show the id by which other trackers know this one on the page."""
        self._tables.tracker_id = tracker_id

    def report_off(self, reason: str) -> None:
        """Report that the extension does nothing until the tracker is started again.

        The page and `/stats.json` show the reason to everyone, so it names no file; `peerservers_extension_up` is 0.
        """
        self._tables.off.setdefault(self._name, reason)

    def report_on(self) -> None:
        """Take back `report_off`, because the extension starts again."""
        self._tables.off.pop(self._name, None)

    def add_table(self, name: str, rows: Callable[[], list[dict[str, Any]]], links: bool = False) -> None:
        """Show a table of texts and numbers, by column, on the page and in `/stats.json`, under a name.

        The page draws a table of `links` to other trackers as a picture. Its columns are `tracker` (an id), `url`,
        `direction` ("dialed" or "accepted") and `shared_swarms`; the page shows further columns beside these. A row
        with a `state` is no link, but another tracker that should be linked: its columns are `tracker`, `url`, `state`,
        `since` and `next_try` (Unix seconds, 0 for now), and `reason`.

        Raises:
            ValueError: if the name is taken, also by a field of `/stats.json` itself.
        """
        self._tables.add(name, Table(self._gateway.table(name, rows) if self._at_gateway else rows, links))

    def add_gather(self, gather: Gather) -> None:
        """Let the page, `/stats.json` and `/metrics` ask the other processes of this tracker, which add up to one.

        Call this from `__init__`.

        Raises:
            ValueError: if another extension has called this.
        """
        self._others.add(gather)

    def merge_gauge(self, name: str, how: How) -> None:
        """Merge a gauge of several processes by their greatest or least value, instead of the sum."""
        self._others.rules[name] = how

    def add_route(self, path: str, route: Route) -> None:
        """Serve an HTTP path on the public port.

        Raises:
            ValueError: if the path is taken.
        """
        self._endpoint.routes.add(path, self._gateway.route(path, route) if self._at_gateway else route)

    def add_subprotocol(self, name: str, handler: Callable[[Channel], Awaitable[None]]) -> None:
        """Serve a WebSocket subprotocol on the public port, at any path.

        Only a name that begins with `peerservers.` is never chosen by a tracker without the extension.

        Raises:
            ValueError: if the subprotocol is taken.
        """
        serve = self._gateway.subprotocol(name, handler) if self._at_gateway else handler
        self._endpoint.add_subprotocol(name, lambda owner, info: SocketChannel(owner, info, serve))

    def add_file(self, name: str, read: Callable[[str], T], adopt: Callable[[T], None]) -> None:
        """Read a file now, and again whenever it changes, and on SIGHUP. Call this from `__init__` only.

        `read` gets the name, and its result goes to `adopt`. Later readings run in a thread. If one fails, nothing is
        adopted, also of the other files of the tracker; the log and `peerservers_reloads_total` tell.

        Raises:
            ConfigError: if `read` raises it, because the file cannot be used.
        """
        self._files.add(name, read, adopt)

    async def use_state(self, read: Callable[[Path], T]) -> T:
        """Return the result of a function of the state directory, called in a thread. Call this from `prepare`.

        Raises:
            ConfigError: if another process uses the directory, or if an operator has set it and it cannot be used.
            ExtensionOff: if it is the default directory and cannot be used, or if `read` raises `ConfigError`.
        """
        return await aside(self._state.use, read)

    def start_task(self, name: str, coroutine: Coroutine[Any, Any, Any], *, endless: bool = False) -> asyncio.Task[Any]:
        """Run a coroutine in the background until the extension stops. `endless`: it must not return before.

        If it raises, or an endless one returns, the log and `peerservers_background_task_failures_total` tell.
        """
        return self._tasks.start(name, coroutine, endless=endless)

    def repeat_task(self, name: str, period: float, function: Callable[[], Awaitable[None]]) -> asyncio.Task[Any]:
        """Call a function every `period` seconds until the extension stops; an exception is counted as in `start_task`.

        After an exception the repetition goes on.
        """
        return self._tasks.repeat(name, period, function)

    async def stop_tasks(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """Cancel all background tasks and wait for their end, for at most `timeout` seconds.

        Return whether all have ended.
        """
        return await self._tasks.stop(timeout)
