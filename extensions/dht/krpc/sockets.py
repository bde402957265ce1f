"""UDP sockets on free ports."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import structlog

from extensions.dht.krpc.messages import Address

OnDatagram = Callable[[bytes, Address], None]


def family_of(host: str) -> int:
    """Return the address family (4 or 6) of an IP address."""
    return 6 if ":" in host else 4


async def open_socket(loop: asyncio.AbstractEventLoop, host: str, on_datagram: OnDatagram) -> asyncio.DatagramTransport:
    """Open a socket at an address; "::" stands for all of IPv6, and not for IPv4. Raises `OSError`."""
    if host != "::":
        transport, _ = await loop.create_datagram_endpoint(lambda: _Receiver(on_datagram), local_addr=(host, 0))
        return transport
    # By default the system would make it a socket for IPv4, too, which has a socket of its own.
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, 0))
        transport, _ = await loop.create_datagram_endpoint(lambda: _Receiver(on_datagram), sock=sock)
    except BaseException:
        sock.close()
        raise
    return transport


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, on_datagram: OnDatagram) -> None:
        self._on_datagram = on_datagram

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        try:
            self._on_datagram(data, (addr[0], addr[1]))
        except Exception:
            structlog.get_logger().exception("dht_message_failed")

    def error_received(self, exc: Exception) -> None:
        """Ignore ICMP messages and failed sends: the query's timeout covers them."""
