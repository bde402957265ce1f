"""A peer's socket: decode, charge, strikes, and the messages that go out."""

import json
import random
import zlib
from time import monotonic
from typing import Any

import pytest
from websockets.frames import CloseCode

from tests.client import HASH, Json, announce, answer, eventually, offers
from tests.unit.fakes import peer_id
from tests.unit.sockets import FakeEndpoint, FakeTransport, frames
from tracker.access.addresses import EXCESS, LARGE, AddressLimits, Quota
from tracker.access.gate import ConnectionInfo
from tracker.core.hub import Hub
from tracker.core.rules import Rules
from tracker.net.deflate import Deflate
from tracker.net.frames import CLOSE, TEXT
from tracker.peers import CONTROL, HEARTBEAT, STRIKE, PeerSocket, PeerSockets
from tracker.protocol.messages import NO_INFO_HASH
from tracker.reasons import CloseReason, DropReason
from tracker.settings import Limits

A, B = peer_id(1), peer_id(2)
PING_FRAME = b"\x89\x80" + bytes(4)
MAX_INVALID = 10


class Sockets:
    """A hub with sockets whose frames can be read."""

    def __init__(self, **rules: Any) -> None:
        self.hub = Hub(Rules(**rules), random.Random(1).random)
        self.shared = PeerSockets(self.hub, MAX_INVALID)
        self.now = 1000.0

    def open(self, **limits: float) -> PeerSocket:
        quota = Quota("192.0.2.1", AddressLimits(**limits), self.now) if limits else None  # type: ignore[arg-type]
        socket = self.shared.open(FakeEndpoint(), ConnectionInfo("192.0.2.1", quota))
        socket.connection_made(FakeTransport())  # type: ignore[arg-type]
        return socket

    def send(self, socket: PeerSocket, message: object, is_text: bool = True) -> list[Json]:
        """Send a message; return the socket's messages since the last call."""
        payload = message if isinstance(message, bytes) else json.dumps(message).encode()
        socket.on_message(payload, is_text, self.now)
        return [json.loads(payload) for opcode, payload in frames(socket) if opcode == TEXT]


def masked(payload: bytes) -> bytes:
    """Return a client's text frame, masked with zeros."""
    return b"\x81\xfe" + len(payload).to_bytes(2, "big") + bytes(4) + payload


def strikes(sockets: Sockets, socket: PeerSocket) -> float:
    """Return the strikes that are not forgotten."""
    return max(0.0, socket.penalty_end - sockets.now) / STRIKE


def test_messages_reach_the_sockets_of_their_peers() -> None:
    sockets = Sockets()
    a, b = sockets.open(), sockets.open()
    sockets.send(b, announce(B))
    (reply,) = sockets.send(a, announce(A, offers=offers(2)))
    assert (reply["complete"], reply["incomplete"]) == (0, 2)
    ((_, payload),) = frames(b)
    offer = json.loads(payload)
    assert (offer["peer_id"], offer["offer"]["type"]) == (A, "offer")
    assert sockets.send(b, answer(B, A, offer["offer_id"])) == []
    ((_, payload),) = frames(a)
    assert json.loads(payload)["answer"] == {"type": "answer", "sdp": "v=0\r\n"}


def test_invalid_messages_are_strikes_and_valid_ones_take_them_back() -> None:
    sockets = Sockets()
    socket = sockets.open()
    for message in (b"{", announce("short")):
        (failure,) = sockets.send(socket, message)
        assert "failure reason" in failure
    assert strikes(sockets, socket) == 2
    sockets.send(socket, announce(A))
    assert strikes(sockets, socket) == 1
    sockets.now += STRIKE
    assert strikes(sockets, socket) == 0
    assert sockets.hub.counters.dropped == {DropReason.INVALID_JSON: 1, DropReason.INVALID_PEER_ID: 1}


def test_too_many_strikes_close_the_socket() -> None:
    sockets = Sockets()
    socket = sockets.open()
    sockets.send(socket, announce(A))
    for _ in range(MAX_INVALID):
        assert socket.reason is None
        socket.on_message(b"{", True, sockets.now)
    assert socket.reason is CloseReason.GARBAGE
    opcode, payload = frames(socket)[-1]
    assert (opcode, int.from_bytes(payload[:2])) == (CLOSE, CloseCode.POLICY_VIOLATION)
    assert not sockets.hub.swarms, "its peers leave at once"


def test_a_request_that_is_well_formed_is_no_strike() -> None:
    sockets = Sockets(max_swarms_per_connection=1)
    socket = sockets.open()
    sockets.send(socket, announce(A))
    for number in range(2 * MAX_INVALID):
        assert "failure reason" in sockets.send(socket, {"action": "scrape"})[0]
        assert "failure reason" in sockets.send(socket, announce(A, f"{number:020}"))[0]
    assert strikes(sockets, socket) == 0


