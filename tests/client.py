"""A tracker client for tests: messages are plain JSON objects, which may also be malformed."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from msgspec import Raw
from websockets.asyncio.client import ClientConnection

from tracker.client import TextSocket, open_socket
from tracker.protocol.client import WEBTORRENT_DEFAULTS, encode
from tracker.protocol.messages import Announce, Answer

Json = dict[str, Any]

HASH = "h" * 20
PATIENCE = 30.0


class RawClient(TextSocket):
    """One WebSocket to a tracker, for any number of peers. Each wait has an end after `PATIENCE` seconds."""

    def __init__(self, socket: ClientConnection) -> None:
        super().__init__(socket, PATIENCE)

    async def send(self, message: object) -> None:
        """Send a message as a text frame."""
        await self.send_text(json.dumps(message, ensure_ascii=False))

    async def receive(self) -> Json:
        """Return the next message; fail if it is no text frame with a JSON object."""
        return _json(await self.receive_text())

    async def received(self) -> list[Json]:
        """Return the messages that have arrived already, without waiting."""
        return [_json(text) for text in await self.received_texts()]

    async def receive_until(self, wanted: Callable[[Json], bool]) -> Json:
        """Return the next message that satisfies `wanted`; skip the others."""
        while not wanted(message := await self.receive()):
            pass
        return message

    async def announce(self, peer_id: str, info_hash: str = HASH, **fields: Any) -> Json:
        """Announce and return the reply; skip offers that come before it."""
        await self.send(announce(peer_id, info_hash, **fields))
        return await self.receive_until(lambda message: "interval" in message or "failure reason" in message)

    async def nothing_came(self) -> bool:
        """Return whether the tracker has sent no unread message: a pong does not overtake earlier messages."""
        await self.ping()
        return not await self.received_texts()


def announce(peer_id: str, info_hash: str = HASH, **fields: Any) -> Json:
    """Return an announce with webtorrent's fields, replaced or extended by `fields`."""
    message = Announce(info_hash, peer_id, stopped=False, complete=False, offers=[])
    return {**_json(encode(message, WEBTORRENT_DEFAULTS)), **fields}


def soon(usual: int) -> range:
    """Return the intervals that peers of small swarms are told instead of a usual one: up to a quarter shorter."""
    return range(usual - usual // 4, usual + 1)


def offers(count: int, sdp: str = "v=0\r\n", start: int = 0) -> list[Json]:
    """Return offers whose ids are the numbers from `start` in 20 digits."""
    return [{"offer": {"type": "offer", "sdp": sdp}, "offer_id": f"{start + n:020}"} for n in range(count)]


def answer(peer_id: str, to_peer_id: str, offer_id: str, info_hash: str = HASH, sdp: str = "v=0\r\n") -> Json:
    """Return an answer with webtorrent's fields."""
    raw_sdp, raw_offer_id = (Raw(json.dumps(text).encode()) for text in (sdp, offer_id))
    return _json(encode(Answer(info_hash, peer_id, to_peer_id, raw_sdp, raw_offer_id)))


async def eventually(condition: Callable[[], bool | Awaitable[bool]], patience: float = PATIENCE) -> None:
    """Wait for a condition that no event announces, such as a figure in another process. Raise `TimeoutError`."""
    async with asyncio.timeout(patience):
        while True:
            result = condition()
            if result if isinstance(result, bool) else await result:
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def raw_client(url: str, **options: Any) -> AsyncIterator[RawClient]:
    """Connect to a tracker. `options` are websockets'."""
    async with open_socket(url, PATIENCE, **{"max_size": 1 << 24, **options}) as socket:
        yield RawClient(socket)


def _json(payload: str | bytes) -> Json:
    message = json.loads(payload)
    assert isinstance(message, dict)
    return message
