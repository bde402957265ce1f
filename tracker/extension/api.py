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
from typing import Any, ClassVar, Final, TypeVar

import structlog
from prometheus_client import CollectorRegistry
from pydantic import Field

from tracker.core.hub import Hub
from tracker.core.nodes import NodePeers
from tracker.core.remote import RemotePeers
from tracker.core.swarm import RemoteMember, Swarm
from tracker.extension.admission import Admission, Admitted
from tracker.extension.channel import Channel
from tracker.extension.files import FileReaders
from tracker.extension.state import StateDirectory
from tracker.files import aside
from tracker.net.endpoint import Endpoint
from tracker.net.routes import Route
from tracker.protocol.ids import is_any_id, is_id
from tracker.protocol.messages import Answer, Offer
from tracker.settings import Section, Settings
from tracker.tasks import BackgroundTasks
from tracker.web.stats import Table, Tables

T = TypeVar("T")

STOP_TIMEOUT: Final = 5.0
"""Seconds that an extension has to stop, or `server.shutdown_timeout` if that is less."""


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
        """Start. Called once, when the tracker already serves its peers."""

    async def stop(self) -> None:
        """Stop, within `STOP_TIMEOUT` seconds. Called once, but not if `start` failed."""

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
        """Take notice that a swarm has its first local peer."""

    async def swarm_changed(self, swarm: Swarm) -> None:
        """Take notice that the counts of a swarm's local peers have changed. Changes coalesce."""

    async def swarm_closed(self, swarm: Swarm) -> None:
        """Take notice that a swarm has lost its last local peer, and its remote members with it."""

    async def offers_placed(self, member: RemoteMember, peer_id: str, offers: list[Offer]) -> None:
        """Take offers of a local peer for as many peers behind a remote member of this extension."""

    async def offers_unplaced(self, swarm: Swarm, peer_id: str, offers: list[Offer]) -> None:
        """Take notice of offers of a local peer that found no receiver."""

    async def answer_unplaced(self, answer: Answer) -> None:
        """Take a local peer's answer to a peer that is not here."""


