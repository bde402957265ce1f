"""Dials other trackers. Their URLs come from strangers, and must not make us reach into private networks."""

import asyncio
import ssl
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from extensions.dialing import Target
from extensions.federation.limits import STUCK_AFTER
from extensions.federation.reasons import Fault
from extensions.federation.session import LinkError
from extensions.federation.wire import MAX_FRAME

SUBPROTOCOL: Final = Subprotocol("peerservers.federation.1")
TIMEOUT: Final = 10.0
"""Seconds until an attempt to connect is given up."""


async def dial(target: Target) -> ClientConnection:
    """A WebSocket to a tracker, with the certificate checked for the URL's name. Raises `LinkError`."""
    try:
        socket = await _Connect(
            target.url,
            host=target.address,
            port=target.port,
            subprotocols=[SUBPROTOCOL],
            compression=None,
            proxy=None,
            open_timeout=TIMEOUT,
            ping_interval=20,
            ping_timeout=20,
            close_timeout=2,
            max_size=MAX_FRAME,
            max_queue=16,
            user_agent_header="Peerservers",
        )
    except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed, ssl.SSLError, ValueError) as error:
        raise LinkError(Fault.UNREACHABLE, str(error) or type(error).__name__) from None
    if socket.subprotocol != SUBPROTOCOL:
        # A tracker, perhaps, but none that federates.
        await socket.close()
        raise LinkError(Fault.REFUSED, "it speaks no federation")
    return socket


class _Connect(connect):
    def process_redirect(self, exc: Exception) -> Exception | str:
        """A redirect would be a stranger's order to connect elsewhere."""
        return exc


class Dialed:
    """A dialed WebSocket as a link's transport."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def receive(self) -> bytes:
        try:
            frame = await self._socket.recv()
        except ConnectionClosed as error:
            raise LinkError(Fault.LOST, error.rcvd.reason if error.rcvd else "") from None
        if not isinstance(frame, str):
            raise LinkError(Fault.INVALID_MESSAGE)
        return frame.encode()

    async def send(self, frame: bytes) -> None:
        try:
            async with asyncio.timeout(STUCK_AFTER):
                await self._socket.send(frame, text=True)
        except ConnectionClosed:
            raise LinkError(Fault.LOST) from None
        except TimeoutError:
            raise LinkError(Fault.STUCK) from None

    async def close(self) -> None:
        await self._socket.close()
