"""The tracker client, on a tracker and on servers that break the protocol."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import ServerConnection, serve

from tests.client import HASH, soon
from tests.conftest import TrackerProcess
from tests.unit.fakes import peer_id
from tracker.client import BinaryFrameError, Peer, connect
from tracker.protocol.client import MessageError
from tracker.protocol.codec import make_offer, to_json
from tracker.protocol.messages import AnnounceReply, Failure, RelayedAnswer, RelayedOffer, ScrapeReply, SwarmCounts

A, B = peer_id(1), peer_id(2)
OFFER = make_offer("o" * 20, "v=0\r\n")


@asynccontextmanager
async def saying(*payloads: str | bytes) -> AsyncIterator[str]:
    """Serve WebSockets that send these frames at once and then only answer pings; yields the URL."""

    async def serve_one(socket: ServerConnection) -> None:
        for payload in payloads:
            await socket.send(payload)
        await socket.wait_closed()

    async with serve(serve_one, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"ws://{host}:{port}/"


async def test_two_peers_exchange_an_offer_and_an_answer(tracker: TrackerProcess) -> None:
    async with connect(tracker.url, 10) as one, connect(tracker.url, 10) as other:
        a, b = Peer(one, HASH, A), Peer(other, HASH, B)
        assert await b.announce({"event": "started"}) == AnnounceReply(HASH, 120, 0, 1)
        assert await a.announce({"left": 0}, [OFFER]) in [AnnounceReply(HASH, told, 1, 1) for told in soon(30)]
        assert await other.expect(RelayedOffer) == RelayedOffer(HASH, A, OFFER)
        await b.answer(A, "o" * 20, "v=0\r\n")
        assert await one.expect(RelayedAnswer) == RelayedAnswer(HASH, B, OFFER.offer_id, OFFER.description.sdp)
        scraped = {HASH: SwarmCounts(1, 1, 1), "x" * 20: SwarmCounts()}
        assert await one.scrape([HASH, "x" * 20]) == ScrapeReply(scraped)


async def test_a_failure_for_the_swarm_is_a_reply(tracker: TrackerProcess) -> None:
    async with connect(tracker.url, 10) as client:
        await client.send_text("{")  # Its failure has another infohash, and is skipped.
        reply = await Peer(client, HASH, A).announce({"peer_id": "short"})
        assert reply == Failure("invalid peer_id", HASH, "announce")


async def test_messages_behind_others_are_found(tracker: TrackerProcess) -> None:
    async with connect(tracker.url, 10) as client:
        a = Peer(client, HASH, A)
        await Peer(client, HASH, B).announce({})
        for number in range(3):
            await a.announce({}, [make_offer(f"{number:020}", "v=0\r\n")])
        wanted = to_json(f"{2:020}")
        found = await client.expect(RelayedOffer, lambda message: bytes(message.offer.offer_id) == wanted)
        assert bytes(found.offer.offer_id) == wanted


async def test_received_texts_are_all_that_came_before_a_pong() -> None:
    async with saying("1", "2", "3") as url, connect(url, 10) as client:
        await client.ping()
        assert await client.received_texts() == ["1", "2", "3"]
        assert await client.received_texts() == []


async def test_waiting_has_an_end_and_the_client_goes_on() -> None:
    async with saying("no JSON", "{}") as url, connect(url, 0.05) as client:
        with pytest.raises(TimeoutError, match=r"^no offer within 0\.05 s$"):
            await client.expect(RelayedOffer)
        with pytest.raises(TimeoutError, match="no offer on the new socket within"):
            await client.expect(RelayedOffer, name="offer on the new socket")
        client.time_limit = 10
        await client.ping()


async def test_an_invalid_message_of_the_expected_type_ends_the_wait() -> None:
    async with saying('{"answer":5}', '{"offer":5}') as url, connect(url, 10) as client:
        with pytest.raises(MessageError, match="invalid offer"):
            await client.expect(RelayedOffer)


async def test_binary_frames_are_errors() -> None:
    async with saying(b'{"interval":1}', b"{}", b"{}") as url, connect(url, 10) as client:
        with pytest.raises(BinaryFrameError):
            await client.reply(HASH)
        with pytest.raises(BinaryFrameError):
            await client.receive_text()
        await client.ping()
        with pytest.raises(BinaryFrameError):
            await client.received_texts()


async def test_closed_tells_code_and_reason() -> None:
    async def refuse(socket: ServerConnection) -> None:
        await socket.close(1008, "no")

    async with serve(refuse, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        async with connect(f"ws://{host}:{port}/", 10) as client:
            assert await client.closed() == (1008, "no")