class TrackerHandle:
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
    ) -> None:
        self.settings = settings
        self.task_failures: Counter[str] = Counter() if task_failures is None else task_failures
        """Background tasks that failed, by name; for `BackgroundTasks` of the extension's own."""
        self.registry = registry
        """The registry for the extension's own metrics, whose names start with `peerservers_`."""
        self.log = structlog.get_logger().bind(extension=name)
        self.nodes = nodes or NodePeers(hub, remote.outbox)
        """The peers at other nodes of this tracker. One extension may attach: the one that connects the nodes."""
        self._name = name
        self._hub = hub
        self._remote = remote
        self._endpoint = endpoint
        self._extensions = extensions
        self._tables = Tables() if tables is None else tables
        self._files = FileReaders() if files is None else files
        self._enabled = enabled
        self._state = state or StateDirectory(settings)
        self._members: dict[Swarm, set[RemoteMember]] = {}
        self._tasks = BackgroundTasks(self.task_failures)

    def extension(self, name: str) -> Extension | None:
        """Return another extension of this tracker, or None if it is not enabled.

        Call this from `start` on. The other extension may not have started yet, and its start may have failed.
        """
        return self._extensions.get(name)

    def is_enabled(self, name: str) -> bool:
        """Return whether an extension of this name is enabled. Unlike `extension`, also tells in `__init__`."""
        return name in self._enabled

    @property
    def swarms(self) -> Mapping[str, Swarm]:
        """The open swarms by info_hash. Read only."""
        return self._hub.swarms

    def add_remote(self, info_hash: str, owner: Any) -> RemoteMember | None:
        """Return a new remote member of a swarm, which counts no peers until `set_remote`; None if there is no swarm.

        `owner` is an object of the extension; the member has it as its attribute.
        """
        member = self._remote.add_remote(info_hash, owner)
        if member:
            self._members.setdefault(member.swarm, set()).add(member)
        return member

    def set_remote(self, member: RemoteMember, complete: int, incomplete: int) -> None:
        """Set the numbers of seeders and leechers behind a remote member.

        If the member was removed or its swarm has closed, do nothing.

        Raises:
            ValueError: if a number is negative.
        """
        if self.owns(member):
            self._remote.set_remote(member, complete, incomplete)

    def set_remote_peers(
        self,
        member: RemoteMember,
        seeders: Collection[str],
        leechers: Collection[str],
        ranks: tuple[str, str] | None = None,
    ) -> list[str]:
        """Set the peers behind a remote member by their marks, instead of their numbers; return those of the newcomers.

        `marks_of` computes marks; at most a few dozen are useful. Peers that are local, too, or behind several members,
        count once, and are introduced once to each other. Newcomers are peers that were neither here nor behind any
        member before. `ranks` are given if the marks may keep offers from other members: two texts that order this
        member's tracker and this one, in the same way at all trackers.
        """
        return self._remote.set_remote_peers(member, seeders, leechers, ranks) if self.owns(member) else []

    def members_with(self, swarm: Swarm, peer_id: str) -> list[RemoteMember]:
        """Return this extension's remote members with a rank that a remote peer of a swarm is behind."""
        return [member for member in swarm.overlap.members_with(peer_id) if self.owns(member)] if swarm.overlap else []

    def keep_apart(self, member: RemoteMember, peer_id: str, seconds: float) -> None:
        """Place no offers of a local peer on a remote member for some time, because it is present there, too."""
        self._remote.keep_apart(member, peer_id, seconds, monotonic())

    def remove_remote(self, member: RemoteMember) -> None:
        """Remove a remote member from its swarm."""
        self.set_remote(member, 0, 0)
        self._members.get(member.swarm, set()).discard(member)

    def owns(self, member: RemoteMember) -> bool:
        """Return whether this extension added a remote member."""
        return member in self._members.get(member.swarm, ())

    def deliver_offers(
        self,
        info_hash: str,
        peer_id: str,
        offers: list[Offer],
        owner: Any = None,
        member: RemoteMember | None = None,
    ) -> list[Offer]:
        """Give a remote peer's offers to as many distinct local peers; return the offers that found none.

        `owner` is the origin of the offers, if there are several origins: from one origin, a peer is given at most half
        of `tracker.max_foreign_offers`. `member` is the remote member with the peer, if its peers are known by their
        marks. `make_offer` makes an offer of text.

        Raises:
            ValueError: if `peer_id` is not an id of the swarm.
        """
        if not (is_id(peer_id) if is_id(info_hash) else is_any_id(peer_id)):
            raise ValueError("peer_id must be 20 latin-1 characters, or in a text swarm 1 to 64 characters")
        return self._remote.deliver_offers(info_hash, peer_id, offers, monotonic(), owner, member)

    def deliver_answer(self, answer: Answer) -> bool:
        """Give a remote peer's answer to the local peer that made the offer; return whether that peer is still here.

        `make_answer` makes an answer of text.
        """
        return self._remote.deliver_answer(answer, monotonic())

    @property
    def parked_offers(self) -> int:
        """Number of offers that are parked until a receiver comes."""
        return self._hub.offers.parked.count(monotonic())

    def park_offers(self, on_placed: Callable[[float], None]) -> None:
        """Park offers that find no receiver, from now on; peers that are alone announce more often.

        `on_placed` gets the seconds that a parked offer waited for its receiver. Each extension has its own.
        """

        def guarded(seconds: float) -> None:
            try:
                on_placed(seconds)
            except Exception:
                # The hub calls it while it serves a client, which would lose its connection.
                self.log.exception("extension_failed", on="on_placed")

        self._hub.offers.parked.enable(guarded)

    def place_parked(self, member: RemoteMember, newcomers: Collection[str], owner: Any = None) -> None:
        """Place the parked offers of a swarm on new peers behind a remote member, one of each peer's on each.

        `newcomers` are the marks of these peers, or `UNKNOWN` for each peer of which only the number is known. If a
        peer was given offers from `owner` meanwhile (as in `deliver_offers`), it places as many fewer.
        """
        if self.owns(member):
            self._remote.place_parked(member, newcomers, monotonic(), owner)

    def place_again(
        self, info_hash: str, peer_id: str, offers: list[Offer], refused: RemoteMember | None, age: float
    ) -> None:
        """Place a local peer's offers, made `age` seconds ago, on other members than the one that refused them."""
        self._remote.place_again(info_hash, peer_id, offers, refused, age, monotonic())

    def show_id(self, tracker_id: str) -> None:
        """Show the id by which other trackers know this one on the page."""
        self._tables.tracker_id = tracker_id

    def report_off(self, reason: str) -> None:
        """Report that the extension does nothing until the tracker is started again.

        The page and `/stats.json` show the reason to everyone, so it names no file; `peerservers_extension_up` is 0.
        """
        self._tables.off.setdefault(self._name, reason)

    def add_table(self, name: str, rows: Callable[[], list[dict[str, Any]]], links: bool = False) -> None:
        """Show a table of texts and numbers, by column, on the page and in `/stats.json`, under a name.

        The page draws a table of `links` to other trackers as a picture. Its columns are `tracker` (an id), `url`,
        `direction` ("dialed" or "accepted") and `shared_swarms`; the page shows further columns beside these. A row
        with a `state` is no link, but another tracker that should be linked: its columns are `tracker`, `url`, `state`,
        `since` and `next_try` (Unix seconds, 0 for now), and `reason`.

        Raises:
            ValueError: if the name is taken, also by a field of `/stats.json` itself.
        """
        self._tables.add(name, Table(rows, links))

    def add_route(self, path: str, route: Route) -> None:
        """Serve an HTTP path on the public port.

        Raises:
            ValueError: if the path is taken.
        """
        self._endpoint.routes.add(path, route)

    def add_subprotocol(self, name: str, handler: Callable[[Channel], Awaitable[None]]) -> None:
        """Serve a WebSocket subprotocol on the public port, at any path.

        Only a name that begins with `peerservers.` is never chosen by a tracker without the extension.

        Raises:
            ValueError: if the subprotocol is taken.
        """
        self._endpoint.add_subprotocol(name, lambda owner, info: Channel(owner, info, handler))

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

    def release(self) -> None:
        """Remove all remote members, because the extension has ended."""
        for members in self._members.values():
            for member in members:
                self._remote.set_remote(member, 0, 0)
        self._members.clear()

    def forget(self, swarm: Swarm) -> None:
        """Remove the remote members of a swarm that has closed.

        Otherwise the swarm and its members would keep each other in memory, and with them all that belongs to the
        members' owners, until the garbage collector visits all objects: in a quiet tracker, that takes hours.
        """
        for member in self._members.pop(swarm, ()):
            swarm.set_remote(member, 0, 0)
        swarm.overlap = None
