"""Hands connections to the workers that serve their first swarm, so that few messages cross between workers.

The first message of a WebSocket tells its swarm. If another worker serves that, the socket is sent to it (`SCM_RIGHTS`,
unix(7)), with all bytes that were read from it. This worker forgets the connection, and the other one parses the same
bytes. A connection over TLS cannot be handed, because the keys of its session are in the memory of the process.
"""

import array
import asyncio
import json
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, cast

import msgspec

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform without websockets' compiled part
    from websockets.utils import apply_mask

from tracker.access.gate import ConnectionInfo
from tracker.net.placement import Placement
from tracker.net.websocket import WebSocket

MAX_DATA: Final = 1 << 16
"""Bytes of the longest first message of a connection that is handed."""

PATIENCE: Final = 1.0
"""Seconds for which a connection waits if the queue to its worker is full. Then it stays, and its messages cross."""

_MAX_MESSAGE: Final = 1 << 18
_BATCH: Final = 100
"""Connections that are taken in one turn of the event loop."""

_TEXT: Final = 0x81
"""The first byte of an unfragmented text message that is not compressed (RFC 6455, section 5.2)."""

_MASKED: Final = 0x80
_MEDIUM: Final = 126
_LONG: Final = 127


class _First(msgspec.Struct):
    """The part of an announce, or of an answer, that tells the swarm."""

    info_hash: str


_DECODER: Final = msgspec.json.Decoder(_First)


class Owner(Protocol):
    """The endpoint, as the hand-over sees it."""

    @property
    def room(self) -> int:
        """The number of WebSockets that each worker may have."""
        ...

    @property
    def connections(self) -> int:
        """The number of WebSockets that this worker has."""
        ...

    def forget(self, websocket: WebSocket) -> None:
        """Forget a WebSocket that another worker serves."""

    def take(self, taken: socket.socket, address: str | None, head: bytes, data: bytes) -> None:
        """Serve a WebSocket of another worker, whose handshake is done."""


