"""Connected peers: the sockets of WebTorrent clients, between the network and the hub.

A socket decodes each message, charges it to the client's quota and passes it to the hub. The hub sends the resulting
messages through an outbox that encodes them as JSON.
"""

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
    """The state that all peers' sockets share. A socket with `max_invalid` strikes is closed."""

    def __init__(self, hub: Hub, max_invalid: int) -> None:
        self.hub = hub
        self.traffic = Traffic()
        self.outbox = JsonOutbox(self.traffic)
        self.max_offers = hub.rules.max_offers
        self.max_invalid = max_invalid

    def open(self, owner: Owner, info: ConnectionInfo) -> "PeerSocket":
        """Return the socket for a new connection. `owner` is the endpoint of the connection."""
        return PeerSocket(self, owner, info)


class PeerSocket(WebSocket, Connection):
    """A client's WebSocket, and the owner of the peers that the client announces on it."""

    __slots__ = ("_shared", "address", "handshake", "peers", "strikes")

    def __init__(self, shared: PeerSockets, owner: Owner, info: ConnectionInfo) -> None:
        super().__init__(owner, info)
        self.address = info.address
        # Hundreds of bytes, so only kept if an extension decides about peers.
        self.handshake = info.head if shared.hub.pending.required else b""
        self.peers: set[Peer] = set()
        self.strikes = 0
        """The number of invalid messages minus the number of valid ones, but at least 0."""
        self._shared = shared

    @property
    def client(self) -> object:
        """The quota that all sockets of one address share, or the socket itself if its address has no limits."""
        return self if self.quota is None else self.quota

    @property
    def network(self) -> str:
        """The client's numeric IP address, or the /64 of an IPv6 address that has limits."""
        return self.address if self.quota is None else self.quota.address

    def on_message(self, payload: bytes, is_text: bool, now: float) -> None:
        """Apply one message, and fail the connection after too many invalid ones."""
        shared, size = self._shared, len(payload)
        traffic = shared.traffic
        traffic.message_sizes[size.bit_length()] += 1
        traffic.bytes_received += size
        try:
            message = codec.decode(payload, shared.max_offers)
            if self.quota is not None:
                charge(self.quota, message, now)
            shared.hub.apply(self, message, now, shared.outbox)
        except RequestError as error:
            self._strike(error)
        except UnicodeDecodeError:
            if is_text:  # RFC 6455 section 8.1
                self.fail(CloseCode.INVALID_DATA, CloseReason.INVALID_UTF8)
            else:
                self._strike(RequestError(DropReason.INVALID_JSON, "invalid message"))
        except Exception:
            structlog.get_logger().exception("message_failed")
            self.close(CloseCode.INTERNAL_ERROR, CloseReason.INTERNAL_ERROR)
        else:
            if self.strikes:
                self.strikes -= 1

    def on_closing(self) -> None:
        """Remove the peers of this socket from their swarms at once."""
        self._shared.hub.close(self)

    def _strike(self, error: RequestError) -> None:
        shared = self._shared
        self.strikes += 1
        shared.hub.refuse(self, error, shared.outbox)
        if self.strikes >= shared.max_invalid:
            self.fail(CloseCode.POLICY_VIOLATION, CloseReason.GARBAGE)


def charge(quota: Quota, message: Message, now: float) -> None:
    """Charge a message to its client's quota.

    An announce with `stopped` costs nothing, because it frees resources.

    Raises:
        RequestError: if the quota is used up.
    """
    if isinstance(message, Announce):
        if message.stopped:
            return
        reason = quota.charge_announce(len(message.offers), now)
    elif isinstance(message, Answer):
        reason = quota.charge_offers(1, now)
    else:
        reason = quota.charge_announce(0, now)
    if reason is not None:
        raise _too_many(reason, message)


def _too_many(reason: DropReason, message: Message) -> RequestError:
    text = "too many requests from your address"
    if isinstance(message, Scrape):
        asked = message.info_hashes
        return RequestError(reason, text, asked[0] if asked else NO_INFO_HASH, "scrape")
    return RequestError(reason, text, message.info_hash)
