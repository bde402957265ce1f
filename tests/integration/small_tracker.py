"""A tracker in this process whose behaviour tests change: small, and without any limits."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets import ConnectionClosed
from websockets.asyncio.server import ServerConnection, serve

from tests.client import Json


class SmallTracker:
    """A tracker in a few lines, for ids of any length. Subclasses have one oddity each."""

    def __init__(self) -> None:
        self.swarms: dict[str, dict[str, tuple[ServerConnection, bool]]] = {}
        self.announces: list[Json] = []

    async def serve(self, socket: ServerConnection) -> None:
        """Serve a socket until it is closed."""
        try:
            async for payload in socket:
                await self.received(socket, payload)
        except ConnectionClosed:
            pass
        finally:
            for swarm in self.swarms.values():
                self.forget(swarm, socket)

    async def received(self, socket: ServerConnection, payload: str | bytes) -> None:
        """Take a message; answer nonsense with a failure."""
        try:
            message = json.loads(payload)
            await {"announce": self.announce, "scrape": self.scrape}[message["action"]](socket, message)
        except (KeyError, TypeError, ValueError) as error:
            await self.send(socket, {"failure reason": repr(error)})

    async def announce(self, socket: ServerConnection, message: Json) -> None:
        """Take an announce or an answer."""
        if "answer" in message:
            await self.answer(message)
            return
        self.announces.append(message)
        info_hash, peer_id = message["info_hash"], message["peer_id"]
        swarm = self.swarms.setdefault(info_hash, {})
        self.join(swarm, socket, message)
        await self.reply(socket, message, swarm)
        others = [other for name, (other, _) in swarm.items() if name != peer_id]
        # As in wt-tracker, an announce without `numwant` wants no peers.
        offers = message.get("offers", [])[: message.get("numwant", 0)]
        for receiver, offer in zip(others, offers, strict=False):
            await self.send(receiver, {"info_hash": info_hash, "peer_id": peer_id, **self.offer(offer)})

    async def answer(self, message: Json) -> None:
        """Pass an answer on."""
        receiver = self.swarms[message["info_hash"]].get(message.pop("to_peer_id"))
        if receiver:
            await self.send(receiver[0], message)

    async def scrape(self, socket: ServerConnection, message: Json) -> None:
        """Reply with the counts of the swarms."""
        files = {name: self.counts(self.swarms.get(name, {})) for name in message["info_hash"]}
        await self.send(socket, {"action": "scrape", "files": files})

    async def reply(self, socket: ServerConnection, message: Json, swarm: dict[str, Any]) -> None:
        """Reply to an announce."""
        await self.send(socket, {"info_hash": message["info_hash"], "interval": 120, **self.counts(swarm)})

    async def send(self, socket: ServerConnection, message: Json) -> None:
        """Send a message; that the socket has been closed meanwhile does not matter."""
        # Without spaces, as all trackers do it and the load of the benchmarks expects it.
        text = json.dumps({"action": "announce", **message}, separators=(",", ":"))
        await asyncio.gather(socket.send(text), return_exceptions=True)

    def join(self, swarm: dict[str, Any], socket: ServerConnection, message: Json) -> None:
        """Put a peer into its swarm, or remove it."""
        swarm.pop(message["peer_id"], None)
        if message.get("event") != "stopped":
            swarm[message["peer_id"]] = socket, message.get("left") == 0

    def forget(self, swarm: dict[str, Any], socket: ServerConnection) -> None:
        """Remove the peers of a closed socket."""
        for peer_id in [name for name, (its, _) in swarm.items() if its is socket]:
            del swarm[peer_id]

    def counts(self, swarm: dict[str, Any]) -> Json:
        """Return the numbers of seeders and leechers."""
        complete = sum(is_seeder for _, is_seeder in swarm.values())
        return {"complete": complete, "incomplete": len(swarm) - complete}

    def offer(self, offer: Json) -> Json:
        """Return the fields of a relayed offer."""
        return {"offer": offer["offer"], "offer_id": offer["offer_id"]}


@asynccontextmanager
async def served(tracker: SmallTracker, **options: Any) -> AsyncIterator[str]:
    """Serve a tracker; yield its URL. `options` are websockets'."""
    options = {"ping_interval": None, "close_timeout": 0.1, **options}
    async with serve(tracker.serve, "127.0.0.1", 0, **options) as server:
        host, port = server.sockets[0].getsockname()
        yield f"ws://{host}:{port}/"