def test_requests_over_the_limit_are_served_and_no_strikes() -> None:
    sockets = Sockets()
    socket = sockets.open(announces_per_second=1, offers_per_second=1, burst=1)
    sockets.send(socket, announce(A))
    for _ in range(2 * MAX_INVALID):
        assert "interval" in sockets.send(socket, announce(A, offers=offers(2)))[0]
        assert HASH in sockets.send(socket, {"action": "scrape", "info_hash": [HASH]})[0]["files"]
        sockets.send(socket, answer(A, B, "o" * 20))
        sockets.now += 3 / EXCESS
    assert (strikes(sockets, socket), socket.reason) == (0, None)
    dropped = sockets.hub.counters.dropped
    assert dropped[DropReason.TOO_MANY_ANNOUNCES] > 3 * MAX_INVALID
    assert dropped[DropReason.TOO_MANY_OFFERS] > 3 * MAX_INVALID


def test_a_full_scrape_over_the_limit_is_refused() -> None:
    """bittorrent-tracker's client matches a failure to its request by action and info_hash."""
    sockets = Sockets(full_scrape=True)
    socket = sockets.open(announces_per_second=1, burst=1)
    assert "files" in sockets.send(socket, {"action": "scrape"})[0]
    (failure,) = sockets.send(socket, {"action": "scrape"})
    assert (failure["action"], failure["info_hash"], "failure reason" in failure) == ("scrape", NO_INFO_HASH, True)
    assert sockets.hub.counters.dropped == {DropReason.TOO_MANY_ANNOUNCES: 1}


@pytest.mark.parametrize(
    "message",
    [announce(A), announce(A, event="stopped"), answer(A, B, "o" * 20), {"action": "scrape", "info_hash": HASH}],
)
async def test_a_flooding_client_must_wait(message: Json) -> None:
    sockets = Sockets()
    flooder = sockets.open(announces_per_second=1, offers_per_second=1, burst=1)
    for number in range(1 + 2 * EXCESS):
        assert flooder.is_held is (number > EXCESS + 1)
        sockets.send(flooder, message)
    assert flooder.reason is None
    transport: Any = flooder.transport
    assert not transport.is_reading


async def test_a_scrape_over_the_limit_costs_as_much_as_its_swarms() -> None:
    sockets = Sockets()
    socket = sockets.open(announces_per_second=1, burst=1)
    scrape = {"action": "scrape", "info_hash": [f"{n:020}" for n in range(EXCESS + 1)]}
    assert len(sockets.send(socket, scrape)[0]["files"]) == EXCESS + 1
    assert not socket.is_held
    sockets.send(socket, scrape)
    assert socket.is_held


async def test_a_flood_that_is_delayed_is_handled_later_and_in_order() -> None:
    sockets = Sockets()
    flooder = sockets.open(announces_per_second=10, burst=1)
    messages = [json.dumps(announce(A, f"{n:020}")).encode() for n in range(10 + 10 * EXCESS + 60)]
    flooder.data_received(b"".join(map(masked, messages)))
    assert flooder.is_held
    assert len(sockets.hub.swarms) < len(messages)
    flooder.data_received(masked(json.dumps(announce(B)).encode()) + bytes((0x8A, 0x80)) + bytes(4))
    await eventually(lambda: HASH in sockets.hub.swarms)
    assert list(sockets.hub.swarms) == [*(f"{n:020}" for n in range(len(messages))), HASH]
    transport: Any = flooder.transport
    # The last messages may have held it once more.
    await eventually(lambda: bool(transport.is_reading))
    assert flooder.reason is None


async def test_a_delayed_client_that_is_closed_meanwhile_is_not_served_any_more() -> None:
    sockets = Sockets()
    flooder = sockets.open(announces_per_second=10, burst=1)
    messages = [json.dumps(announce(A, f"{n:020}")).encode() for n in range(10 + 10 * EXCESS + 60)]
    flooder.data_received(b"".join(map(masked, messages)))
    flooder.fail(CloseCode.POLICY_VIOLATION, CloseReason.GARBAGE)
    transport: Any = flooder.transport
    await eventually(lambda: bool(transport.is_reading))
    assert not sockets.hub.swarms
    assert flooder.reason is CloseReason.GARBAGE


