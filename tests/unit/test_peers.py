"""A peer's socket: decode, charge, strikes, and the messages that go out."""

import json
import random
from typing import Any

import pytest
from websockets.frames import CloseCode

from tests.client import HASH, Json, announce, answer, offers
from tests.unit.fakes import peer_id
from tracker.access.addresses import AddressLimits, Quota
from tracker.access.gate import ConnectionInfo
from tracker.core.hub import Hub
from tracker.core.rules import Rules
from tracker.net.frames import CLOSE, TEXT
from tracker.net.websocket import WebSocket
from tracker.peers import PeerSocket, PeerSockets
from tracker.protocol.messages import NO_INFO_HASH
from tracker.reasons import CloseReason, DropReason
from tracker.settings import Connections

A, B = peer_id(1), peer_id(2)
MAX_INVALID = 10


class FakeTransport:
    """Keeps the bytes that are written to it."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int) -> None:
        pass


class FakeEndpoint:
    """Flushes when told to."""

    settings = Connections()

    def on_open(self, websocket: WebSocket) -> None:
        pass

    def on_closed(self, websocket: WebSocket, reason: CloseReason) -> None:
        pass

    def on_message_dropped(self) -> None:
        pass

    def schedule_flush(self, websocket: WebSocket) -> None:
        pass


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


def frames(socket: PeerSocket) -> list[tuple[int, bytes]]:
    """Return the frames that were sent since the last call, as (opcode, payload)."""
    socket.flush()
    transport: Any = socket.transport
    data, transport.written = transport.written, b""
    found = []
    while data:
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4]), 4
        found.append((data[0] & 15, data[start : start + size]))
        data = data[start + size :]
    return found


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
    assert socket.strikes == 2
    sockets.send(socket, announce(A))
    assert socket.strikes == 1
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
    assert socket.strikes == 0


def test_requests_over_the_limit_are_strikes() -> None:
    sockets = Sockets()
    socket = sockets.open(announces_per_second=1, burst=1)
    assert "interval" in sockets.send(socket, announce(A))[0]
    for strikes in range(1, 4):
        (failure,) = sockets.send(socket, announce(A))
        assert (failure["failure reason"], failure["info_hash"]) == ("too many requests from your address", HASH)
        assert socket.strikes == strikes


@pytest.mark.parametrize(("asked", "echoed"), [(HASH, HASH), (["i" * 20, HASH], "i" * 20), ([], NO_INFO_HASH)])
def test_a_scrape_over_the_limit_fails_as_a_scrape(asked: object, echoed: str) -> None:
    """bittorrent-tracker's client matches a failure to its request by action and info_hash."""
    sockets = Sockets()
    socket = sockets.open(announces_per_second=1, burst=1)
    sockets.send(socket, announce(A))
    (failure,) = sockets.send(socket, {"action": "scrape", "info_hash": asked})
    assert (failure["action"], failure["info_hash"]) == ("scrape", echoed)


@pytest.mark.parametrize("is_text", [True, False])
def test_text_that_is_not_utf_8_fails_the_connection(is_text: bool) -> None:
    sockets = Sockets()
    socket = sockets.open()
    sent = sockets.send(socket, b'{"action":"\xff"}', is_text)
    if is_text:
        assert socket.reason is CloseReason.INVALID_UTF8
    else:
        assert (socket.reason, socket.strikes, "failure reason" in sent[0]) == (None, 1, True)


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
