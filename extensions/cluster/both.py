"""Routes messages over two transports: to nodes of this machine over Unix-domain sockets, to all others over NATS."""

import asyncio
from collections import Counter
from collections.abc import Callable

from extensions.cluster.envelope import sender_of
from extensions.cluster.nats import Nats
from extensions.cluster.transport import Transport
from extensions.cluster.troubles import Trouble
from extensions.cluster.unix import UnixSockets


class Both(Transport):
    """The transport of a worker in a cluster of several machines.

    Broadcasts go both ways: those of nodes of this machine that come over NATS, too, are ignored. While a node of this
    machine has no connection here yet, it is reached over NATS. All messages carry a MAC, because it is made before the
    route is chosen.
    """

    def __init__(self, sockets: UnixSockets, nats: Nats) -> None:
        self.sockets = sockets
        self.nats = nats
        self.max_payload: int = min(sockets.max_payload, nats.max_payload)
        self.needs_mac: bool = True
        self._receive: Callable[[bytes], None] | None = None
        self._connected: Callable[[bool], None] | None = None

    @property
    def troubles(self) -> Counter[Trouble]:
        """The troubles of both transports."""
        return self.sockets.troubles + self.nats.troubles

    async def start(
        self,
        node_id: str,
        receive: Callable[[bytes], None],
        lost: Callable[[str], None],
        connected: Callable[[bool], None],
    ) -> None:
        self._receive, self._connected = receive, connected
        await self.sockets.start(node_id, receive, lost, lambda _: None)
        await self.nats.start(node_id, self._on_message, lost, self._on_connected)

    async def stop(self) -> None:
        await asyncio.gather(self.sockets.stop(), self.nats.stop())

    def send(self, to: str, payload: bytes) -> bool:
        transport: Transport = self.sockets if self.sockets.reaches(to) else self.nats
        return transport.send(to, payload)

    def broadcast(self, payload: bytes) -> None:
        self.sockets.broadcast(payload)
        self.nats.broadcast(payload)

    def pending(self, to: str) -> int:
        return self.sockets.pending(to) if self.sockets.reaches(to) else self.nats.pending(to)

    def _on_message(self, payload: bytes) -> None:
        if self._receive is not None and not self.sockets.reaches(sender_of(payload)):
            self._receive(payload)

    def _on_connected(self, works: bool) -> None:
        self.max_payload = min(self.sockets.max_payload, self.nats.max_payload)
        if self._connected is not None:
            self._connected(works)
