"""Extensions: what they may do, and how they are found; `tracker.host` runs them.

A third party's extension is a class derived from `Extension`, named by an entry point of the group
`peerservers.extensions`. Its name there is the name of its section, `[extensions.NAME]`.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from time import monotonic
from types import MappingProxyType
from typing import Any, ClassVar, Final

import structlog
from prometheus_client import CollectorRegistry
from pydantic import Field

from tracker.core.hub import Hub
from tracker.core.offers import Parking
from tracker.core.remote import RemotePeers
from tracker.core.swarm import RemoteMember, Swarm
from tracker.extension.admission import Admission
from tracker.extension.channel import Channel
from tracker.net.endpoint import Endpoint
from tracker.net.http import Route
from tracker.protocol.messages import Answer, Offer
from tracker.settings import Section, Settings
from tracker.tasks import BackgroundTasks
from tracker.web.stats import Table, Tables

STOP_TIMEOUT: Final = 5.0
"""Seconds that an extension gets to stop, if `server.shutdown_timeout` does not give it less."""


class ExtensionSettings(Section):
    """An extension's section; derive from it for more keys."""

    enabled: bool = Field(True, description="Whether the extension is started.")


class Extension:
    """Base class. Override what is needed; events that are not overridden cost nothing.

    Events come one after the other, a moment after the tracker has served its own peers. They share its event loop
    and so must not block it; but one that raises, or awaits for long, harms only its own extension. `admit` is no
    event, but a question.
    """

    Settings: ClassVar[type[ExtensionSettings]] = ExtensionSettings

    def __init__(self, tracker: "TrackerHandle", settings: Any) -> None:
        """Register routes, subprotocols and metrics here. `settings` is a `Settings` of this class."""
        self.tracker = tracker
        self.settings = settings

    async def start(self) -> None:
        """Called once, when the tracker serves already."""

    async def stop(self) -> None:
        """Called once, for at most `STOP_TIMEOUT` seconds; not if `start` failed."""

    async def admit(self, request: Admission) -> str | None:
        """Whether a peer may join a swarm: None if so, or why not, which its client is told.

        Overridden, this is asked before a peer joins, also when it comes back on another connection; not when a member
        announces again. It may take `access.admission_timeout` seconds from the announce on, and is asked about many
        peers at once. Without a verdict - it raises, takes too long, or `start` has failed - the peer may not join.
        """

    async def swarm_opened(self, swarm: Swarm) -> None:
        """A swarm has its first local peer."""

    async def swarm_changed(self, swarm: Swarm) -> None:
        """The local peers of a swarm have changed in number or kind; several changes may come as one."""

    async def swarm_closed(self, swarm: Swarm) -> None:
        """A swarm has lost its last local peer; its remote members are gone with it."""

    async def offers_placed(self, member: RemoteMember, peer_id: str, offers: list[Offer]) -> None:
        """Offers of a local peer were placed on peers behind a remote member of this extension, one on each."""

    async def offers_unplaced(self, swarm: Swarm, peer_id: str, offers: list[Offer]) -> None:
        """Offers of a local peer found nobody."""

    async def answer_unplaced(self, answer: Answer) -> None:
        """A local peer has answered a peer that is not here."""


