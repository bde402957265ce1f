"""Names to addresses, by threads that nobody has to wait for: the system's resolver may be stuck for minutes."""

import asyncio
import socket
import threading
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from extensions.dht.krpc.messages import Address


async def resolve(host: str, port: int) -> list[Address]:
    """The addresses of a name, or the address if it is one. Raises `OSError`; `UnicodeError` for what is no name."""
    try:
        return [(str(ip_address(host)), port)]
    except ValueError:
        pass
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Any]] = loop.create_future()

    def give(infos: list[Any], error: Exception | None) -> None:
        if answer.done():
            return
        if error:
            answer.set_exception(error)
        else:
            answer.set_result(infos)

    def ask() -> None:
        infos: list[Any] = []
        fault: Exception | None = None
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except Exception as error:
            fault = error
        # The loop may have ended long since.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(give, infos, fault)

    threading.Thread(target=ask, name="dht-resolver", daemon=True).start()
    return [(str(info[4][0]), port) for info in await answer]
