"""A WebSocket subprotocol that an extension serves: one `Channel` for each connection."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog
from websockets.frames import CloseCode

from tracker.access.gate import ConnectionInfo
from tracker.net.errors import ChannelClosed
from tracker.net.websocket import Owner, WebSocket
from tracker.reasons import CloseReason

MAX_QUEUE: Final = 1 << 20
"""Bytes received and not yet taken, beyond which the socket is not read (backpressure)."""

_MESSAGE_COST: Final = 100
"""Bytes that a message takes besides its payload, so that empty messages fill the queue, too."""

GRACE = 5.0
"""Seconds from the end of the connection until a handler that still runs is cancelled.

Not `Final`, because compiled code contains the values of `Final` names, and tests change this one.
"""


class Channel(Protocol):
    """A connection that an extension serves: a WebSocket here, or one that another process of this tracker has."""

    remote_address: str
    """The numeric IP address of the other side. Behind a proxy that is not trusted, it is the proxy's address."""
    reason: CloseReason | None
    """Why the connection ends; None while it is open."""
    blocked_since: float
    """The monotonic time since which the send buffer is full; 0 while there is room. `send` would drop a message."""

    @property
    def queued_bytes(self) -> int:
        """Bytes received and not yet taken; each message counts for 100 bytes more than its payload."""
        ...

    async def receive(self) -> tuple[bytes, bool]:
        """Return the next message, and whether it is text (whose UTF-8 is not checked).

        Raises:
            ChannelClosed: if the connection has ended and all its messages have been taken.
        """
        ...

    def send(self, data: bytes, is_text: bool = True) -> bool:
        """Send one message; return whether it was sent. It is dropped if the other side is slow or gone."""
        ...

    def close(self, code: CloseCode, reason: CloseReason) -> None:
        """Close the connection, behind the messages that were sent. The code is for the other side."""
        ...


class SocketChannel(WebSocket):
    """A WebSocket that an extension's coroutine serves.

    `handler` runs as a task from the opening handshake on. When it returns or raises, the socket is closed. If the
    socket closes first, `receive` raises; a handler that is busy otherwise is cancelled after `GRACE` seconds.
    """

    __slots__ = ("_arrived", "_handler", "_messages", "_queued", "_task", "remote_address")

    def __init__(self, owner: Owner, info: ConnectionInfo, handler: Callable[["Channel"], Awaitable[None]]) -> None:
        super().__init__(owner, info)
        self.remote_address = info.address
        self._handler = handler
        self._messages: deque[tuple[bytes, bool]] = deque()
        self._queued = 0
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def queued_bytes(self) -> int:
        return self._queued

    async def receive(self) -> tuple[bytes, bool]:
        while not self._messages:
            if self.reason is not None:
                raise ChannelClosed(self.reason.value)
            self._arrived.clear()
            await self._arrived.wait()
        payload, is_text = self._messages.popleft()
        cost = len(payload) + _MESSAGE_COST
        if self._queued > MAX_QUEUE >= self._queued - cost and self.reason is None:
            self.transport.resume_reading()
        self._queued -= cost
        return payload, is_text

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handler."""
        super().connection_made(transport)
        self._task = asyncio.get_running_loop().create_task(self._run())

    def on_message(self, payload: bytes, is_text: bool, now: float) -> None:  # noqa: ARG002
        """Queue one message for `receive`."""
        self._messages.append((payload, is_text))
        cost = len(payload) + _MESSAGE_COST
        if self._queued <= MAX_QUEUE < self._queued + cost:
            self.transport.pause_reading()
        self._queued += cost
        self._arrived.set()

    def on_closing(self) -> None:
        """Wake the handler, which finds the channel closed once it has taken all messages."""
        self._arrived.set()
        if self._task is not None:
            asyncio.get_running_loop().call_later(GRACE, self._task.cancel)

    def sweep(self, now: float) -> None:
        """Apply the time limits; while backpressure stops the reading, the other side does not count as silent."""
        if self._queued > MAX_QUEUE:
            self.last_received = now
        super().sweep(now)

    async def _run(self) -> None:
        try:
            await self._handler(self)
        except ChannelClosed:
            pass
        except Exception:
            structlog.get_logger().exception("channel_failed")
            self.close(CloseCode.INTERNAL_ERROR, CloseReason.INTERNAL_ERROR)
        finally:
            # Also if the handler was cancelled, or let the cancellation of a future that it awaited escape.
            self.close(CloseCode.NORMAL_CLOSURE, CloseReason.CLOSED_BY_EXTENSION)
