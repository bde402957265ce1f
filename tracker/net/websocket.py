"""One WebSocket of the public port: frames to messages, control frames, time limits, bounded sending."""

import asyncio
from time import monotonic
from typing import Final, Protocol, cast

from websockets.exceptions import ProtocolError
from websockets.frames import Close, CloseCode

from tracker.access.gate import ConnectionInfo
from tracker.net.errors import FrameError
from tracker.net.frames import BINARY, CLOSE, PING, PONG, TEXT, FrameReader, frame
from tracker.reasons import CloseReason
from tracker.settings import Connections

CLOSE_TIMEOUT: Final = 5.0
"""Seconds for the other side to answer our close frame before its socket is cut."""

FAIL_TIMEOUT: Final = 2.0
"""The same for one that has broken the rules: it is not heard any more, and need not answer."""

MAX_WAITING: Final = 64
"""Messages that wait for the end of a turn; more go out before, and are seen by the limit of the send buffer."""

LARGE: Final = 16 * 1024
"""Bytes of a message that waits behind no other, for the same reason: 64 full scrapes would be very much."""

LAST_WORDS: Final = 1024
"""Bytes in one read of a client that has been closed for breaking the rules, beyond which it is not read any more."""

MAX_CONTROLS: Final = 100
"""Pings and pongs in one read: no client has a reason for more, and a thousand sockets full of them would be felt."""

_NORMAL: Final = Close(CloseCode.NORMAL_CLOSURE, "").serialize()
_PROTOCOL_ERROR: Final = Close(CloseCode.PROTOCOL_ERROR, "").serialize()


class Owner(Protocol):
    """What a WebSocket needs of the endpoint."""

    settings: Connections

    def connected(self, websocket: "WebSocket") -> None: ...
    def disconnected(self, websocket: "WebSocket", reason: CloseReason) -> None: ...
    def slow(self, websocket: "WebSocket") -> None: ...
    def schedule_flush(self, websocket: "WebSocket") -> None: ...


