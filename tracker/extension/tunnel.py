"""A channel to another node of the cluster: the messages of a WebSocket, on a stream between nodes.

The stream carries pieces of data. The first byte is the kind of a piece:

* `T`, `B`: a text message, a binary one, or the last part of one. `t`, `b`: an earlier part.
* `C`: the number of bytes of messages that the receiver has taken since the last `C`, in 4 bytes. So a sender knows how
  many are under way, and waits with further messages while there are more than `WINDOW`.
* `X`: the end, with the close code in 2 bytes and the `CloseReason`.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final

from websockets.frames import CloseCode

from tracker.extension.channel import Channel
from tracker.extension.cluster import Stream
from tracker.net.errors import ChannelClosed
from tracker.reasons import CloseReason

WINDOW: Final = 1 << 20
"""Bytes of messages on their way to the other end, beyond which no further message is sent."""

MESSAGE_COST: Final = 100
"""Bytes that a message takes besides its payload, so that empty messages fill the window, too."""

CREDIT: Final = 64 * 1024
"""Bytes that were taken since the other end was last told so, at which it is told again."""

POLL: Final = 0.05
"""Seconds until a channel whose send buffer is full is tried again."""

LOST: Final = CloseReason.CONNECTION_LOST


class TunnelChannel:
    """One end of a tunnel: a `Channel`, and the `Receiver` of its stream.

    `max_message` is the longest message of the other end.
    """

    def __init__(self, remote_address: str, max_message: int) -> None:
        self.remote_address = remote_address
        self.reason: CloseReason | None = None
        self.code = CloseCode.GOING_AWAY
        """The close code of the other end. It is 1001 if the other node has gone."""
        self.blocked_since = 0.0
        self.on_ended: Callable[[], object] = bool
        """Called once when the channel has ended."""
        self._max_message = max_message
        self._max_part = 0
        self._stream: Stream | None = None
        self._messages: deque[tuple[bytes, bool]] = deque()
        self._parts: list[bytes] = []
        self._queued = 0
        self._under_way = 0
        self._taken = 0
        self._arrived = asyncio.Event()

    def attach(self, stream: Stream, max_piece: int) -> None:
        """Use a stream that is open, and takes pieces of data of at most `max_piece` bytes."""
        self._stream = stream
        self._max_part = max_piece - 1

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
        cost = len(payload) + MESSAGE_COST
        self._queued -= cost
        self._taken += cost
        if self._taken >= CREDIT:
            self._put(b"C" + self._taken.to_bytes(4, "big"))
            self._taken = 0
        return payload, is_text

    def send(self, data: bytes, is_text: bool = True) -> bool:
        if self.reason is not None or self.blocked_since:
            return False
        self._under_way += len(data) + MESSAGE_COST
        if self._under_way > WINDOW:
            self.blocked_since = monotonic()
        last, part = (b"T", b"t") if is_text else (b"B", b"b")
        at = 0
        while len(data) - at > self._max_part:
            self._put(part + data[at : at + self._max_part])
            at += self._max_part
        self._put(last + data[at:])
        return self.reason is None

    def close(self, code: CloseCode, reason: CloseReason) -> None:
        if self.reason is None:
            self._put(b"X" + code.to_bytes(2, "big") + reason.value.encode())
            self._end(reason)
            if self._stream is not None:
                self._stream.end()

    # The receiver of the stream

    def on_data(self, data: bytes) -> None:
        """Take a piece of data. If it is not valid, the other node has another version: end the channel."""
        if self.reason is not None:
            return
        kind, content = data[:1], data[1:]
        if kind in (b"T", b"B", b"t", b"b"):
            self._queued += len(content) + MESSAGE_COST
            if self._queued > 2 * WINDOW + self._max_message:
                # The other end respects the window, so this never happens.
                self.close(CloseCode.INTERNAL_ERROR, CloseReason.INTERNAL_ERROR)
            elif kind in (b"t", b"b"):
                self._parts.append(content)
            else:
                self._queued -= MESSAGE_COST * len(self._parts)
                self._messages.append((b"".join((*self._parts, content)), kind == b"T"))
                self._parts.clear()
                self._arrived.set()
        elif kind == b"C" and len(content) == 4:
            self._under_way = max(0, self._under_way - int.from_bytes(content, "big"))
            if self._under_way <= WINDOW:
                self.blocked_since = 0.0
        elif kind == b"X":
            self._on_closed(content)
        else:
            self.close(CloseCode.INTERNAL_ERROR, CloseReason.INTERNAL_ERROR)

    def on_end(self) -> None:
        """Take notice that the stream has ended."""
        if self.reason is None:
            self._end(LOST)

    def _on_closed(self, content: bytes) -> None:
        reason = LOST
        with suppress(ValueError):
            self.code = CloseCode(int.from_bytes(content[:2], "big"))
            reason = CloseReason(content[2:].decode(errors="replace"))
        self._end(reason)
        if self._stream is not None:
            self._stream.end()

    def _put(self, data: bytes) -> None:
        if self.reason is None and (self._stream is None or not self._stream.send(data)):
            self._end(LOST)

    def _end(self, reason: CloseReason) -> None:
        self.reason = reason
        self._arrived.set()
        self.on_ended()


async def join(accepted: Channel, tunnel: TunnelChannel) -> None:
    """Pass the messages of two channels on to each other until one of them has ended, then close the other one."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(_pump(accepted, tunnel)), loop.create_task(_pump(tunnel, accepted))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if accepted.reason is None:
            accepted.close(tunnel.code, tunnel.reason or LOST)
        tunnel.close(CloseCode.NORMAL_CLOSURE, accepted.reason or LOST)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(source: Channel, target: Channel) -> None:
    with suppress(ChannelClosed):
        while True:
            payload, is_text = await source.receive()
            while target.blocked_since and target.reason is None:  # noqa: ASYNC110 (a full buffer tells nobody)
                await asyncio.sleep(POLL)
            if not target.send(payload, is_text):
                return