async def test_a_delayed_client_is_not_taken_for_a_silent_one() -> None:
    sockets = Sockets()
    flooder = sockets.open(announces_per_second=1, burst=1)
    flooder.hold(1000)
    for _ in range(3):
        flooder.last_received -= 1000
        flooder.sweep(monotonic())
    assert (flooder.reason, flooder.ping_sent) == (None, False)


def test_the_peers_of_a_closed_socket_do_not_count() -> None:
    sockets = Sockets()
    socket = sockets.open(peers_per_address=LARGE)
    again = sockets.shared.open(FakeEndpoint(), ConnectionInfo("192.0.2.1", socket.quota))
    again.connection_made(FakeTransport())  # type: ignore[arg-type]
    for number in range(LARGE):
        assert "interval" in sockets.send(socket, announce(A, f"{number:020}"))[0]
    assert "failure reason" in sockets.send(socket, announce(A))[0]
    socket.abort(CloseReason.CONNECTION_LOST)
    for number in range(LARGE):
        assert "failure reason" not in sockets.send(again, announce(A, f"{number:020}"))[0]
    assert socket.quota is not None
    assert socket.quota.may_join(set(range(LARGE - 1)))


@pytest.mark.parametrize("heartbeat", [b"", b"ping", b'{"action":"ping"}'])
def test_a_few_heartbeats_a_minute_are_tolerated_for_ever(heartbeat: bytes) -> None:
    sockets = Sockets()
    socket = sockets.open()
    for _ in range(1000):
        assert sockets.send(socket, heartbeat) == []
        sockets.now += HEARTBEAT
    assert (strikes(sockets, socket), socket.reason) == (0, None)
    assert sockets.hub.counters.heartbeats == 1000
    assert not sockets.hub.counters.dropped


def test_a_flood_of_heartbeats_is_garbage() -> None:
    sockets = Sockets()
    socket = sockets.open()
    for _ in range(round(MAX_INVALID * STRIKE / HEARTBEAT)):
        sockets.send(socket, b"ping")
    assert socket.reason is None
    sockets.send(socket, b"ping")
    assert socket.reason is CloseReason.GARBAGE


@pytest.mark.parametrize("heartbeat", [{"action": "scrape", "info_hash": []}, {"action": "scrape"}])
def test_empty_scrapes_are_answered_and_no_strikes(heartbeat: Json) -> None:
    sockets = Sockets()
    socket = sockets.open()
    for _ in range(3 * MAX_INVALID):
        (reply,) = sockets.send(socket, heartbeat)
        assert reply["action"] == "scrape"
    assert strikes(sockets, socket) == 0


@pytest.mark.parametrize("is_text", [True, False])
def test_text_that_is_not_utf_8_fails_the_connection(is_text: bool) -> None:
    sockets = Sockets()
    socket = sockets.open()
    sent = sockets.send(socket, b'{"action":"\xff"}', is_text)
    if is_text:
        assert socket.reason is CloseReason.INVALID_UTF8
    else:
        assert (socket.reason, strikes(sockets, socket), "failure reason" in sent[0]) == (None, 1, True)


def test_a_fault_of_the_tracker_closes_only_the_socket_that_met_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def swarm_opened(self, _: object) -> None:
            raise RuntimeError("broken")

    hub = Hub(Rules(), random.Random(1).random, observer=Broken())  # type: ignore[arg-type]
    socket = PeerSockets(hub, MAX_INVALID).open(FakeEndpoint(), ConnectionInfo("192.0.2.1"))
    socket.connection_made(FakeTransport())  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        # The observer fails again when the peer leaves.
        patch.setattr(Broken, "swarm_closed", lambda *_: None, raising=False)
        socket.on_message(json.dumps(announce(A)).encode(), True, 0.0)
    assert socket.reason is CloseReason.INTERNAL_ERROR


def test_traffic_is_counted() -> None:
    sockets = Sockets()
    socket = sockets.open()
    message = json.dumps(announce(A)).encode()
    sockets.send(socket, message)
    traffic = sockets.shared.traffic
    assert traffic.bytes_received == len(message)
    assert traffic.message_sizes[len(message).bit_length()] == 1
    assert traffic.bytes_sent > 0


def test_sockets_of_one_quota_are_one_client() -> None:
    sockets = Sockets()
    limited, free = sockets.open(announces_per_second=1), sockets.open()
    assert limited.client is limited.quota
    assert free.client is free


