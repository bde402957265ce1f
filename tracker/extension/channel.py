"""A WebSocket subprotocol that an extension serves: one `Channel` per connection."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from websockets.frames import CloseCode

from tracker.access.gate import ConnectionInfo
from tracker.net.errors import ChannelClosed
from tracker.net.websocket import Owner, WebSocket
from tracker.reasons import CloseReason

MAX_QUEUE: Final = 1 << 20
"""Bytes received and not yet taken, beyond which the socket is not read."""

_MESSAGE_COST: Final = 100
"""Bytes that a message takes besides its payload: empty ones fill a queue too."""

GRACE = 5.0
"""Seconds from the end of the connection until a handler that is still at work is cancelled.

Not `Final`: compiled code has such numbers in it, and tests change this one.
"""


class Channel(WebSocket):
    """Messages to and from one WebSocket, for an extension's coroutine.

    `handler` runs as a task from the handshake on; when it returns or raises, the socket is closed. When the socket
    closes first, `receive` raises, and a handler that is busy with something else is cancelled after `GRACE` seconds.
    """

    __slots__ = ("_arrived", "_handler", "_messages", "_queued", "_task", "remote_address")

    def __init__(self, owner: Owner, visit: ConnectionInfo, handler: Callable[["Channel"], Awaitable[None]]) -> None:
        super().__init__(owner, visit)
        self.remote_address = visit.address
        """The numeric IP address of the other side; of one behind a proxy that is not trusted, the proxy's."""
        self._handler = handler
        self._messages: deque[tuple[bytes, bool]] = deque()
        self._queued = 0
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def receive(self) -> tuple[bytes, bool]:
        """The next message, and whether it came as text (UTF-8, not checked). Raises `ChannelClosed`."""
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
        """Wake the handler, which finds the channel closed once it has taken what had come."""
        self._arrived.set()
        if self._task is not None:
            asyncio.get_running_loop().call_later(GRACE, self._task.cancel)

    def sweep(self, now: float) -> None:
        """Time limits; while the handler holds up reading, silence is no sign of death."""
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
            # Also when the handler was cancelled, or let the cancellation of something it awaited escape.
            self.close(CloseCode.NORMAL_CLOSURE, CloseReason.CLOSED_BY_EXTENSION)
