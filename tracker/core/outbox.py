"""The interface between the hub and its peers' connections (sans I/O)."""

from typing import Protocol

from tracker.core.swarm import Connection, Peer
from tracker.protocol.errors import RequestError
from tracker.protocol.messages import Answer, Offer


class Outbox(Protocol):
    """Takes the messages that the hub sends.

    Only an outbox knows how to encode messages and how to send them to a connection. Its methods return at once and do
    not raise. A message to a slow or closed connection is dropped.
    """

    def reply(self, connection: Connection, info_hash: str, interval: int, complete: int, incomplete: int) -> None:
        """Answer an announce with the swarm's counts and `interval`, the seconds until the next announce."""

    def offers(self, info_hash: str, peer_id: str, receivers: list[Peer], offers: list[Offer]) -> None:
        """Send the offers of one peer, the first offer to the first receiver and so on. Surplus receivers get none."""

    def answer(self, connection: Connection, answer: Answer) -> None:
        """Send an answer to the connection on which the offer was made."""

    def scrape(self, connection: Connection, counts: list[tuple[str, int, int]]) -> None:
        """Answer a scrape with (info_hash, complete, incomplete) for each swarm."""

    def failure(self, connection: Connection, error: RequestError) -> None:
        """Answer a request that cannot be served with a failure."""