class WebSocket:
    """What clients and extensions' channels have in common.

    What is sent within one turn of the event loop goes out in one write, at its end: `flush` is the owner's to call.
    An `asyncio.Protocol` in all but name: compiled classes cannot have bases that are not.
    """

    __slots__ = (
        "_frames",
        "_waiting",
        "blocked_since",
        "close_deadline",
        "ipv6",
        "last_received",
        "owner",
        "ping_sent",
        "quota",
        "reason",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, owner: Owner, visit: ConnectionInfo) -> None:
        self.owner = owner
        self.quota = visit.quota
        self.ipv6 = ":" in visit.address
        self.last_received = monotonic()
        self.ping_sent = False
        self.blocked_since = 0.0
        self.close_deadline = 0.0
        self.reason: CloseReason | None = None
        """Why the connection ends; None while it is open."""
        self._frames: FrameReader | None = FrameReader(owner.settings.max_message_size)
        self._waiting: list[bytes] = []

    def on_message(self, payload: bytes, is_text: bool, now: float) -> None:
        """A whole message has come. A subclass says what happens."""
        raise NotImplementedError

    def on_closing(self) -> None:
        """No more messages will come, nor can any be sent. Called once, when the closing begins."""

    def send(self, data: bytes, is_text: bool = True) -> bool:
        """Send one message, or drop it if the other side does not keep up or is gone. Whether it was sent."""
        if self.reason is not None:
            return False
        if self.blocked_since:
            self.owner.slow(self)
            return False
        self._send(TEXT if is_text else BINARY, data)
        return True

    def close(self, code: CloseCode, reason: CloseReason) -> None:
        """Send a close frame; the socket ends when the other side answers, or soon after."""
        if self.reason is None:
            self._end(reason)
            self._send(CLOSE, Close(code, reason.value).serialize())

    def fail(self, code: CloseCode, reason: CloseReason) -> None:
        """Send a close frame to one that has broken the rules, and take no more of what it sends.

        To cut the socket now could cost it the close frame. That is left to the sweep, if it does not hang up itself.
        """
        self.close(code, reason)
        self.close_deadline = monotonic() + FAIL_TIMEOUT
        self.flush()
        self._frames = None
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()

    def abort(self, reason: CloseReason) -> None:
        """Cut the socket."""
        if self.reason is None:
            self._end(reason)
        self.transport.abort()

    def flush(self) -> None:
        """Write what waits."""
        waiting, self._waiting = self._waiting, []
        if waiting and not self.transport.is_closing():
            self.transport.write(b"".join(waiting))

    def sweep(self, now: float) -> None:
        """Do whatever is due at this time."""
        settings = self.owner.settings
        if self.reason is not None:
            if now > self.close_deadline:
                self.abort(self.reason)
            return
        silence = now - self.last_received
        if self.blocked_since and now - self.blocked_since > settings.stuck_timeout:
            self.abort(CloseReason.STUCK_RECEIVER)
        elif silence < settings.ping_interval:
            self.ping_sent = False
        elif not self.ping_sent:
            self.ping_sent = True
            self._send(PING, b"")
        elif silence > settings.ping_interval + settings.ping_timeout:
            self.abort(CloseReason.PING_TIMEOUT)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done."""
        self.transport = cast(asyncio.Transport, transport)
        # uvloop's and asyncio's default of 64 KiB would hold up offers that a busy client takes a moment later.
        self.transport.set_write_buffer_limits(high=self.owner.settings.send_buffer)
        self.owner.connected(self)

    def data_received(self, data: bytes) -> None:
        """Apply the messages that are complete with this."""
        frames = self._frames
        if frames is None:
            if len(data) > LAST_WORDS:
                # Not to read costs a flood nothing but its sender's memory.
                self.transport.pause_reading()
            return
        now = monotonic()
        controls = 0
        try:
            for opcode, payload in frames.receive(data):
                self.last_received = now
                if self.reason is not None:
                    # We have closed. What still comes is not for us, but for the answer to our close frame.
                    if self._frames is None:
                        break
                    if opcode == CLOSE:
                        self._hang_up()
                elif opcode < CLOSE:
                    self.on_message(payload, opcode == TEXT, now)
                elif opcode == CLOSE:
                    self._answer_close(payload)
                else:
                    controls += 1
                    if controls > MAX_CONTROLS:
                        self.fail(CloseCode.POLICY_VIOLATION, CloseReason.GARBAGE)
                    elif opcode == PING and not self.blocked_since:
                        # A client that pings but does not read must not fill its own send buffer.
                        self._send(PONG, payload)
        except FrameError as error:
            self.fail(
                error.code,
                CloseReason.TOO_BIG if error.code == CloseCode.MESSAGE_TOO_BIG else CloseReason.PROTOCOL_ERROR,
            )

    def eof_received(self) -> None:
        """The other side will send no more; the transport closes as soon as it has written what it has."""
        if self.reason is None:
            # That may take long, and the peers cannot be sent anything meanwhile.
            self._end(CloseReason.CONNECTION_LOST)
        self.flush()

    def connection_lost(self, _error: Exception | None) -> None:
        """The socket is gone."""
        reason = self.reason or CloseReason.CONNECTION_LOST
        try:
            if self.reason is None:
                self._end(reason)
        finally:
            self.owner.disconnected(self, reason)

    def pause_writing(self) -> None:
        """The send buffer is full."""
        self.blocked_since = monotonic()

    def resume_writing(self) -> None:
        """The send buffer has drained."""
        self.blocked_since = 0.0

    def _send(self, opcode: int, payload: bytes) -> None:
        waiting = self._waiting
        if not waiting:
            self.owner.schedule_flush(self)
        elif len(waiting) >= MAX_WAITING or len(payload) > LARGE:
            self.flush()
            waiting = self._waiting
        waiting.append(frame(opcode, payload))

    def _answer_close(self, payload: bytes) -> None:
        self._end(CloseReason.CLIENT_CLOSED)
        try:
            # An empty close frame has no code to return, and its stand-in must not be sent.
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
