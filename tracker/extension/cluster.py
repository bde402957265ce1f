"""The other nodes of a cluster, as the extension host sees them (sans I/O).

An extension implements `Cluster`: it carries questions and streams from the other nodes to the gateway.
"""

from collections.abc import Awaitable
from typing import Protocol


class Receiver(Protocol):
    """Takes the data of a stream. Its methods return at once and do not raise."""

    def on_data(self, data: bytes) -> None:
        """Take one piece of data, as it was sent."""

    def on_end(self) -> None:
        """Take notice that the stream has ended: no data will come any more. It is not called after `Stream.end`."""


class Stream(Protocol):
    """A stream between this node and another one. Pieces of data arrive whole, in order, and each once.

    If one is lost, the stream ends.
    """

    def send(self, data: bytes) -> bool:
        """Send at most `Cluster.max_piece` bytes. Return whether the stream is still open."""
        ...

    def end(self) -> None:
        """End the stream, behind the data that was sent."""
        ...


class Cluster(Protocol):
    """The other nodes. All methods return at once or are cancelled without harm. They raise no exception."""

    max_piece: int
    """The longest piece of data on a stream, in bytes."""

    def ask_gateway(self, question: bytes) -> Awaitable[bytes | None]:
        """Ask the gateway, which calls `Gateway.answer`. Return None if there is no gateway, or no answer in time."""
        ...

    def open_stream(self, opening: bytes, receiver: Receiver) -> Stream | None:
        """Open a stream to the gateway, which calls `Gateway.accept`. Return None if there is no gateway."""
        ...
