"""Connected peers: the sockets of WebTorrent clients, between the network and the hub.

A socket decodes each message, charges it to the client's quota and passes it to the hub. The hub sends the resulting
messages through an outbox that encodes them as JSON.
"""

from typing import Final

import structlog
from websockets.frames import CloseCode

from tracker.access.addresses import Quota
from tracker.access.gate import ConnectionInfo
from tracker.core.hub import Hub
from tracker.core.outbox import Outbox
from tracker.core.swarm import Connection, Peer
from tracker.net.websocket import Owner, WebSocket
from tracker.protocol import codec
from tracker.protocol.errors import RequestError
from tracker.protocol.messages import NO_INFO_HASH, Announce, Answer, Message, Offer, Scrape
from tracker.reasons import CloseReason, DropReason

STRIKE: Final = 10.0
"""Seconds until a strike is forgotten."""

HEARTBEAT: Final = STRIKE / 4
"""The part of a strike that a heartbeat is: a page may send 24 of them in a minute for ever."""

MIN_HOLD: Final = 0.05
"""Seconds of the shortest wait. A shorter one would cost more than the messages that it delays."""

COMPRESSED_BYTE: Final = 10
"""Bytes that a compressed byte counts for: to inflate it can take as long as to serve these.

Offers of one announce are so similar that they become smaller by this factor, so their bytes count once.
"""

CONTROL: Final = 50
"""Bytes that a ping or pong counts for: to answer it takes as long as to serve these."""


class Traffic:
    """Counters of the traffic on all peers' sockets. `tracker.metrics` reads them."""

    def __init__(self) -> None:
        self.message_sizes = [0] * 65
        """The number of received messages, by the bit length of their size in bytes."""
        self.bytes_received = 0
        """Payload bytes received."""
        self.bytes_sent = 0
        """Payload bytes sent."""


