"""Dials other trackers. Their URLs come from strangers, and must not make us reach into private networks."""

import asyncio
import socket
import ssl
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from extensions.dialing import is_public
from extensions.federation.limits import STUCK_AFTER
from extensions.federation.reasons import Fault
from extensions.federation.session import LinkError
from extensions.federation.wire import MAX_FRAME
from extensions.trackers import is_url

SUBPROTOCOL: Final = Subprotocol("peerservers.federation.1")
TIMEOUT: Final = 10.0
"""Seconds for resolving, and for connecting."""

WEB_PORTS: Final = frozenset({80, 443})
"""The only ports below 1024 that strangers may name: a tracker has no business with a mail server."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL led to: an address, looked up once, that is then connected to."""

    url: str
    address: str
    port: int


async def resolve(url: str, trusted: bool) -> Target:
    """Where to connect for a URL; only a trusted one may be ws:// or lead to a private address. Raises `LinkError`."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "wss" else 80)
    except ValueError:
        raise LinkError(Fault.FORBIDDEN_ADDRESS) from None
    if (
        not host
        or not is_url(url)
        or (not trusted and (parts.scheme != "wss" or (port < 1024 and port not in WEB_PORTS)))
    ):
        raise LinkError(Fault.FORBIDDEN_ADDRESS)
    try:
        async with asyncio.timeout(TIMEOUT):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError) as error:
        raise LinkError(Fault.UNREACHABLE, str(error)) from None
    addresses = [str(info[4][0]) for info in found]
    allowed = addresses if trusted else [address for address in addresses if is_public(address)]
    if not allowed:
        raise LinkError(Fault.FORBIDDEN_ADDRESS)
    return Target(url, allowed[0], port)


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
