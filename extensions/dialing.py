"""Safe dialing: resolve the URLs that other trackers give, and connect to allowed addresses only.

A stranger is any host that is known only from the network: its URL, and every address that its name resolves to, are
its own choice. Names are resolved in threads of this module, not in the event loop's pool: a name server that does
not answer can occupy a thread for minutes.
"""

import asyncio
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from extensions.trackers import is_url

TIMEOUT: Final = 10.0
"""Seconds until an attempt to resolve a name is given up."""

MAX_STRANGERS: Final = 16
"""Threads that resolve strangers' names at the same time; the next name waits until one of them ends."""

WEB_PORTS: Final = frozenset({80, 443})
"""The only ports below 1024 that a stranger's URL may name: the others belong to mail servers and the like."""

_UNICAST: Final = IPv6Network("2000::/3")
"""The global unicast addresses of IPv6. Addresses outside may lead to an IPv4 address, by NAT64 for instance."""


class ForbiddenAddress(Exception):
    """A URL, or every address of its name, is not allowed for a stranger."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL and the address to connect to: the name is resolved once, and never again when connecting."""

    url: str
    address: str
    port: int


class Resolver:
    """Resolves names for one owner. A trusted host never waits for strangers' names.

    All methods must be called in one event loop.
    """

    def __init__(self, max_strangers: int = MAX_STRANGERS) -> None:
        self._strangers = asyncio.Semaphore(max_strangers)
        self._running: dict[str, asyncio.Future[list[str]]] = {}

    async def resolve(self, url: str, trusted: bool) -> Target:
        """Return where to connect for a ws:// or wss:// URL.

        Only a trusted URL may be ws://, name any port, or lead to an address that is not public.

        Raises:
            ForbiddenAddress: The URL or all of its addresses are not allowed.
            OSError: The name cannot be resolved within `TIMEOUT` (then `TimeoutError`), or at all.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or (443 if parts.scheme == "wss" else 80)
        except ValueError:
            raise ForbiddenAddress from None
        if not host or not is_url(url):
            raise ForbiddenAddress
        if not trusted and (parts.scheme != "wss" or (port < 1024 and port not in WEB_PORTS)):
            raise ForbiddenAddress
        try:
            async with asyncio.timeout(TIMEOUT):
                addresses = await self._lookup(host, trusted)
        except ValueError as error:
            # It is no name, for instance because a part of it is too long.
            raise OSError(str(error)) from None
        allowed = addresses if trusted else [address for address in addresses if is_public(address)]
        if not allowed:
            raise ForbiddenAddress
        return Target(url, allowed[0], port)

    async def _lookup(self, host: str, trusted: bool) -> list[str]:
        if (numeric := _numeric(host)) is not None:
            # It needs no thread, so it must not wait for one.
            return [numeric]
        if not trusted and host not in self._running:
            await self._strangers.acquire()
            if host in self._running:
                self._strangers.release()
            else:
                # The place is free again when the thread ends, which may be long after the caller has given up.
                self._start(host).add_done_callback(lambda _: self._strangers.release())
        return await asyncio.shield(self._running.get(host) or self._start(host))

    def _start(self, host: str) -> asyncio.Future[list[str]]:
        running = self._running[host] = lookup(host)

        def finish(done: asyncio.Future[list[str]]) -> None:
            del self._running[host]
            if not done.cancelled():
                # Look at it, because every caller may have given up, and asyncio logs errors that nothing looks at.
                done.exception()

        running.add_done_callback(finish)
        return running


def lookup(host: str) -> asyncio.Future[list[str]]:
    """Return the addresses of a name, or of a numeric address that address; a name is resolved in a new thread.

    The future fails with `OSError` if the name is unknown or no thread can be started, and with `ValueError`
    (`UnicodeError`) if it is no name.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()
    if (numeric := _numeric(host)) is not None:
        answer.set_result([numeric])
        return answer
    try:
        threading.Thread(target=_resolve, args=(host, loop, answer), name="resolver", daemon=True).start()
    except RuntimeError as error:
        # The system has no room for a thread now. The caller tries again, as if the name server had failed.
        answer.set_exception(OSError(str(error)))
    return answer


def _numeric(host: str) -> str | None:
    """Return the usual form of a numeric address, or None if the text is none."""
    try:
        return str(ip_address(host))
    except ValueError:
        return None


def _resolve(host: str, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[list[str]]) -> None:
    addresses: list[str] = []
    failure: Exception | None = None
    try:
        infos: list[Any] = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        addresses = [str(info[4][0]) for info in infos]
    except Exception as error:
        failure = error

    def finish() -> None:
        if answer.done():
            return
        if failure:
            answer.set_exception(failure)
        else:
            answer.set_result(addresses)

    # The loop may have been closed in the meantime.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(finish)


@lru_cache(8192)
def is_public(host: str) -> bool:
    """Return whether a text is the numeric address of one host of the public network.

    False also for addresses that contain another address, which a gateway may connect to (NAT64, 6to4, Teredo).
    """
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and (address not in _UNICAST or address.sixtofour or address.teredo):
        return False
    return address.is_global and not address.is_multicast


@lru_cache(8192)
def network_of(host: str, ipv4_bits: int, ipv6_bits: int = 64) -> str:
    """Return, in hexadecimal, the network of a numeric address: its first bits, whole octets.

    64 in IPv6, because no customer of a provider has fewer addresses than a /64.
    """
    address = ip_address(host)
    octets = (ipv6_bits if isinstance(address, IPv6Address) else ipv4_bits) // 8
    return address.packed[:octets].hex()
