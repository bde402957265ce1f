"""A DHT of libtorrent nodes in this process, on loopback, without any contact to others."""

import asyncio
from types import TracebackType
from typing import Any

from extensions.dht.krpc.messages import Address, Contact
from extensions.dht.node import Node
from tests.client import eventually

PATIENCE = 20.0


class PrivateDht:
    """`async with PrivateDht(20) as dht:` starts 20 nodes, each of which knows all others."""

    def __init__(self, count: int = 20, host: str = "127.0.0.1") -> None:
        self.nodes: list[Node] = [
            Node([f"[{host}]:0" if ":" in host else f"{host}:0"], [], private=True) for _ in range(count)
        ]
        """The nodes that run."""

    @property
    def addresses(self) -> list[Address]:
        """The addresses on which the nodes listen."""
        return [node.addresses[0] for node in self.nodes]

    @property
    def bootstrap(self) -> list[str]:
        """The same addresses in the form "host:port", as in the configuration."""
        return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.addresses]

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the extension `dht` for a member of this DHT."""
        return {"listen": "127.0.0.1:0", "bootstrap": self.bootstrap[:3], "private": True}

    def contacts(self, family: int = 4) -> list[Contact]:
        """Return the ids and addresses of the nodes; can be given to a `Client`."""
        return [Contact(node.ids[0], node.addresses[0]) for node in self.nodes] if family == 4 else []

    async def kill(self, count: int) -> list[Address]:
        """Close the last `count` nodes without notice to the others. Return their addresses."""
        remaining = max(0, len(self.nodes) - count)
        killed = self.nodes[remaining:]
        del self.nodes[remaining:]
        await asyncio.gather(*(node.close() for node in killed))
        return [node.addresses[0] for node in killed]

    async def __aenter__(self) -> "PrivateDht":
        try:
            await asyncio.gather(*(node.start(None) for node in self.nodes))
            await eventually(lambda: all(node.addresses for node in self.nodes), PATIENCE)
            await eventually(self._are_introduced, PATIENCE)
            # The node's own id is only in its state.
            await asyncio.gather(*(node.state() for node in self.nodes))
            await asyncio.gather(*(node.refresh() for node in self.nodes))
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        await self.kill(len(self.nodes))

    async def _are_introduced(self) -> bool:
        """Return whether all nodes know all others. Add the others again to each that does not."""
        await asyncio.gather(*(node.refresh() for node in self.nodes))
        missing = [node for node in self.nodes if node.size < len(self.nodes) - 1]
        for node in missing:
            for address in self.addresses:
                if address != node.addresses[0]:
                    node.add(address)
        return not missing
