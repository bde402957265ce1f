"""permessage-deflate over real sockets: agreed if a setting says so, in both directions, and bounded."""

import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.frames import CloseCode

from tests.client import Json, RawClient, announce, answer, raw_client
from tests.conftest import StartTracker, TrackerProcess, environment
from tests.integration.conftest import Running
from tests.integration.wire import HANDSHAKE, wire
from tests.unit.fakes import peer_id
from tracker.extension import Channel, Extension, TrackerHandle

A, B, C = peer_id(1), peer_id(2), peer_id(3)
FRAMES = Path(__file__).parents[1] / "frames" / "webtorrent.jsonl"
ON = environment("connections", deflate=True)


def recorded_offers() -> list[Json]:
    """Return the offers of a recorded announce of webtorrent."""
    rows = map(json.loads, FRAMES.read_text().splitlines())
    offers: list[Json] = next(
        row["json"]["offers"] for row in rows if row["dir"] == "send" and row["json"].get("offers")
    )
    return offers


OFFERS = recorded_offers()


@asynccontextmanager
async def compressing(url: str) -> AsyncIterator[RawClient]:
    """Connect as a client that compresses all its messages."""
    async with raw_client(url, compression="deflate") as client:
        assert client.socket.response is not None
        agreed = client.socket.response.headers["Sec-WebSocket-Extensions"]
        assert agreed.startswith("permessage-deflate; server_no_context_takeover; client_no_context_takeover")
        yield client


async def sizes(tracker: TrackerProcess) -> dict[tuple[str, str], float]:
    return {
        (direction, form): await tracker.metric("peerservers_deflate_bytes_total", direction=direction, form=form)
        for direction in ("received", "sent")
        for form in ("compressed", "inflated")
    }


@pytest.fixture
async def deflating(start_tracker: StartTracker) -> TrackerProcess:
    return await start_tracker(env=ON)


async def test_peers_with_and_without_compression_meet(deflating: TrackerProcess) -> None:
    assert set((await sizes(deflating)).values()) == {0.0}
    async with compressing(deflating.url) as a, compressing(deflating.url) as b, raw_client(deflating.url) as plain:
        for client, who in ((b, B), (plain, C)):
            await client.announce(who)
        assert (await a.announce(A, offers=OFFERS))["incomplete"] == 3
        received = [await b.receive(), await plain.receive()]
        assert {message["offer"]["sdp"] for message in received} <= {offer["offer"]["sdp"] for offer in OFFERS}
        for client, who, message in ((b, B, received[0]), (plain, C, received[1])):
            sdp = f"{who} {message['offer']['sdp']}"
            await client.send(answer(who, A, message["offer_id"], sdp=sdp))
            assert (await a.receive())["answer"]["sdp"] == sdp
    counted = await sizes(deflating)
    assert 0 < counted["received", "compressed"] < counted["received", "inflated"] * 0.8
    assert 0 < counted["sent", "compressed"] < counted["sent", "inflated"] * 0.8


async def test_small_messages_are_not_compressed(start_tracker: StartTracker) -> None:
    tracker = await start_tracker(env=environment("connections", deflate=True, deflate_above=100_000))
    async with compressing(tracker.url) as a, compressing(tracker.url) as b:
        await b.announce(B)
        await a.announce(A, offers=OFFERS)
        assert "offer" in await b.receive()
    counted = await sizes(tracker)
    assert counted["received", "inflated"] > 0
    assert counted["sent", "inflated"] == 0


async def test_a_client_that_offers_no_extension_or_another_one_is_served(deflating: TrackerProcess) -> None:
    for offered in (b"", b"Sec-WebSocket-Extensions: x-unknown, permessage-deflate; server_max_window_bits=9\r\n"):
        async with wire(deflating, None) as client:
            client.writer.write(HANDSHAKE + offered + b"\r\n")
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            assert b"Sec-WebSocket-Extensions" not in head
            client.frame(1, json.dumps(announce(A)).encode())
            assert "interval" in json.loads((await client.receive())[1])


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (zlib.compressobj(9, zlib.DEFLATED, -15).compress(b"") + b"\xff\xff\xff", CloseCode.PROTOCOL_ERROR),
        ("bomb", CloseCode.MESSAGE_TOO_BIG),
    ],
    ids=["garbage", "bomb"],
)
async def test_data_that_cannot_be_inflated_closes_the_connection(
    deflating: TrackerProcess, payload: Any, code: CloseCode
) -> None:
    if payload == "bomb":
        compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
        # 200 KB that inflate to 200 MB.
        payload = compressor.compress(bytes(200 << 20)) + compressor.flush(zlib.Z_SYNC_FLUSH)
        assert len(payload) < 1 << 18
    before = await deflating.metric("process_resident_memory_bytes")
    offer = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
    async with compressing(deflating.url) as other, wire(deflating, HANDSHAKE + offer) as client:
        client.frame(1, payload, rsv=4)
        assert await client.close_code() == code
        assert (await other.announce(A))["incomplete"] == 1
    assert await deflating.metric("process_resident_memory_bytes") - before < 20 << 20


async def test_subprotocols_are_not_compressed(serve: Any) -> None:
    class Echo(Extension):
        def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
            super().__init__(tracker, settings)
            tracker.add_subprotocol("echo", self.echo)

        async def echo(self, channel: Channel) -> None:
            channel.send((await channel.receive())[0])

    tracker: Running = await serve({"echo": Echo}, settings={"connections": {"deflate": True}})
    async with connect(tracker.url, subprotocols=["echo"], compression="deflate") as socket:  # type: ignore[list-item]
        assert socket.response is not None
        assert "Sec-WebSocket-Extensions" not in socket.response.headers
        await socket.send("x" * 2000)
        assert await socket.recv() == "x" * 2000
