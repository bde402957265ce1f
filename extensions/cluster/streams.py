"""Streams of data between two nodes, in pieces that arrive whole and in order (sans I/O)."""

from collections.abc import Callable
from typing import Final, Protocol

from extensions.cluster.reasons import Dropped
from extensions.cluster.session import MAX_TRAFFIC, Session, Sessions
from extensions.cluster.wire import CHUNK, Chunk, encode

MAX_PIECE: Final = 64 << 10
"""The longest piece of data, in bytes."""

MAX_STREAMS: Final = 4096
"""Most streams with one other node that it has opened."""


class Receiver(Protocol):
    """Takes the data of a stream."""

    def on_data(self, data: bytes) -> None: ...
    def on_end(self) -> None: ...


class NodeStream:
    """A stream with another node. If a piece is lost, it ends."""

    def __init__(self, streams: "Streams", session: Session, number: int) -> None:
        self.receiver: Receiver | None = None
        self.is_open = True
        self.session: Final = session
        self.number: Final = number
        """The number of the stream, doubled, and one more if the other node has opened it."""
        self.received = 0
        """The pieces that have arrived."""
        self._streams = streams
        self._sent = 0

    def send(self, data: bytes) -> bool:
        """Send at most `MAX_PIECE` bytes. Return whether the stream is still open."""
        if self.is_open and not self.put(data, False):
            self.lose()
        return self.is_open

    def end(self) -> None:
        """End the stream, behind the data that was sent."""
        if self.is_open:
            self.is_open = False
            self.put(b"", True)
            self._streams.forget(self)

    def lose(self) -> None:
        """End the stream because data was lost, or the other node."""
        if self.is_open:
            self.end()
            if self.receiver is not None:
                self.receiver.on_end()

    def put(self, data: bytes, is_end: bool) -> bool:
        """Send a piece of data. Return False if that is not possible."""
        session = self.session
        if session.is_over or (not is_end and session.traffic_bytes + len(data) > MAX_TRAFFIC):
            return False
        # The other node sees the number from its side.
        part = encode((CHUNK, self.number ^ 1, self._sent, is_end, data))
        self._sent += 1
        return session.put_traffic(part)


class Streams:
    """All streams with other nodes. `accept` returns the receiver of a stream with a first piece, or None."""

    def __init__(self, sessions: Sessions, accept: Callable[[bytes, NodeStream], Receiver | None]) -> None:
        self._sessions = sessions
        self._accept = accept
        self._streams: dict[tuple[str, int], NodeStream] = {}
        self._accepted: dict[str, int] = {}
        """The number of streams that each node has opened."""
        self._next = 0

    def __len__(self) -> int:
        return len(self._streams)

    def open(self, session: Session, opening: bytes, receiver: Receiver) -> NodeStream | None:
        """Open a stream to a node, whose first piece is `opening`. Return None if it cannot be sent."""
        self._next += 1
        stream = NodeStream(self, session, 2 * self._next)
        stream.receiver = receiver
        self._streams[session.node_id, stream.number] = stream
        if not stream.put(opening, False):
            stream.receiver = None
            stream.lose()
            return None
        return stream

    def on_chunk(self, session: Session, message: Chunk) -> None:
        """Take a piece of data from another node."""
        stream = self._streams.get((session.node_id, message.stream))
        if stream is None:
            self._on_first(session, message)
        elif message.number != stream.received:
            stream.lose()
        elif message.end:
            stream.is_open = False
            self.forget(stream)
            if stream.receiver is not None:
                stream.receiver.on_end()
        else:
            stream.received += 1
            if stream.receiver is not None:
                stream.receiver.on_data(bytes(message.data))

    def ended(self, session: Session) -> None:
        """End all streams with a node that is gone."""
        for stream in [stream for stream in self._streams.values() if stream.session is session]:
            stream.lose()
        self._accepted.pop(session.node_id, None)

    def end_all(self) -> None:
        """End all streams."""
        for stream in list(self._streams.values()):
            stream.lose()

    def forget(self, stream: NodeStream) -> None:
        """Forget a stream that has ended."""
        node_id = stream.session.node_id
        if self._streams.pop((node_id, stream.number), None) is not None and stream.number & 1:
            self._accepted[node_id] = self._accepted.get(node_id, 1) - 1

    def _on_first(self, session: Session, message: Chunk) -> None:
        # Pieces of a stream that has ended here are on their way for a while.
        if message.number or message.end or not message.stream & 1:
            return
        node_id = session.node_id
        stream = NodeStream(self, session, message.stream)
        stream.received = 1
        self._streams[node_id, stream.number] = stream
        self._accepted[node_id] = self._accepted.get(node_id, 0) + 1
        if self._accepted[node_id] > MAX_STREAMS:
            self._sessions.dropped[Dropped.TOO_MANY_STREAMS] += 1
            stream.end()
            return
        stream.receiver = self._accept(bytes(message.data), stream)
        if stream.receiver is None:
            stream.end()
