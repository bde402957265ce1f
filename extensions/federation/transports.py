"""The two kinds of WebSocket under a link: accepted by this tracker's server, and dialed by this tracker."""

import asyncio
import os
import ssl
from typing import Any, Final, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.frames import CloseCode
from websockets.protocol import State
from websockets.typing import Subprotocol

from extensions.dialing import ForbiddenAddress, Resolver, Target
from extensions.federation import wire
from extensions.federation.handshake import LinkError
from extensions.federation.limits import STUCK_AFTER
from extensions.federation.reasons import NO_FEDERATION, EndReason
from extensions.federation.wire import MAX_FRAME
from tracker.extension import Channel, ChannelClosed, CloseReason, share_tls_buffer

SUBPROTOCOL: Final = Subprotocol("peerservers.federation.1")
TIMEOUT: Final = 10.0
"""Seconds until an attempt to connect is given up."""

PING_INTERVAL: Final = 20.0
PING_TIMEOUT: Final = 20.0
"""Seconds between two pings to a dialed tracker, and until one must be answered."""

SLOW_POLL: Final = 0.05
"""Seconds until an accepted WebSocket whose send buffer is full is tried again."""


class Transport(Protocol):
    """Carries the frames of a link: text in UTF-8, in order. Implementations inherit from this class.

    `receive` and `send` raise `LinkError` when the connection has ended. `send` also raises it if a frame is not
    accepted within `STUCK_AFTER` seconds, `receive` also if a frame is binary or longer than `MAX_FRAME`.
    """

    async def receive(self) -> bytes:
        """Return the next frame."""
        ...

    async def send(self, frame: bytes) -> None:
        """Send a frame; wait until there is room for it in the send buffer."""
        ...

    async def close(self) -> None:
        """Close the WebSocket."""
        ...


class Accepted(Transport):
    """A WebSocket that the other tracker has dialed."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def receive(self) -> bytes:
        try:
            frame, is_text = await self._channel.receive()
        except ChannelClosed:
            too_big = self._channel.reason is CloseReason.TOO_BIG
            raise LinkError(EndReason.INVALID_MESSAGE if too_big else EndReason.LOST) from None
        if not is_text or len(frame) > MAX_FRAME:
            raise LinkError(EndReason.INVALID_MESSAGE)
        return frame

    async def send(self, frame: bytes) -> None:
        waited = 0.0
        # While its send buffer is full, the channel would drop the frame and count it as dropped.
        while self._channel.blocked_since and self._channel.reason is None:
            if waited > STUCK_AFTER:
                raise LinkError(EndReason.STUCK)
            await asyncio.sleep(SLOW_POLL)
            waited += SLOW_POLL
        if not self._channel.send(frame):
            raise LinkError(EndReason.LOST)

    async def close(self) -> None:
        self._channel.close(CloseCode.NORMAL_CLOSURE, CloseReason.CLOSED_BY_EXTENSION)


class Dialed(Transport):
    """A WebSocket that this tracker has dialed."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def receive(self) -> bytes:
        try:
            frame = await self._socket.recv()
        except ConnectionClosed as error:
            if error.sent and error.sent.code in _RULE_BREAKS and not error.rcvd_then_sent:
                raise LinkError(EndReason.INVALID_MESSAGE) from None
            raise LinkError(EndReason.LOST, error.rcvd.reason if error.rcvd else "") from None
        if not isinstance(frame, str):
            raise LinkError(EndReason.INVALID_MESSAGE)
        return frame.encode()

    async def send(self, frame: bytes) -> None:
        try:
            async with asyncio.timeout(STUCK_AFTER):
                await self._socket.send(frame, text=True)
        except ConnectionClosed:
            raise LinkError(EndReason.LOST) from None
        except TimeoutError:
            raise LinkError(EndReason.STUCK) from None

    async def close(self) -> None:
        await self._socket.close()


class Dialer:
    """Connects to trackers by their URLs."""

    def __init__(self) -> None:
        self._resolver = Resolver()

    async def connect(self, url: str, trusted: bool) -> Dialed:
        """Connect to a URL. Raise `LinkError` if that fails, or if the URL or its addresses are not allowed."""
        try:
            target = await self._resolver.resolve(url, trusted)
        except ForbiddenAddress:
            raise LinkError(EndReason.FORBIDDEN_ADDRESS) from None
        except OSError as error:
            raise LinkError(EndReason.UNREACHABLE, words_of(error)) from None
        return Dialed(await dial(target))


async def dial(target: Target) -> ClientConnection:
    """Connect to a tracker and return the WebSocket. The certificate must be valid for the name in the URL.

    Raises `LinkError` if no WebSocket with the subprotocol comes about.
    """
    try:
        socket = await _Connect(
            target.url,
            host=target.address,
            port=target.port,
            create_connection=_Connection,
            subprotocols=[SUBPROTOCOL],
            compression=None,
            proxy=None,
            open_timeout=TIMEOUT,
            ping_interval=PING_INTERVAL,
            ping_timeout=PING_TIMEOUT,
            close_timeout=2,
            max_size=MAX_FRAME,
            max_queue=16,
            user_agent_header="Peerservers",
        )
    except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed, ssl.SSLError, ValueError) as error:
        raise LinkError(EndReason.UNREACHABLE, words_of(error)) from None
    if socket.subprotocol != SUBPROTOCOL:
        # It may be a tracker, but not one that federates.
        await socket.close()
        raise LinkError(EndReason.REFUSED, NO_FEDERATION)
    share_tls_buffer(socket.transport)
    return socket


def words_of(error: Exception) -> str:
    """Return why a connection failed, for people, and without the address that was tried."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {str(error.reason).replace('_', ' ').lower()}"
    if isinstance(error, TimeoutError) and not str(error):
        return "timed out"
    if isinstance(error, OSError) and error.errno is not None:
        # Numbers below 0 are those of name servers.
        return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return str(error) or type(error).__name__


_RULE_BREAKS: Final = frozenset({CloseCode.MESSAGE_TOO_BIG, CloseCode.INVALID_DATA})
"""The close codes of `websockets` for a frame that is too long, and for a text frame that is not valid UTF-8."""


class _Connect(connect):
    def process_redirect(self, exc: Exception) -> Exception | str:
        """Follow no redirect: the other tracker must not choose where this tracker connects."""
        return exc


class _Connection(ClientConnection):
    """A connection that sends `bye` before `websockets` closes it because of a frame that breaks the rules."""

    def __init__(self, protocol: ClientProtocol, **options: Any) -> None:
        super().__init__(protocol, **options)
        fail = protocol.fail

        def fail_with_bye(code: CloseCode | int, reason: str = "") -> None:
            if code in _RULE_BREAKS and protocol.state is State.OPEN and protocol.subprotocol == SUBPROTOCOL:
                protocol.send_text(wire.encode(wire.Bye(EndReason.INVALID_MESSAGE.value)))
            fail(code, reason)

        protocol.fail = fail_with_bye  # type: ignore[method-assign]
