"""One WebSocket of the public port: frames to messages, control frames, time limits, bounded sending.

It is picows' listener, called once per frame. Frames are not messages: this reassembles them.
"""

from time import monotonic
from typing import Any, Final, Protocol

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from tracker.door import Visit
from tracker.reasons import Reason
from tracker.settings import Connections

CLOSE_TIMEOUT: Final = 5.0
"""Seconds for the other side to answer our close frame before its socket is cut."""

MAX_FRAGMENTS: Final = 1024
"""Frames of one message: without a limit, empty ones could go on for ever."""

_COPY_LIMIT: Final = 8192
"""Above this many bytes picows' `send` queues a view of a buffer that its next call overwrites."""
_HEADROOM: Final = bytes(14)
"""What picows needs in front of a payload that it sends in place."""

_TEXT: Final = WSMsgType.TEXT
_BINARY: Final = WSMsgType.BINARY
_CONTINUATION: Final = WSMsgType.CONTINUATION
_PING: Final = WSMsgType.PING
_CLOSE: Final = WSMsgType.CLOSE

_NO_HEADERS: Any = {}


class Owner(Protocol):
    """What a WebSocket needs of the endpoint."""

    settings: Connections

    def connected(self, websocket: "WebSocket") -> None: ...
    def disconnected(self, websocket: "WebSocket", reason: Reason) -> None: ...
    def slow(self, websocket: "WebSocket") -> None: ...


class WebSocket(WSListener):
    """What clients and extensions' channels have in common."""

    __slots__ = (
        "blocked_since",
        "close_by",
        "fragments",
        "heard",
        "ipv6",
        "owner",
        "pinged",
        "quota",
        "reason",
        "transport",
    )

    transport: WSTransport

    def __init__(self, owner: Owner, visit: Visit) -> None:
        self.owner = owner
        self.quota = visit.quota
        self.ipv6 = ":" in visit.address
        self.heard = monotonic()
        self.pinged = False
        self.blocked_since = 0.0
        self.close_by = 0.0
        self.fragments: _Fragments | None = None
        self.reason: Reason | None = None
        """Why the connection ends; None while it is open."""

    def received(self, payload: bytes, is_text: bool, now: float) -> None:
        """A whole message has come. A subclass says what happens."""
        raise NotImplementedError

    def ended(self) -> None:
        """No more messages will come, nor can any be sent. Called once, when the closing begins."""

    def send(self, data: bytes, is_text: bool = True) -> bool:
        """Send one message, or drop it if the other side does not keep up or is gone. Whether it was sent."""
        if self.reason is not None:
            return False
        if self.blocked_since:
            self.owner.slow(self)
            return False
        kind = _TEXT if is_text else _BINARY
        if len(data) <= _COPY_LIMIT:
            self.transport.send(kind, data)
        else:
            self.transport.send_reuse_external_bytearray(kind, bytearray(_HEADROOM + data), len(_HEADROOM))
        return True

    def close(self, code: WSCloseCode, reason: Reason) -> None:
        """Send a close frame; the socket ends when the other side answers, or soon after."""
        if self.reason is None:
            self._end(reason)
            self.transport.send_close(code, reason.value)

    def abort(self, reason: Reason) -> None:
        """Cut the socket."""
        if self.reason is None:
            self._end(reason)
        self.transport.disconnect(graceful=False)

    def sweep(self, now: float) -> None:
        """Do whatever is due at this time."""
        settings = self.owner.settings
        if self.reason is not None:
            if now > self.close_by:
                self.abort(self.reason)
            return
        silence = now - self.heard
        if self.blocked_since and now - self.blocked_since > settings.stuck_timeout:
            self.abort(Reason.STUCK_RECEIVER)
        elif silence < settings.ping_interval:
            self.pinged = False
        elif not self.pinged:
            self.pinged = True
            self.transport.send_ping()
        elif silence > settings.ping_interval + settings.ping_timeout:
            self.abort(Reason.PING_TIMEOUT)

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The handshake is done."""
        self.transport = transport
        # uvloop's and asyncio's default of 64 KiB would hold up offers that a busy client takes a moment later.
        transport.underlying_transport.set_write_buffer_limits(high=self.owner.settings.send_buffer)
        # The handshake's headers would stay in memory as long as the connection.
        transport.request.headers = transport.response.headers = _NO_HEADERS
        self.owner.connected(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """A frame has come: a message, a part of one, or control."""
        self.heard = now = monotonic()
        kind = frame.msg_type
        if self.reason is not None:
            # We have closed. What still comes is not for us, but for the answer to our close frame.
            if kind == _CLOSE:
                transport.disconnect()
        elif frame.rsv1 or frame.rsv2 or frame.rsv3:
            self.close(WSCloseCode.PROTOCOL_ERROR, Reason.PROTOCOL_ERROR)
        elif kind == _TEXT and frame.fin and self.fragments is None:
            self.received(frame.get_payload_as_bytes(), True, now)
        elif kind == _PING:
            # A client that pings but does not read must not fill its own send buffer.
            if not self.blocked_since:
                transport.send_pong(frame.get_payload_as_bytes())
        elif kind == _CLOSE:
            self._end(Reason.CLIENT_CLOSED)
            # An empty close frame has no code to return, and its stand-in must not be sent.
            code = frame.get_close_code()
            transport.send_close(WSCloseCode.OK if code == WSCloseCode.NO_INFO else code)
            transport.disconnect()
        elif kind in (_TEXT, _BINARY, _CONTINUATION):
            self._fragment(frame, now)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The socket is gone."""
        reason = self.reason
        try:
            if reason is None:
                sent = transport.close_handshake.sent if transport.close_handshake else None
                # A close frame that we know nothing of was picows' own.
                if sent is None:
                    reason = Reason.CONNECTION_LOST
                elif sent.code == WSCloseCode.MESSAGE_TOO_BIG:
                    reason = Reason.TOO_BIG
                else:
                    reason = Reason.PROTOCOL_ERROR
                self._end(reason)
        finally:
            self.owner.disconnected(self, reason or Reason.INTERNAL_ERROR)

    def pause_writing(self) -> None:
        """The send buffer is full."""
        self.blocked_since = monotonic()

    def resume_writing(self) -> None:
        """The send buffer has drained."""
        self.blocked_since = 0.0

    def _end(self, reason: Reason) -> None:
        self.reason = reason
        self.close_by = monotonic() + CLOSE_TIMEOUT
        self.fragments = None
        self.ended()

    def _fragment(self, frame: WSFrame, now: float) -> None:
        kind = frame.msg_type
        if (kind == _CONTINUATION) == (self.fragments is None):
            self.close(WSCloseCode.PROTOCOL_ERROR, Reason.PROTOCOL_ERROR)
            return
        fragments = self.fragments = self.fragments or _Fragments(kind == _TEXT)
        fragments.size += frame.payload_size
        fragments.parts.append(frame.get_payload_as_bytes())
        if fragments.size > self.owner.settings.max_message_size or len(fragments.parts) > MAX_FRAGMENTS:
            self.close(WSCloseCode.MESSAGE_TOO_BIG, Reason.TOO_BIG)
        elif frame.fin:
            self.fragments = None
            self.received(b"".join(fragments.parts), fragments.is_text, now)


class _Fragments:
    """A message that comes in several frames."""

    __slots__ = ("is_text", "parts", "size")

    def __init__(self, is_text: bool) -> None:
        self.is_text = is_text
        self.parts: list[bytes] = []
        self.size = 0
