"""The network between trackers: pipes in place of WebSockets, with latency, bandwidth, loss and partitions."""

import asyncio
import hashlib
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from extensions.federation.handshake import LinkError
from extensions.federation.limits import STUCK_AFTER
from extensions.federation.reasons import EndReason
from extensions.federation.transports import TIMEOUT, Transport
from tracker.extension import ChannelClosed, CloseReason

WINDOW: Final = 1 << 20
"""Bytes that one end may have sent and the other one has not taken: buffers of both sockets and of the channel."""

SILENCE: Final = 40.0
"""Seconds until a connection that carries nothing is given up: a ping, and the wait for its answer."""

RETRANSMISSION: Final = (0.2, 1.0)
"""Seconds by which a lost packet delays a frame."""

PACKET: Final = 1400
"""Bytes of a packet."""


@dataclass(slots=True)
class Line:
    """A tracker's way to the network."""

    latency: float = 0.03
    """Seconds from the tracker to the middle of the network."""
    bandwidth: float = 10e6
    """Bytes a second."""
    loss: float = 0.0
    """The share of lost packets."""


class Traffic:
    """Counts frames, and what they contain."""

    def __init__(self) -> None:
        self.bytes: Counter[str] = Counter()
        """Bytes by type of message."""
        self.messages: Counter[str] = Counter()
        """Messages by type."""
        self._digest = hashlib.blake2b(digest_size=16)

    @property
    def digest(self) -> str:
        """A hash of all events so far: equal in two runs that went the same way."""
        return self._digest.hexdigest()

    def note(self, *event: object) -> None:
        """Add an event to the digest."""
        self._digest.update(repr((time.monotonic(), *event)).encode())

    def count(self, frame: bytes) -> None:
        """Count the messages of a frame."""
        for message in frame.split(b"\n"):
            kind = message[9 : message.find(b'"', 9)].decode() if message.startswith(b'{"type":"') else "other"
            self.bytes[kind] += len(message) + 1
            self.messages[kind] += 1


