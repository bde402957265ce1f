"""One WebSocket: frames to messages, control frames, time limits, bounded sending (RFC 6455)."""

import asyncio
from collections.abc import Iterator
from itertools import chain
from time import monotonic
from typing import Final, Protocol, cast

from websockets.exceptions import ProtocolError
from websockets.frames import Close, CloseCode

from tracker.access.gate import ConnectionInfo
from tracker.net.deflate import Deflate
from tracker.net.errors import FrameError
from tracker.net.frames import BINARY, CLOSE, COMPRESSED, PING, PONG, TEXT, FrameReader, frame
from tracker.reasons import CloseReason
from tracker.settings import Connections

CLOSE_TIMEOUT: Final = 5.0
"""Seconds for the other side to answer a close frame before its socket is aborted."""

FAIL_TIMEOUT: Final = 2.0
"""The same for a failed connection: its input is ignored, so it need not answer."""

MAX_BUFFERED: Final = 64
"""Messages buffered until the end of a turn. More are flushed before, so that the limit of the send buffer holds."""

LARGE: Final = 16 * 1024
"""Bytes of a message that is not buffered behind others, for the same reason: 64 full scrapes are many megabytes."""

MAX_IGNORED: Final = 1024
"""Bytes in one read of a failed connection beyond which it is not read any more."""

MAX_CONTROLS: Final = 100
"""Pings and pongs in one read: no client has a reason for more, and a thousand sockets full of them cost much CPU."""

_NORMAL: Final = Close(CloseCode.NORMAL_CLOSURE, "").serialize()
_PROTOCOL_ERROR: Final = Close(CloseCode.PROTOCOL_ERROR, "").serialize()


class Owner(Protocol):
    """The endpoint, as its WebSockets see it."""

    settings: Connections

    def on_open(self, websocket: "WebSocket") -> None:
        """Take notice that the WebSocket is open."""

    def on_closed(self, websocket: "WebSocket", reason: CloseReason) -> None:
        """Take notice that the WebSocket has ended."""

    def on_message_dropped(self) -> None:
        """Take notice that a message was dropped because its receiver is slow."""

    def schedule_flush(self, websocket: "WebSocket") -> None:
        """Call `websocket.flush` at the end of this turn of the event loop."""


