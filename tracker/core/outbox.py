"""The interface between the hub and its peers' connections (sans I/O)."""

from typing import Protocol

from tracker.core.swarm import Connection, Peer
from tracker.protocol.errors import RequestError
from tracker.protocol.messages import Answer, Offer


class Outbox(Protocol):
    """Takes the messages that the hub sends.

    Only an outbox knows how a message becomes bytes, and how these reach a connection. Its calls return at once and do
    not raise; a message to a slow or closed connection is dropped.
    """

    def reply(self, connection: Connection, info_hash: str, interval: int, complete: int, incomplete: int) -> None:
        """Answer an announce: the swarm's counts, and the seconds until the next announce."""

    def offers(self, info_hash: str, peer_id: str, receivers: list[Peer], offers: list[Offer]) -> None:
        """Give the offers of one peer to as many receivers, in order. A receiver too many gets none."""

    def answer(self, receiver: Peer, answer: Answer) -> None:
        """Give an answer to the peer that made the offer."""

    def scrape(self, connection: Connection, counts: list[tuple[str, int, int]]) -> None:
        """Answer a scrape: (info_hash, complete, incomplete) for each swarm."""

    def failure(self, connection: Connection, error: RequestError) -> None:
        """Answer a request that cannot be served."""