class End(Transport):
    """One end of a connection between the trackers `here` and `there`."""

    def __init__(self, network: "Network", here: str, there: str) -> None:
        self.here = here
        self.there = there
        self.other: End = self
        """The other end."""
        self.is_over = False
        """Whether the connection has ended for this end: nothing can be sent."""
        self.takes = inf
        """Frames that this end takes. A hostile tracker may read no more, and keep the connection."""
        self.closing: Callable[[], None] = lambda: None
        """Called once when it is over."""
        self._network = network
        self._inbox: deque[bytes] = deque()
        self._held: deque[bytes | None] = deque()
        """Frames that a partition holds back; None is the end."""
        self._under_way = 0
        """Bytes that this end has sent and the other one has not taken."""
        self._free_at = 0.0
        """When the line has sent everything."""
        self._arrives_at = 0.0
        self._waiting: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    @property
    def is_blocked(self) -> bool:
        """Whether there is no room for a further frame."""
        return self._under_way > WINDOW

    async def receive(self) -> bytes:
        while not self._inbox or not self.takes:
            if self.is_over:
                raise LinkError(EndReason.LOST)
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        frame = self._inbox.popleft()
        self.takes -= 1
        self.other.on_taken(len(frame))
        return frame

    async def send(self, frame: bytes) -> None:
        try:
            async with asyncio.timeout(STUCK_AFTER):
                while self.is_blocked and not self.is_over:
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
        except TimeoutError:
            raise LinkError(EndReason.STUCK) from None
        if not self.send_now(frame):
            raise LinkError(EndReason.LOST)

    async def close(self) -> None:
        self.close_now()

    def send_now(self, frame: bytes) -> bool:
        """Send a frame without waiting for room. Return whether the connection is still open."""
        if self.is_over:
            return False
        self._network.traffic.count(frame)
        self._network.traffic.note(self.here, self.there, hashlib.blake2b(frame, digest_size=8).digest())
        self._under_way += len(frame)
        self._put(frame)
        return True

    def close_now(self) -> None:
        """End the connection; the other end learns of it after everything that was sent."""
        if not self.is_over:
            self._put(None)
            self.fail()

    def fail(self) -> None:
        """End the connection for this end."""
        if not self.is_over:
            self.is_over = True
            self._network.forget(self)
            self.closing()
            for future in (self._waiting, self._room):
                if future and not future.done():
                    future.set_result(None)

    def on_taken(self, size: int) -> None:
        """Take notice that the other end has taken a frame."""
        self._under_way -= size
        if self._room and not self._room.done() and not self.is_blocked:
            self._room.set_result(None)

    def on_healed(self) -> None:
        """Send the frames that a partition has held back."""
        held, self._held = self._held, deque()
        for frame in held:
            self._put(frame)

    def deliver(self, frame: bytes | None) -> None:
        """Take a frame that has arrived, or the end of the connection."""
        if self._network.is_apart(self.here, self.there):
            self.other.hold(frame)
        elif frame is None:
            self.fail()
        elif not self.is_over:
            self._inbox.append(frame)
            if self._waiting and not self._waiting.done():
                self._waiting.set_result(None)

    def hold(self, frame: bytes | None) -> None:
        """Keep a frame until the partition has healed."""
        self._held.append(frame)

    def _put(self, frame: bytes | None) -> None:
        line, far = self._network.line(self.here), self._network.line(self.there)
        loop = asyncio.get_running_loop()
        now, size = loop.time(), len(frame or b"") + 60
        self._free_at = max(now, self._free_at) + size / min(line.bandwidth, far.bandwidth)
        delay = line.latency + far.latency
        loss = line.loss + far.loss
        if loss and random.random() < 1 - (1 - loss) ** (1 + size // PACKET):
            delay += random.uniform(*RETRANSMISSION)
        # In order, as TCP delivers.
        self._arrives_at = max(self._arrives_at, self._free_at + delay)
        loop.call_at(self._arrives_at, self.other.deliver, frame)


class InMemoryChannel:
    """The accepted end of a connection, in place of `tracker.extension.Channel`."""

    def __init__(self, end: End, remote_address: str) -> None:
        self.end = end
        self.remote_address = remote_address
        self.reason: CloseReason | None = None
        end.closing = self._on_closing

    @property
    def blocked_since(self) -> float:
        """When the send buffer became full; 0 if there is room."""
        return 1.0 if self.end.is_blocked else 0.0

    async def receive(self) -> tuple[bytes, bool]:
        """Return the next frame, and that it is text."""
        try:
            return await self.end.receive(), True
        except LinkError:
            raise ChannelClosed("closed") from None

    def send(self, frame: bytes) -> bool:
        """Send a frame. Return whether the connection is open."""
        return self.end.send_now(frame)

    def close(self, _code: int, reason: CloseReason) -> None:
        """End the connection."""
        self.reason = self.reason or reason
        self.end.close_now()

    def _on_closing(self) -> None:
        self.reason = self.reason or CloseReason.CONNECTION_LOST


class Host:
    """A tracker as the network sees it."""

    url: str
    address: str
    line: Line
    is_up = False

    def accept(self, channel: Any) -> None:
        """Serve an accepted connection."""
        raise NotImplementedError


class Network:
    """All connections between trackers, known by their URLs."""

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        self.traffic = Traffic()
        self.dials = 0
        self.connected = 0
        """Dials that were accepted by the other side's server; handshakes of links follow."""
        self._ends: dict[End, None] = {}
        self._groups: dict[str, int] = {}
        """The side of a partition on which a tracker is; all others are on side 0."""

    def line(self, url: str) -> Line:
        """Return a tracker's line."""
        return self.hosts[url].line

    def is_apart(self, one: str, other: str) -> bool:
        """Return whether a partition lies between two trackers."""
        return bool(self._groups) and self._groups.get(one, 0) != self._groups.get(other, 0)

    def divide(self, groups: dict[str, int]) -> None:
        """Let nothing pass between trackers with different numbers."""
        self._groups = groups
        for end in list(self._ends):
            if self.is_apart(end.here, end.there):
                asyncio.get_running_loop().call_later(SILENCE, self._give_up, end, groups)

    def heal(self) -> None:
        """End the partition."""
        self._groups = {}
        for end in list(self._ends):
            end.on_healed()

    def forget(self, end: End) -> None:
        """Remove an end that is over."""
        self._ends.pop(end, None)

    def cut(self, url: str) -> None:
        """End all connections of a tracker at once, as the kernel does when a process is killed."""
        for end in list(self._ends):
            if end.here == url:
                end.fail()
            elif end.there == url:
                asyncio.get_running_loop().call_later(self.line(url).latency, end.fail)

    async def connect(self, here: str, url: str) -> End:
        """Connect a tracker to a URL. Raise `LinkError` if that fails."""
        self.dials += 1
        near, far = self.line(here), self.hosts.get(url)
        self.traffic.note("dial", here, url)
        if far is None:
            await asyncio.sleep(near.latency)
            raise LinkError(EndReason.UNREACHABLE, "no such host")
        if self.is_apart(here, url):
            await asyncio.sleep(TIMEOUT)
            raise LinkError(EndReason.UNREACHABLE, "timed out")
        # TCP, TLS and the opening handshake take a round trip each.
        await asyncio.sleep(6 * (near.latency + far.line.latency))
        if not far.is_up or self.is_apart(here, url):
            raise LinkError(EndReason.UNREACHABLE, "refused")
        self.connected += 1
        dialed, accepted = End(self, here, url), End(self, url, here)
        dialed.other, accepted.other = accepted, dialed
        for end in (dialed, accepted):
            self._ends[end] = None
        far.accept(InMemoryChannel(accepted, self.hosts[here].address))
        return dialed

    def _give_up(self, end: End, groups: dict[str, int]) -> None:
        if self._groups is groups:
            end.fail()