class HandOver:
    """Sends connections of one endpoint to other workers, and takes theirs.

    Args:
        placement: Chooses the worker.
        place: The place of this worker.
        inboxes: By place, the sockets from which workers take connections.
        outboxes: By place, the sockets to all workers.
        owner: The endpoint.
        sends: Whether connections are sent. Those of workers with other settings are taken in any case.

    Attributes:
        sends: The argument of this name.
    """

    def __init__(
        self,
        placement: Placement,
        place: int,
        inboxes: list[socket.socket],
        outboxes: list[socket.socket],
        owner: Owner,
        sends: bool = True,
    ) -> None:
        self.sends = sends
        self._placement = placement
        self._place = place
        self._inboxes = inboxes
        self._outboxes = outboxes
        self._owner = owner
        self._waiting: list[deque[Undecided]] = [deque() for _ in outboxes]
        """By place, the connections that wait for room in the queue to the worker. The oldest first."""
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._loop = asyncio.get_running_loop()
        self._read(place)

    def set_loads(self, connections: Sequence[int]) -> None:
        """Note the numbers of connections of all workers."""
        self._placement.set_loads(connections)

    def adopt(self, place: int) -> None:
        """Take the connections that wait for another worker, too, because it does not, and hand it no more."""
        self._placement.set_live(place, False)
        self._end_waiting(place)
        self._read(place)

    def release(self, place: int) -> None:
        """Leave the connections that wait for another worker to it again."""
        self._placement.set_live(place, True)
        if place != self._place and self._inboxes[place].fileno() >= 0:
            self._loop.remove_reader(self._inboxes[place])

    def close(self) -> None:
        """Take no more connections. The next worker of this place takes those that wait, and those of this one."""
        self._place = -1
        for place in range(len(self._waiting)):
            self._end_waiting(place)
        for inbox in self._inboxes:
            if inbox.fileno() >= 0:
                self._loop.remove_reader(inbox)
                inbox.close()

    def _read(self, place: int) -> None:
        if self._inboxes[place].fileno() >= 0:
            self._loop.add_reader(self._inboxes[place], self._take, self._inboxes[place])

    def undecided(self, websocket: WebSocket, info: ConnectionInfo) -> "Undecided":
        """Return the protocol of a new WebSocket until its first message has come."""
        return Undecided(self, websocket, info)

    def send(self, undecided: "Undecided", info_hash: str) -> bool:
        """Send a connection to the worker of its first swarm, at once or within `PATIENCE`. False: it stays here."""
        # The supervisor tells the numbers of all once a second. Hundreds of clients may have come since then.
        self._placement.set_own(self._owner.connections)
        place = self._placement.choose(info_hash, self._owner.room)
        if place == self._place or not undecided.may_leave:
            return False
        self._placement.moved(place)
        waiting = self._waiting[place]
        if not waiting:
            try:
                return self._send(undecided, place)
            except BlockingIOError:
                # Many clients come at the same time, as after a restart.
                self._loop.add_writer(self._outboxes[place], self._go_on, place)
                self._timers[place] = self._loop.call_later(PATIENCE, self._give_up, place)
        undecided.wait(self._loop.time() + PATIENCE)
        waiting.append(undecided)
        return True

    def _send(self, undecided: "Undecided", place: int) -> bool:
        """Send a connection. Return False if it has to stay here. Raise `BlockingIOError` if the queue is full."""
        info = undecided.info
        # While no proxy has told a client, this is the address of the proxy, which has no limits.
        address = None if info.is_proxy else info.address
        head = json.dumps({"address": address, "head": len(info.head)}).encode()
        transport = undecided.websocket.transport
        descriptor = transport.get_extra_info("socket").fileno()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        try:
            self._outboxes[place].sendmsg([head, b"\n", info.head, undecided.data], rights)
        except BlockingIOError:
            raise
        except OSError:
            # Too many sockets are on their way, or the message is too long for the queue.
            return False
        self._owner.forget(undecided.websocket)
        undecided.is_gone = True
        # The other process has a descriptor of the socket by now, so this only closes the one here.
        transport.abort()
        return True

    def _go_on(self, place: int) -> None:
        """Send connections that wait, as the queue has room again."""
        waiting = self._waiting[place]
        while waiting:
            undecided = waiting[0]
            try:
                stays = not (undecided.may_leave and self._send(undecided, place))
            except BlockingIOError:
                return
            waiting.popleft()
            if stays:
                undecided.stay()
        self._end_waiting(place)

    def _give_up(self, place: int) -> None:
        """Keep the connections that have waited for too long."""
        waiting = self._waiting[place]
        while waiting and waiting[0].deadline <= self._loop.time():
            waiting.popleft().stay()
        if waiting:
            self._timers[place] = self._loop.call_at(waiting[0].deadline, self._give_up, place)
        else:
            self._end_waiting(place)

    def _end_waiting(self, place: int) -> None:
        """Keep all connections that wait."""
        if self._outboxes[place].fileno() >= 0:
            self._loop.remove_writer(self._outboxes[place])
        timer = self._timers.pop(place, None)
        if timer is not None:
            timer.cancel()
        waiting = self._waiting[place]
        while waiting:
            waiting.popleft().stay()

    def _take(self, inbox: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                message, descriptors, _, _ = socket.recv_fds(inbox, _MAX_MESSAGE, 1, socket.MSG_CMSG_CLOEXEC)
            except OSError:
                return
            if not descriptors:
                return
            taken = socket.socket(fileno=descriptors[0])
            taken.setblocking(False)
            told, _, rest = message.partition(b"\n")
            values: dict[str, Any] = json.loads(told)
            size: int = values["head"]
            self._owner.take(taken, values["address"], rest[:size], rest[size:])


class Undecided(asyncio.Protocol):
    """A WebSocket until its first message has come. It is open and counts, but receives nothing before the decision."""

    def __init__(self, hand_over: HandOver, websocket: WebSocket, info: ConnectionInfo) -> None:
        self.websocket = websocket
        self.info = info
        self.data = b""
        """The bytes that were read so far."""
        self.deadline = 0.0
        """The time by the loop's clock until which the connection waits; 0 unless it waits."""
        self.is_gone = False
        """Whether another worker serves the connection, or it has ended."""
        self._hand_over = hand_over

    @property
    def may_leave(self) -> bool:
        """Whether the connection is open, and nothing waits to be written to it."""
        transport = self.websocket.transport
        is_open = self.websocket.reason is None and not transport.is_closing()
        return is_open and not transport.get_write_buffer_size()

    def data_received(self, data: bytes) -> None:
        """Collect the first message, and hand over the connection or let the WebSocket have it."""
        if self.is_gone:
            return
        self.data += data
        if self.deadline:
            return
        info_hash = first_info_hash(self.data)
        if info_hash is not None and not (info_hash and self._hand_over.send(self, info_hash)):
            self.stay()

    def wait(self, deadline: float) -> None:
        """Read no more, because the connection waits to be sent."""
        self.deadline = deadline
        self.websocket.transport.pause_reading()

    def stay(self) -> None:
        """Let the WebSocket here have the connection."""
        if self.is_gone:
            return
        websocket, data, self.data = self.websocket, self.data, b""
        transport = websocket.transport
        transport.set_protocol(cast(asyncio.Protocol, websocket))
        if self.deadline and not transport.is_closing():
            transport.resume_reading()
        websocket.data_received(data)

    def eof_received(self) -> None:
        """Pass the end of the data on."""
        if not self.is_gone:
            self.websocket.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        """Pass the end of the connection on."""
        if not self.is_gone:
            self.is_gone = True
            self.websocket.connection_lost(error)

    def pause_writing(self) -> None:
        """Pass it on."""
        self.websocket.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self.websocket.resume_writing()


def first_info_hash(data: bytes) -> str | None:
    """Return the `info_hash` in the first message of a client. It is empty if there is none; None: more data is needed.

    Only a short message in a single frame without compression is looked at.
    """
    if len(data) < 2 and data[:1] in (b"", b"\x81"):
        return None
    if data[0] != _TEXT or not data[1] & _MASKED:
        return ""
    size, start = data[1] & ~_MASKED, 2
    if size >= _MEDIUM:
        start = 4 if size == _MEDIUM else 10
        if len(data) < start:
            return None
        size = int.from_bytes(data[2:start], "big")
    if size > MAX_DATA or len(data) > 2 * MAX_DATA:
        return ""
    end = start + 4 + size
    if len(data) < end:
        return None
    # A deeply nested message exceeds the depth of recursion.
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _DECODER.decode(apply_mask(data[start + 4 : end], data[start : start + 4])).info_hash
    return ""