async def test_a_client_over_its_bytes_is_read_more_slowly_and_its_messages_are_served() -> None:
    sockets = Sockets()
    message = json.dumps(announce(A, offers=offers(2))).encode()
    socket = sockets.open(bytes_per_second=len(message), burst=2)
    for _ in range(2):
        sockets.send(socket, message)
    assert not socket.is_held
    assert "interval" in sockets.send(socket, message)[0]
    assert (socket.is_held, socket.reason) == (True, None)
    assert not sockets.hub.counters.dropped[DropReason.TOO_MANY_BYTES]
    # The debt is paid: the next message is within the limit, and makes a debt again.
    sockets.now += 1
    sockets.send(socket, message)
    assert sockets.hub.counters.dropped == {DropReason.UNPLACED_OFFER: 8}


def stored(message: bytes) -> bytes:
    """Return the frame of a message in a compressed form that is not shorter."""
    compressor = zlib.compressobj(0, wbits=-15)
    data = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return b"\xc1" + masked(data.removesuffix(b"\0\0\xff\xff"))[1:]


async def test_a_compressed_byte_counts_for_ten() -> None:
    sockets = Sockets()
    # Its reader uses the real clock.
    sockets.now = monotonic()
    message = json.dumps(announce(A, offers=offers(2))).encode()
    socket = sockets.open(bytes_per_second=len(message), burst=1)
    socket.use_deflate(Deflate(1))
    socket.data_received(stored(message))
    assert HASH in sockets.hub.swarms
    assert socket.is_held
    # A message that is not compressed counts once.
    sockets.now += 100
    for _ in range(2):
        sockets.send(socket, message)
        sockets.now += 1
    assert sockets.hub.counters.dropped[DropReason.TOO_MANY_BYTES] == 0


async def test_compressed_bytes_count_for_the_client_that_has_sent_them() -> None:
    sockets = Sockets()
    # Its reader uses the real clock.
    sockets.now = monotonic()
    message = json.dumps(announce(A, offers=offers(2))).encode()
    deflate = Deflate(1)
    limited, exempt = sockets.open(bytes_per_second=len(message), burst=2), sockets.open()
    for socket in (limited, exempt):
        socket.use_deflate(deflate)
    exempt.data_received(stored(message))
    limited.data_received(masked(message))
    assert not limited.is_held


async def test_pings_and_pongs_count_as_bytes() -> None:
    sockets = Sockets()
    # Its reader uses the real clock.
    sockets.now = monotonic()
    few, many = (sockets.open(bytes_per_second=20 * CONTROL) for _ in range(2))
    exempt = sockets.open()
    few.data_received(PING_FRAME * 10 + masked(json.dumps(announce(A)).encode()))
    many.data_received(PING_FRAME * 50)
    exempt.data_received(PING_FRAME * 50)
    assert [socket.is_held for socket in (few, many, exempt)] == [False, True, False]
    assert [socket.reason for socket in (few, many, exempt)] == [None] * 3


async def test_messages_of_an_address_in_debt_are_over_the_limit() -> None:
    sockets = Sockets()
    sockets.send(sockets.open(), announce(B))
    socket = sockets.open(bytes_per_second=100, burst=1)
    assert "interval" in sockets.send(socket, announce(A, offers=offers(2)))[0]
    relayed = sockets.hub.counters.offers_relayed
    assert "interval" in sockets.send(socket, announce(A, offers=offers(2)))[0]
    assert HASH in sockets.send(socket, {"action": "scrape", "info_hash": [HASH]})[0]["files"]
    sockets.send(socket, answer(A, B, "o" * 20))
    assert (sockets.hub.counters.offers_relayed, sockets.hub.counters.answers) == (relayed, 0)
    assert sockets.hub.counters.dropped == {
        DropReason.TOO_MANY_BYTES: 3,
        DropReason.TOO_MANY_OFFERS: 2,
        DropReason.UNPLACED_OFFER: 1,
    }
    assert (strikes(sockets, socket), socket.reason) == (0, None)


async def test_invalid_messages_use_up_bytes_too() -> None:
    sockets = Sockets()
    socket = sockets.open(bytes_per_second=100, burst=1)
    sockets.send(socket, b"{" * 1000)
    assert (socket.is_held, strikes(sockets, socket)) == (True, 1)
    assert sockets.hub.counters.dropped == {DropReason.INVALID_JSON: 1}


async def test_ten_offers_of_ten_kilobytes_are_within_the_default_limits() -> None:
    sockets = Sockets()
    limits = Limits()
    socket = sockets.open(**limits.model_dump(exclude={"max_connections", "exempt"}))
    message = json.dumps(announce(A, offers=offers(10, sdp="x" * 10_000), numwant=None)).encode()
    rate = limits.announces_per_second
    for _ in range(round(rate * (limits.burst + 5))):
        sockets.send(socket, message)
        sockets.now += 1 / rate
    assert not socket.is_held
    assert set(sockets.hub.counters.dropped) == {DropReason.UNPLACED_OFFER}