class TrackerHandle:
    """What an extension may do to the tracker it runs in."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        hub: Hub,
        foreign: RemotePeers,
        endpoint: Endpoint,
        registry: CollectorRegistry,
        extensions: Mapping[str, Extension] = MappingProxyType({}),
        tables: Tables | None = None,
        task_failures: Counter[str] | None = None,
    ) -> None:
        self.settings = settings
        self.registry = registry
        """For the extension's own metrics; their names start with `peerservers_`."""
        self.log = structlog.get_logger().bind(extension=name)
        self._hub = hub
        self._foreign = foreign
        self._endpoint = endpoint
        self._extensions = extensions
        self._tables = Tables() if tables is None else tables
        self._members: dict[Swarm, set[RemoteMember]] = {}
        self._tasks = BackgroundTasks(task_failures)

    def extension(self, name: str) -> Extension | None:
        """The extension of that name in this tracker, to be asked for from `start` on; None if it is not enabled.

        It may not have started yet, and may have failed to.
        """
        return self._extensions.get(name)

    @property
    def swarms(self) -> Mapping[str, Swarm]:
        """The open swarms by info_hash, to read."""
        return self._hub.swarms

    def add_remote(self, info_hash: str, owner: Any) -> RemoteMember | None:
        """A remote member for an open swarm, counting nobody until `set_remote`; None if the swarm is not open."""
        member = self._foreign.add_remote(info_hash, owner)
        if member:
            self._members.setdefault(member.swarm, set()).add(member)
        return member

    def set_remote(self, member: RemoteMember, complete: int, incomplete: int) -> None:
        """Say how many seeders and leechers are behind a remote member. Raises `ValueError` if negative.

        Does nothing once the member was removed or its swarm has closed.
        """
        if self.owns(member):
            self._foreign.set_remote(member, complete, incomplete)

    def remove_remote(self, member: RemoteMember) -> None:
        """A remote member is no more."""
        self.set_remote(member, 0, 0)
        self._members.get(member.swarm, set()).discard(member)

    def owns(self, member: RemoteMember) -> bool:
        """Whether a remote member was added here."""
        return member in self._members.get(member.swarm, ())

    def deliver_offers(self, info_hash: str, peer_id: str, offers: list[Offer], owner: Any = None) -> list[Offer]:
        """Give a foreign peer's offers to as many distinct local peers; the offers left over.

        `owner` is where they come from, if there are several such places: none uses up what a peer takes of others.
        Raises `ValueError` if `peer_id` is no id. `tracker.protocol.offer` makes an offer of text.
        """
        out, rest = self._foreign.deliver_offers(info_hash, peer_id, offers, monotonic(), owner)
        self._endpoint.send(out)
        return rest

    def deliver_answer(self, answer: Answer) -> bool:
        """Give a foreign peer's answer to the local peer that made the offer; whether that is still here.

        `tracker.protocol.answer` makes an answer of text.
        """
        out = self._foreign.deliver_answer(answer)
        self._endpoint.send(out)
        return bool(out)

    @property
    def parked_offers(self) -> int:
        """Offers kept because they have found nobody."""
        return self._hub.parking.offers(monotonic()) if self._hub.parking else 0

    def park_offers(self, on_placed: Callable[[float], None]) -> None:
        """From now on, keep offers that find nobody for a while; peers that are alone announce more often.

        `on_placed` is told how many seconds those were kept that somebody came for.
        """
        self._hub.parking = Parking(on_placed)

    def place_parked(self, member: RemoteMember, newcomers: int, owner: Any = None) -> None:
        """Place the offers kept in a swarm on so many peers behind a remote member, one of each peer's on each.

        Who was given offers from there meanwhile (`owner`, as for `deliver_offers`) makes so many less.
        """
        if self.owns(member):
            self._foreign.place_parked(member, newcomers, monotonic(), owner)

    def place_again(
        self, info_hash: str, peer_id: str, offers: list[Offer], refused: RemoteMember | None, age: float
    ) -> None:
        """Place a local peer's offers, made `age` seconds ago, elsewhere than where they were refused."""
        self._endpoint.send(self._foreign.place_again(info_hash, peer_id, offers, refused, age, monotonic()))

    def add_table(self, name: str, rows: Callable[[], list[dict[str, Any]]], links: bool = False) -> None:
        """Show a table on the page and in `/stats.json`, under a name: rows of texts and numbers, by column.

        The page draws `links` to other trackers as a picture. Their columns are `tracker` (an id), `url`, `direction`
        ("dialed" or "accepted") and `shared_swarms`; any others are shown beside these.

        Raises `ValueError` if the name is taken, also by a field of `/stats.json` itself.
        """
        self._tables.add(name, Table(rows, links))

    def add_route(self, path: str, route: Route) -> None:
        """Serve an HTTP path on the public port. Raises `ValueError` if it is taken."""
        self._endpoint.add_route(path, route)

    def add_subprotocol(self, name: str, handler: Callable[[Channel], Awaitable[None]]) -> None:
        """Serve a WebSocket subprotocol on the public port, any path. Raises `ValueError` if it is taken."""
        self._endpoint.add_subprotocol(name, lambda visit: Channel(self._endpoint, visit, handler))

    def start_task(self, name: str, coroutine: Coroutine[Any, Any, Any], *, endless: bool = False) -> asyncio.Task[Any]:
        """Run a coroutine in the background until the extension stops. `endless`: it must not return before.

        If it raises, or an endless one returns, the log and `peerservers_background_task_failures_total` tell.
        """
        return self._tasks.start(name, coroutine, endless=endless)

    async def stop_tasks(self) -> None:
        """Cancel all background tasks and wait for their end."""
        await self._tasks.stop()

    def release(self) -> None:
        """Remove all remote members."""
        for members in self._members.values():
            for member in members:
                self._foreign.set_remote(member, 0, 0)
        self._members.clear()

    def forget(self, swarm: Swarm) -> None:
        """A swarm has closed: its remote members went with it."""
        self._members.pop(swarm, None)