class WebSocket:
    """The server's side of a WebSocket. Subclasses define `on_message`.

    Messages that are sent within one turn of the event loop go out in one write, at its end, when the owner calls
    `flush`. The class has the methods of an `asyncio.Protocol` but does not derive from it, because the bases of a
    compiled class must be compiled, too.
    """

    __slots__ = (
        "_buffered",
        "_deflate",
        "_frames",
        "_unread",
        "blocked_since",
        "close_deadline",
        "ipv6",
        "is_held",
        "last_received",
        "owner",
        "ping_sent",
        "quota",
        "reason",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, owner: Owner, info: ConnectionInfo) -> None:
        self.owner = owner
        self.quota = info.quota
        self.ipv6 = ":" in info.address
        self.last_received = monotonic()
        self.ping_sent = False
        self.blocked_since = 0.0
        self.close_deadline = 0.0
        self.reason: CloseReason | None = None
        """Why the connection ends; None while it is open."""
        self.is_held = False
        """Whether no messages are read for now."""
        self._unread: Iterator[tuple[int, bytes]] | None = None
        self._frames: FrameReader | None = FrameReader(owner.settings.max_message_size)
        self._buffered: list[bytes] = []
        self._deflate: Deflate | None = None

    def use_deflate(self, deflate: Deflate) -> None:
        """Inflate the messages that the client compresses, and compress large ones; the handshake has agreed on it."""
        self._deflate = deflate
        assert self._frames is not None
        self._frames.deflate = deflate

    def take_compressed(self) -> int:
        """Return the compressed bytes of the message that has just come; 0 if it was not compressed."""
        frames = self._frames
        if frames is None or not frames.compressed:
            return 0
        compressed, frames.compressed = frames.compressed, 0
        return compressed

    def on_message(self, payload: bytes, is_text: bool, now: float) -> None:
        """Handle one message; `now` is the monotonic time in seconds."""
        raise NotImplementedError

    def on_controls(self, count: int, now: float) -> None:
        """Take notice of pings and pongs that came together; `now` is the monotonic time in seconds."""

    def on_closing(self) -> None:
        """Take notice, once, that the closing has begun: no message will come any more, and none can be sent."""

    def send(self, data: bytes, is_text: bool = True) -> bool:
        """Send one message; return whether it was sent. It is dropped if the other side is slow or gone."""
        if self.reason is not None:
            return False
        if self.blocked_since:
            self.owner.on_message_dropped()
            return False
        opcode = TEXT if is_text else BINARY
        deflate = self._deflate
        if deflate is not None and len(data) >= deflate.min_size:
            opcode |= COMPRESSED
            data = deflate.compress(data)
        self._send(opcode, data)
        return True

    def ping(self) -> None:
        """Send a ping, which the other side answers at once if it is alive (RFC 6455, section 5.5.2)."""
        if self.reason is None and not self.blocked_since:
            self._send(PING, b"")

    def close(self, code: CloseCode, reason: CloseReason) -> None:
        """Start the closing handshake (RFC 6455, section 7.1.2), which may take `CLOSE_TIMEOUT` seconds."""
        if self.reason is None:
            self._end(reason)
            self._send(CLOSE, Close(code, reason.value).serialize())

    def fail(self, code: CloseCode, reason: CloseReason) -> None:
        """Fail the connection (RFC 6455, section 7.1.7): send a close frame and ignore further input.

        The socket is not aborted at once, because the close frame could then be lost. The sweep aborts it after
        `FAIL_TIMEOUT` if the other side does not close it.
        """
        self.close(code, reason)
        self.close_deadline = monotonic() + FAIL_TIMEOUT
        self.flush()
        self._frames = None
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()

    def abort(self, reason: CloseReason) -> None:
        """Abort the socket."""
        if self.reason is None:
            self._end(reason)
        self.transport.abort()

    def hold(self, seconds: float) -> None:
        """Read no messages for some time. The other side then keeps those that it sends (backpressure)."""
        if not self.is_held and self.reason is None:
            self.is_held = True
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(seconds, self._release)

    def flush(self) -> None:
        """Write the buffered messages."""
        buffered, self._buffered = self._buffered, []
        if buffered and not self.transport.is_closing():
            self.transport.write(b"".join(buffered))

    def sweep(self, now: float) -> None:
        """Apply the time limits: ping a silent client, abort a dead or stuck one."""
        settings = self.owner.settings
        if self.reason is not None:
            if now > self.close_deadline:
                self.abort(self.reason)
            return
        silence = now - self.last_received
        if self.blocked_since and now - self.blocked_since > settings.stuck_timeout:
            self.abort(CloseReason.STUCK_RECEIVER)
        elif silence < settings.ping_interval or self.is_held:
            self.ping_sent = False
        elif not self.ping_sent:
            self.ping_sent = True
            self._send(PING, b"")
        elif silence > settings.ping_interval + settings.ping_timeout:
            self.abort(CloseReason.PING_TIMEOUT)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to serve the socket; the opening handshake is done."""
        self.transport = cast(asyncio.Transport, transport)
        # With the default of uvloop and asyncio, 64 KiB, a client that is busy for a moment would lose offers.
        self.transport.set_write_buffer_limits(high=self.owner.settings.send_buffer)
        self.owner.on_open(self)

    def data_received(self, data: bytes) -> None:
        """Handle the messages that this data completes."""
        frames = self._frames
        if frames is None:
            if len(data) > MAX_IGNORED:
                # A flood that is not read costs only its sender's memory.
                self.transport.pause_reading()
            return
        messages = frames.receive(data)
        if self._unread is not None:
            messages = chain(self._unread, messages)
        if self.is_held:
            self._unread = messages
        else:
            self._receive(messages)

    def _receive(self, messages: Iterator[tuple[int, bytes]]) -> None:
        """Handle messages and control frames, or keep the rest if the connection is held meanwhile."""
        now = monotonic()
        controls = 0
        try:
            for opcode, payload in messages:
                self.last_received = now
                if self.reason is not None:
                    # After our close frame, only the other side's close frame matters.
                    if self._frames is None:
                        break
                    if opcode == CLOSE:
                        self._hang_up()
                elif opcode < CLOSE:
                    self.on_message(payload, opcode == TEXT, now)
                    if self.is_held:
                        self._unread = messages
                        break
                elif opcode == CLOSE:
                    self._answer_close(payload)
                else:
                    controls += 1
                    if controls > MAX_CONTROLS:
                        self.fail(CloseCode.POLICY_VIOLATION, CloseReason.GARBAGE)
                    elif opcode == PING and not self.blocked_since:
                        # A client that sends pings but does not read must not fill its send buffer.
                        self._send(PONG, payload)
        except FrameError as error:
            self.fail(
                error.code,
                CloseReason.TOO_BIG if error.code == CloseCode.MESSAGE_TOO_BIG else CloseReason.PROTOCOL_ERROR,
            )
        if controls:
            self.on_controls(controls, now)

    def eof_received(self) -> None:
        """End the connection, because the other side sends no more; the transport closes when its buffer is written."""
        if self.reason is None:
            # Writing may take long, and meanwhile nothing can be sent to the peers.
            self._end(CloseReason.CONNECTION_LOST)
        self.flush()

    def connection_lost(self, _error: Exception | None) -> None:
        """Tell the owner that the socket is gone."""
        reason = self.reason or CloseReason.CONNECTION_LOST
        try:
            if self.reason is None:
                self._end(reason)
        finally:
            self.owner.on_closed(self, reason)

    def pause_writing(self) -> None:
        """Note that the send buffer is full."""
        self.blocked_since = monotonic()

    def resume_writing(self) -> None:
        """Note that the send buffer has drained."""
        self.blocked_since = 0.0

    def _release(self) -> None:
        """Read messages again."""
        self.is_held = False
        unread, self._unread = self._unread, None
        if unread is not None and self._frames is not None:
            self._receive(unread)
        if not self.is_held and not self.transport.is_closing():
            self.transport.resume_reading()

    def _send(self, opcode: int, payload: bytes) -> None:
        buffered = self._buffered
        if not buffered:
            self.owner.schedule_flush(self)
        elif len(buffered) >= MAX_BUFFERED or len(payload) > LARGE:
            self.flush()
            buffered = self._buffered
        buffered.append(frame(opcode, payload))

    def _answer_close(self, payload: bytes) -> None:
        self._end(CloseReason.CLIENT_CLOSED)
        try:
            # An empty close frame has no code to return, and code 1005 must not be sent (RFC 6455, section 7.4.1).
            answer = payload[:2] if Close.parse(payload).code != CloseCode.NO_STATUS_RCVD else _NORMAL
        except (ProtocolError, UnicodeDecodeError):
            answer = _PROTOCOL_ERROR
        self._send(CLOSE, answer)
        self._hang_up()

    def _hang_up(self) -> None:
        self.flush()
        self.transport.close()

    def _end(self, reason: CloseReason) -> None:
        self.reason = reason
        self.close_deadline = monotonic() + CLOSE_TIMEOUT
        self.on_closing()
