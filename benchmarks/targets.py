"""The code that strangers reach with bytes, one input at a time, and the valid announce that its cost is compared with.

The rule: no input costs more than `BUDGET` times the valid announce of the same size, from bytes to bytes. The size of
a compressed message is the one that it has when it is inflated.
"""

from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Final, NamedTuple

from websockets.frames import CloseCode

from benchmarks.load import announce
from benchmarks.operations import INFO_HASH, MAX_OFFERS, Client, Encoder, peer_id
from extensions.dht.krpc import messages
from extensions.federation import wire
from tracker.core.hub import Hub
from tracker.core.rules import Rules
from tracker.net.deflate import Deflate, accept_offer
from tracker.net.errors import FrameError
from tracker.net.frames import CLOSE, FrameReader
from tracker.net.handshake import Handshake, asks_for_websocket
from tracker.net.request import MAX_HEAD, InvalidRequest, RequestHead
from tracker.net.websocket import MAX_CONTROLS
from tracker.protocol.codec import decode, is_heartbeat, make_offer
from tracker.protocol.errors import RequestError
from tracker.protocol.fields import other_fields
from tracker.settings import Connections

BUDGET: Final = 20.0
"""The highest ratio that is allowed."""

OTHERS: Final = 10
"""The other peers in the swarm of the announces."""

MAX_MESSAGE: Final = Connections().max_message_size

Serve = Callable[[bytes], object]
"""Handles one input, from bytes to bytes. It raises nothing, whatever the input is."""


class Target(NamedTuple):
    """One kind of input. `prepare` makes the state that inputs are served with."""

    name: str
    max_size: int
    prepare: Callable[[], Serve]
    size: Callable[[bytes], int] = len
    """The size of an input, for the comparison."""


def _client() -> Serve:
    hub, outbox, connection = Hub(Rules(), Random(1).random), Encoder(), Client()
    for number in range(1, OTHERS + 1):
        hub.apply(Client(), decode(announce(INFO_HASH, peer_id(number), {}), MAX_OFFERS), 0.0, outbox)

    def serve(payload: bytes) -> None:
        try:
            hub.apply(connection, decode(payload, MAX_OFFERS), 0.0, outbox)
        except RequestError as error:
            if not is_heartbeat(payload):
                hub.refuse(connection, error, outbox)
        except UnicodeDecodeError:
            pass

    return serve


def _fields() -> Serve:
    def serve(payload: bytes) -> None:
        with suppress(RequestError, UnicodeDecodeError):
            decode(payload, MAX_OFFERS)
            other_fields(payload)

    return serve


def _link() -> Serve:
    def serve(frame: bytes) -> None:
        for line in wire.lines_of(frame):
            try:
                wire.decode(line)
            except wire.WireError:
                # The link ends.
                wire.has_type(line)
                break

    return serve


def _datagram() -> Serve:
    def serve(data: bytes) -> None:
        messages.transaction_of(data)
        message = messages.decode(data)
        if isinstance(message, messages.Question):
            messages.refusal(message.transaction)
        elif isinstance(message, messages.Reply) and message.item is not None:
            messages.is_valid(message.item, message.item.public_key, b"")

    return serve


def _head() -> Serve:
    def serve(head: bytes) -> None:
        if head.find(b"\r\n\r\n") < 0:
            return
        with suppress(InvalidRequest):
            request = RequestHead(head)
            if asks_for_websocket(request):
                Handshake(request, ("peerservers.federation.1",)).response(
                    accept_offer(request.get_all("Sec-WebSocket-Extensions"))
                )

    return serve


def _frames() -> Serve:
    def serve(data: bytes) -> None:
        reader, controls = FrameReader(MAX_MESSAGE), 0
        with suppress(FrameError):
            for opcode, _ in reader.receive(data):
                controls += 1
                # Many messages are charged one by one, and more control frames fail the connection.
                if opcode < CLOSE or controls > MAX_CONTROLS:
                    break

    return serve


def _deflated() -> Serve:
    deflate = Deflate(512)

    def serve(data: bytes) -> None:
        with suppress(FrameError):
            deflate.inflate(data, MAX_MESSAGE)

    return serve


def _size_of_deflated(data: bytes) -> int:
    try:
        return max(len(data), len(Deflate(512).inflate(data, MAX_MESSAGE)))
    except FrameError as error:
        return MAX_MESSAGE if error.code == CloseCode.MESSAGE_TOO_BIG else len(data)


TARGETS: Final = {
    target.name: target
    for target in (
        Target("client", MAX_MESSAGE, _client),
        Target("fields", MAX_MESSAGE, _fields),
        Target("link", wire.MAX_FRAME, _link),
        Target("datagram", messages.MAX_DATAGRAM, _datagram),
        Target("head", MAX_HEAD, _head),
        Target("frames", MAX_MESSAGE, _frames),
        Target("deflated", MAX_MESSAGE, _deflated, _size_of_deflated),
    )
}


def valid_announce(size: int) -> bytes:
    """Return a valid announce of about `size` bytes: with as many offers as fit, `MAX_OFFERS` at most, padded by SDPs.

    The shortest one has no offers.
    """
    empty = len(_announce_of(0, 0))
    each = len(_announce_of(1, 0)) - empty + 1
    offers = max(0, min(MAX_OFFERS, (size - empty) // each))
    if not offers:
        return _announce_of(0, 0)
    padding = max(0, size - len(_announce_of(offers, 0)))
    return _announce_of(offers, padding // offers)


def _announce_of(offers: int, sdp: int) -> bytes:
    made = [make_offer(peer_id(number), "x" * sdp) for number in range(offers)]
    return announce(INFO_HASH, peer_id(0), {"left": 1, "numwant": MAX_OFFERS, "offers": made})
