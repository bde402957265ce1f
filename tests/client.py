"""A raw WebTorrent client for tests: frames in, frames out."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

Json = dict[str, Any]

HASH = "h" * 20
PATIENCE = 10.0


class RawClient:
    """One socket; any number of peer_ids."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, message: object) -> None:
        """Send a message as a text frame."""
        await self.socket.send(json.dumps(message, ensure_ascii=False))

    async def receive(self) -> Json:
        """The next message; it must be a text frame with a JSON object."""
        frame = await asyncio.wait_for(self.socket.recv(), PATIENCE)
        assert isinstance(frame, str), "browsers' clients cannot read binary frames"
        message = json.loads(frame)
        assert isinstance(message, dict)
        return message

    async def receive_until(self, wanted: Callable[[Json], bool]) -> Json:
        """The next message that is wanted."""
        while not wanted(message := await self.receive()):
            pass
        return message

    async def announce(self, peer_id: str, info_hash: str = HASH, **fields: Any) -> Json:
        """Announce and wait for the reply; offers that come before it are passed over."""
        await self.send(announce(peer_id, info_hash, **fields))
        return await self.receive_until(lambda message: "interval" in message or "failure reason" in message)

    async def nothing_came(self) -> bool:
        """Whether nothing but pongs has been sent to this socket: a ping's answer overtakes nothing."""
        await asyncio.wait_for(await self.socket.ping(), PATIENCE)
        try:
            await asyncio.wait_for(self.socket.recv(), 0.01)
        except TimeoutError:
            return True
        return False

    async def closed(self) -> tuple[int | None, str]:
        """Wait for the tracker to close; code and reason."""
        await asyncio.wait_for(self.socket.wait_closed(), PATIENCE)
        return self.socket.close_code, self.socket.close_reason or ""


def announce(peer_id: str, info_hash: str = HASH, **fields: Any) -> Json:
    """An announce as webtorrent sends it."""
    return {
        "action": "announce",
        "info_hash": info_hash,
        "peer_id": peer_id,
        "numwant": 5,
        "uploaded": 0,
        "downloaded": 0,
        "left": 1,
        **fields,
    }


def offers(count: int, sdp: str = "v=0\r\n", start: int = 0) -> list[Json]:
    """Offers with distinct ids."""
    return [{"offer": {"type": "offer", "sdp": sdp}, "offer_id": f"{start + n:020}"} for n in range(count)]


def answer(peer_id: str, to_peer_id: str, offer_id: str, info_hash: str = HASH, sdp: str = "v=0\r\n") -> Json:
    """An answer as webtorrent sends it."""
    return {
        "action": "announce",
        "info_hash": info_hash,
        "peer_id": peer_id,
        "to_peer_id": to_peer_id,
        "answer": {"type": "answer", "sdp": sdp},
        "offer_id": offer_id,
    }


async def eventually(condition: Callable[[], bool | Awaitable[bool]], patience: float = PATIENCE) -> None:
    """Wait for what announces itself by no event, such as a figure in another process."""
    async with asyncio.timeout(patience):
        while True:
            result = condition()
            if result if isinstance(result, bool) else await result:
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def raw_client(url: str, **options: Any) -> AsyncIterator[RawClient]:
    """A client connected to a tracker."""
    # Without a limit on its queue: a client that has stopped reading would not see the tracker's close frame either.
    async with connect(url, compression=None, max_size=1 << 24, max_queue=None, **options) as socket:
        yield RawClient(socket)