class JsonOutbox(Outbox):
    """Encodes the hub's messages as JSON, and sends them on the peers' WebSockets."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic

    def reply(self, connection: Connection, info_hash: str, interval: int, complete: int, incomplete: int) -> None:
        """Send the reply to an announce."""
        self._send(connection, codec.encode_reply(info_hash, interval, complete, incomplete))

    def offers(self, info_hash: str, peer_id: str, receivers: list[Peer], offers: list[Offer]) -> None:
        """Send one offer to each receiver."""
        frames = codec.encode_offers(info_hash, peer_id, offers[: len(receivers)])
        for receiver, frame in zip(receivers, frames, strict=False):
            self._send(receiver.connection, frame)

    def answer(self, connection: Connection, answer: Answer) -> None:
        """Send an answer to the connection on which the offer was made."""
        self._send(connection, codec.encode_answer(answer))

    def scrape(self, connection: Connection, counts: list[tuple[str, int, int]]) -> None:
        """Send the reply to a scrape."""
        self._send(connection, codec.encode_scrape(counts))

    def failure(self, connection: Connection, error: RequestError) -> None:
        """Send a failure."""
        self._send(connection, codec.encode_failure(error))

    def _send(self, connection: Connection, data: bytes) -> None:
        # All connections of this hub are sockets.
        assert isinstance(connection, PeerSocket)
        if connection.send(data):
            self._traffic.bytes_sent += len(data)


class PeerSockets:
    """The state that all peers' sockets share. A socket with `max_invalid` strikes is closed.

    A strike is an invalid message. It is forgotten after `STRIKE` seconds, or at the next valid message.
    """

    def __init__(self, hub: Hub, max_invalid: int) -> None:
        self.hub = hub
        self.traffic = Traffic()
        self.outbox = JsonOutbox(self.traffic)
        self.max_offers = hub.rules.max_offers
        self.max_scrape = hub.rules.max_scrape
        self.max_penalty = max_invalid * STRIKE

    def open(self, owner: Owner, info: ConnectionInfo) -> "PeerSocket":
        """Return the socket for a new connection. `owner` is the endpoint of the connection."""
        return PeerSocket(self, owner, info)


class PeerSocket(WebSocket, Connection):
    """A client's WebSocket, and the owner of the peers that the client announces on it."""

    __slots__ = ("_shared", "address", "handshake", "peers", "penalty_end")

    def __init__(self, shared: PeerSockets, owner: Owner, info: ConnectionInfo) -> None:
        super().__init__(owner, info)
        self.address = info.address
        # Hundreds of bytes, so only kept if an extension decides about peers.
        self.handshake = info.head if shared.hub.pending.required else b""
        self.peers: set[Peer] = set()
        self.penalty_end = 0.0
        """The time at which all strikes are forgotten."""
        self._shared = shared

    @property
    def client(self) -> object:
        """The quota that all sockets of one address share, or the socket itself if its address has no limits."""
        return self if self.quota is None else self.quota

    @property
    def network(self) -> str:
        """The client's numeric IP address, or the /64 of an IPv6 address that has limits."""
        return self.address if self.quota is None else self.quota.address

    @property
    def is_full(self) -> bool:
        """Whether the address may have no more peers on this socket."""
        return self.quota is not None and not self.quota.may_join(self.peers)

    def on_message(self, payload: bytes, is_text: bool, now: float) -> None:
        """Apply one message, and fail the connection after too many invalid ones."""
        shared, size = self._shared, len(payload)
        traffic = shared.traffic
        traffic.message_sizes[size.bit_length()] += 1
        traffic.bytes_received += size
        quota = self.quota
        exceeded = None if quota is None else self._charge_bytes(quota, size, now)
        try:
            message = codec.decode(payload, shared.max_offers, shared.max_scrape)
            if quota is not None:
                exceeded = charge(quota, message, now, exceeded)
                if exceeded is not None and not self._serves_excess(quota, exceeded, message, now):
                    return
            shared.hub.apply(self, message, now, shared.outbox)
        except RequestError as error:
            if codec.is_heartbeat(payload):
                self._on_heartbeat(now)
            else:
                self._strike(error, now)
        except UnicodeDecodeError:
            if is_text:  # RFC 6455 section 8.1
                self.fail(CloseCode.INVALID_DATA, CloseReason.INVALID_UTF8)
            else:
                self._strike(RequestError(DropReason.INVALID_JSON, "invalid message"), now)
        except Exception:
            structlog.get_logger().exception("message_failed")
            self.close(CloseCode.INTERNAL_ERROR, CloseReason.INTERNAL_ERROR)
        else:
            if self.penalty_end > now:
                self.penalty_end -= STRIKE

    def on_controls(self, count: int, now: float) -> None:
        """Charge pings and pongs: without a limit, a client could send nothing else as fast as the tracker answers."""
        if self.quota is not None:
            self._charge_bytes(self.quota, count * CONTROL, now)

    def on_closing(self) -> None:
        """Remove the peers of this socket from their swarms at once."""
        self._shared.hub.close(self)
        if self.quota is not None:
            self.quota.forget(self.peers)

    def _charge_bytes(self, quota: Quota, size: int, now: float) -> DropReason | None:
        """Charge a message of `size` bytes, valid or not. Return the reason of the limit if the client is over it.

        A client in debt is not read until the debt is paid. All its connections pay it, so messages on another one can
        still come.
        """
        received = quota.received
        if received is None:
            return None
        size = max(size, COMPRESSED_BYTE * self.take_compressed())
        is_over = received.take(0.0, now) > 0.0
        wait = received.take(size, now)
        if wait >= MIN_HOLD:
            self.hold(wait)
        return DropReason.TOO_MANY_BYTES if is_over else None

    def _serves_excess(self, quota: Quota, exceeded: DropReason, message: Message, now: float) -> bool:
        """Account for a message that exceeds a limit of its client; return whether it is served all the same."""
        shared = self._shared
        serves = serves_excess(message)
        if isinstance(message, Announce) and exceeded is DropReason.TOO_MANY_OFFERS:
            # The hub counts the offers that were removed.
            return serves
        # An announce, or a scrape of one swarm, costs hardly more than a failure.
        wait = quota.charge_excess(len(message.info_hashes or ()) or 1 if isinstance(message, Scrape) else 1, now)
        if wait >= MIN_HOLD:
            self.hold(wait)
        if serves or isinstance(message, Answer):
            shared.hub.counters.dropped[exceeded] += 1
        else:
            text = "too many requests from your address"
            shared.hub.refuse(self, RequestError(exceeded, text, NO_INFO_HASH, "scrape"), shared.outbox)
        return serves

    def _on_heartbeat(self, now: float) -> None:
        # Without a reply: a page that expects one could not use any other tracker.
        self._shared.hub.counters.heartbeats += 1
        self._penalize(HEARTBEAT, self._shared.max_penalty, now)

    def _strike(self, error: RequestError, now: float) -> None:
        shared = self._shared
        shared.hub.refuse(self, error, shared.outbox)
        # The first strikes of a burst may have begun to be forgotten when the last one comes.
        self._penalize(STRIKE, shared.max_penalty - STRIKE, now)

    def _penalize(self, seconds: float, limit: float, now: float) -> None:
        self.penalty_end = max(self.penalty_end, now) + seconds
        if self.penalty_end - now > limit:
            self.fail(CloseCode.POLICY_VIOLATION, CloseReason.GARBAGE)


def charge(quota: Quota, message: Message, now: float, exceeded: DropReason | None = None) -> DropReason | None:
    """Charge a message to its client's quota; return the reason of the limit that it exceeds, or None.

    Remove the offers of an announce that exceed a limit. `exceeded` is the reason of a limit that the message is known
    to exceed.
    """
    if isinstance(message, Answer):
        return exceeded or (None if quota.charge_answer(now) else DropReason.TOO_MANY_OFFERS)
    if not quota.charge_request(now):
        exceeded = exceeded or DropReason.TOO_MANY_ANNOUNCES
    if isinstance(message, Announce) and message.offers:
        offers = message.offers
        served = 0 if exceeded else quota.charge_offers(len(offers), now)
        if served < len(offers):
            message.offers = offers[:served]
            message.limited_offers = len(offers) - served
            exceeded = exceeded or DropReason.TOO_MANY_OFFERS
    return exceeded


def serves_excess(message: Message) -> bool:
    """Return whether a message is served although it exceeds a limit of its client.

    An announce is served without its offers. So its peer is in the swarm, and others can make it offers. A refused
    client would have to announce again, which costs the tracker more.
    """
    return isinstance(message, Announce) or (isinstance(message, Scrape) and message.info_hashes is not None)
