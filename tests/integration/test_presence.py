"""A client with two sockets, a client that reconnects, and a stranger that claims its peer_id."""

from tests.client import RawClient, answer, eventually, offers, raw_client
from tests.conftest import TrackerProcess
from tests.unit.fakes import peer_id

A, B, C = (peer_id(number) for number in (1, 2, 3))
ELSEWHERE = {"local_addr": ("127.0.0.2", 0)}


async def receives_offers(client: RawClient, other: RawClient) -> bool:
    """Let `other` make each peer an offer; return whether it reaches a client."""
    await other.announce(B, offers=offers(2))
    await client.ping()
    return any("offer" in message for message in await client.received())


async def test_each_socket_receives_the_answers_to_its_offers(tracker: TrackerProcess) -> None:
    async with raw_client(tracker.url) as other, raw_client(tracker.url) as one, raw_client(tracker.url) as two:
        await other.announce(B)
        await one.announce(A, offers=offers(1, start=1))
        await two.announce(A, offers=offers(1, start=2))
        for _ in range(2):
            message = await other.receive_until(lambda message: "offer" in message)
            await other.send(answer(B, A, message["offer_id"]))
        for number, client in enumerate((one, two), 1):
            got = await client.receive_until(lambda message: "answer" in message)
            assert got["offer_id"] == f"{number:020}"
            assert await client.nothing_came()


async def test_a_client_that_reconnects_receives_offers_in_place_of_its_dead_socket(tracker: TrackerProcess) -> None:
    async with raw_client(tracker.url) as other, raw_client(tracker.url) as dead:
        await other.announce(B)
        await dead.announce(A)
        dead.socket.transport.pause_reading()
        async with raw_client(tracker.url) as near:
            await near.announce(A)
            assert await receives_offers(near, other)
        async with raw_client(tracker.url, **ELSEWHERE) as far:
            reply = await far.announce(A)
            assert reply["incomplete"] == 2, "it counts once"
            await eventually(lambda: receives_offers(far, other))
        dead.socket.transport.abort()


async def test_a_stranger_neither_silences_a_peer_nor_receives_its_offers(tracker: TrackerProcess) -> None:
    async with (
        raw_client(tracker.url) as other,
        raw_client(tracker.url) as peer,
        raw_client(tracker.url) as dead,
        raw_client(tracker.url, **ELSEWHERE) as stranger,
        raw_client(tracker.url, **ELSEWHERE) as far,
    ):
        await other.announce(B)
        await peer.announce(A)
        await dead.announce(C)
        dead.socket.transport.pause_reading()
        await stranger.announce(A, left=0)
        await far.announce(C)
        # As soon as the dead socket has lost its peer, the living one would have lost its own.
        await eventually(lambda: receives_offers(far, other))
        assert await receives_offers(peer, other)
        await stranger.announce(A, event="stopped")
        assert await receives_offers(peer, other)
        assert [message for message in await stranger.received() if "offer" in message] == []
        reply = await other.announce(B)
        assert (reply["complete"], reply["incomplete"]) == (0, 3)
        dead.socket.transport.abort()
