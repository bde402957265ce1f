"""Trackers whose links are connected in memory."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from extensions.federation.filters import OwnSwarms
from extensions.federation.handshake import LinkError
from extensions.federation.link import Link, LinkEvent
from extensions.federation.mesh import Mesh
from extensions.federation.reasons import Ended, EndReason
from extensions.federation.settings import FederationSettings
from extensions.federation.transports import Transport
from tests.client import eventually
from tests.unit.federation.links import key, tracker_id
from tracker.extension import ChannelClosed, CloseReason


class Wire(Transport):
    """One end of a connection. `send` is also that of a channel, which returns at once."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.other = self
        self.is_closed = False

    async def receive(self) -> bytes:
        frame = await self.inbox.get()
        if frame is None:
            raise LinkError(EndReason.LOST)
        return frame

    async def send(self, frame: bytes) -> None:
        if self.is_closed or self.other.is_closed:
            raise LinkError(EndReason.LOST)
        self.other.inbox.put_nowait(frame)

    async def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            for end in (self, self.other):
                end.inbox.put_nowait(None)


class FakeChannel:
    """The accepted end of a connection, in place of `tracker.extension.Channel`."""

    blocked_since = 0.0

    def __init__(self, wire: Wire, remote_address: str) -> None:
        self.remote_address = remote_address
        self.reason: CloseReason | None = None
        self._wire = wire

    async def receive(self) -> tuple[bytes, bool]:
        frame = await self._wire.inbox.get()
        if frame is None:
            raise ChannelClosed("closed")
        return frame, True

    def send(self, frame: bytes) -> bool:
        if not self._wire.is_closed:
            self._wire.other.inbox.put_nowait(frame)
        return not self._wire.is_closed

    def close(self, _code: int, reason: CloseReason) -> None:
        self.reason = reason
        self._wire.is_closed = True
        self._wire.other.inbox.put_nowait(None)


class Network:
    """Trackers by number."""

    def __init__(self) -> None:
        self.meshes: dict[int, Mesh] = {}
        self.refused: list[str] = []
        """The tracker ids of those for which there was no room."""
        self.failures: Counter[str] = Counter()
        self.tasks: set[asyncio.Task[Any]] = set()

    def url(self, number: int) -> str:
        return f"wss://t{number}.example"

    def add(
        self,
        number: int,
        on_event: Callable[[Link, LinkEvent], None] = lambda *_: None,
        on_end: Callable[[Link], None] = lambda _: None,
        on_no_room: Callable[[Link], None] | None = None,
        swarms: OwnSwarms | None = None,
        **settings: Any,
    ) -> Mesh:
        """Start a tracker."""

        async def connect(url: str, _trusted: bool) -> Transport:
            return self.connect(url)

        mesh = self.meshes[number] = Mesh(
            FederationSettings(**settings),
            key(number),
            self.url(number),
            on_event,
            on_end,
            on_no_room or (lambda link: self.refused.append(link.tracker_id)),
            self.failures,
            connect,
            swarms,
        )
        return mesh

    def connect(self, url: str, address: str = "10.0.0.1") -> Wire:
        """Connect to a tracker. Return this side's end."""
        mesh = next(mesh for number, mesh in self.meshes.items() if self.url(number) == url)
        here, there = Wire(), Wire()
        here.other, there.other = there, here
        channel: Any = FakeChannel(there, address)

        async def serve() -> None:
            await mesh.accept(channel)
            channel.close(1000, CloseReason.CLOSED_BY_EXTENSION)

        self.start(serve())
        return here

    def start(self, running: Awaitable[Any]) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.ensure_future(running)
        self.tasks.add(task)
        return task

    def dial(self, here: int, there: int, expected: str | None = "", **options: Any) -> asyncio.Task[Any]:
        """Have one tracker dial another one. Return the task that ends with the link."""
        mesh = self.meshes[here]

        async def dial() -> Ended:
            transport = await mesh.connect(self.url(there), False)
            assert not isinstance(transport, Ended)
            return await mesh.serve(transport, self.url(there), expected or tracker_id(there), **options)

        return self.start(dial())

    async def link(self, here: int, there: int, **options: Any) -> Link:
        """Make a link, and return the end of the dialer."""
        self.dial(here, there, **options)
        ours, theirs = self.meshes[here], self.meshes[there]
        await eventually(lambda: theirs.id in ours.links and ours.id in theirs.links)
        return ours.links[theirs.id]
