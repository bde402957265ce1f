"""A node that keeps records of its transport, for tests of transports."""

import asyncio
from collections.abc import Callable

from extensions.cluster.transport import Transport
from tests.client import PATIENCE


class RecordingNode:
    """Starts a transport under an id, and keeps records of its calls.

    Attributes:
        received: The messages, in order.
        lost: The ids of lost nodes, in order.
        connected: The states of the transport, in order.
    """

    def __init__(self, node_id: str, transport: Transport) -> None:
        self.node_id = node_id
        self.transport = transport
        self.received: list[bytes] = []
        self.lost: list[str] = []
        self.connected: list[bool] = []
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Start the transport."""
        await self.transport.start(self.node_id, self._on_message, self._on_lost, self._on_connected)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition of the records holds, which is checked whenever they change."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def has(self, *messages: bytes) -> None:
        """Wait until exactly these messages have come, in any order; forget them."""
        await self.until(lambda: len(self.received) >= len(messages))
        assert sorted(self.received) == sorted(messages)
        self.received.clear()

    def _on_message(self, payload: bytes) -> None:
        self.received.append(payload)
        self._changed.set()

    def _on_lost(self, node_id: str) -> None:
        self.lost.append(node_id)
        self._changed.set()

    def _on_connected(self, works: bool) -> None:
        self.connected.append(works)
        self._changed.set()
