"""The messages of this node to each other node, in order (sans I/O).

The messages of a node to another one are numbered, in *epochs*. An epoch begins with the whole state, and goes on with
changes. Statements are `control`; offers, answers and streams are `traffic`, which nothing repeats. When a
message is missing, the receiver asks for a new epoch. Statements that wait for too long are dropped, and a new epoch
begins when the other node can take it.

All times are seconds on any monotonic clock.
"""

from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from extensions.cluster.envelope import OVERHEAD, SINGLE, STREAM, Sealer
from extensions.cluster.numbers import Numbers
from extensions.cluster.reasons import Dropped, Resync
from extensions.cluster.transport import Transport
from extensions.cluster.wire import CLOSED, MAX_KEYS, MOVED, OPENED, AskAgain, Begin, Done, Ping, Tick, encode

HIGH_WATER: Final = 1 << 20
"""Bytes that wait in the transport from which on a session holds its own messages back."""

MAX_CONTROL: Final = 4 << 20
MAX_TRAFFIC: Final = 4 << 20
"""Bytes of messages of each sort that wait for one node."""

TICK_AFTER: Final = 1.0
MAX_TICK_AFTER: Final = 60.0
"""Seconds after the last message until its number is repeated; the delay doubles each time."""

ENOUGH: Final = 256 << 10
"""Bytes of statements that wait for one node beyond which nothing is retold to it."""

MIN_EPOCH: Final = 0.5
"""Seconds from the begin of an epoch until another one may begin."""

PING_PERIOD: Final = 10.0
"""Seconds between two measurements of the latency."""


class Traffic:
    """Counts messages in both directions."""

    __slots__ = (
        "answers_in",
        "answers_out",
        "bytes_in",
        "bytes_out",
        "messages_in",
        "messages_out",
        "offers_in",
        "offers_out",
    )

    def __init__(self) -> None:
        self.messages_in = 0
        self.messages_out = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.offers_in = 0
        self.offers_out = 0
        self.answers_in = 0
        self.answers_out = 0


class Sessions:
    """The sessions of this node with all others, and their common parts. `wake` makes the node flush soon."""

    def __init__(self, sealer: Sealer, transport: Transport, wake: Callable[[], None]) -> None:
        self.by_id: dict[str, Session] = {}
        self.by_raw: dict[bytes, Session] = {}
        """The same by the binary id."""
        self.ready: list[Session] = []
        """The sessions with messages that wait."""
        self.traffic = Traffic()
        self.dropped: Counter[Dropped] = Counter()
        self.resyncs: Counter[Resync] = Counter()
        self.sealer = sealer
        self.transport = transport
        self.wake = wake
        self.last_epoch = 0
        """Epochs grow over all sessions, so that also those of a node that was forgotten meanwhile do."""

    def add(self, node_id: str, now: float) -> "Session":
        """Return a new session."""
        session = Session(self, node_id, now)
        self.by_id[node_id] = session
        self.by_raw[session.raw] = session
        return session

    def remove(self, node_id: str) -> "Session":
        """Remove a session, which is over, and return it."""
        session = self.by_id.pop(node_id)
        del self.by_raw[session.raw]
        session.end()
        return session


class Session(Numbers):
    """This node and one other: the messages to it, and the numbers of those from it."""

    def __init__(self, sessions: Sessions, node_id: str, now: float) -> None:
        super().__init__(node_id)
        self.raw: Final = bytes.fromhex(node_id)
        self.is_over = False
        """Whether the other node is gone."""
        self.is_cut_off = False
        """Whether the transport was away, and the other node may not have its connection back."""
        self.traffic = Traffic()

        # What this node tells.
        self.epoch = 0
        self.seq = 0
        self.must_begin = True
        """Whether a new epoch must begin, because statements were lost, or none has begun yet."""
        self.told_since = 0.0
        """The time at which the epoch began."""
        self.jobs: set[str] = set()
        """The parts of the state that are still being told in this epoch; see `extensions.cluster.retelling`."""
        self._sessions = sessions
        self._is_ready = False
        self._control: list[bytes] = []
        self._traffic: deque[bytes] = deque()
        self._keys: list[str] = []
        self._about = 0
        """The type of the message that the keys belong to."""
        self.control_bytes = 0
        self.traffic_bytes = 0
        self._sent_at = now
        self._tick_after = TICK_AFTER
        self._ticked_at = now

        self.was_ignored = False
        """Whether the other node has told of linked peers when it did not count as the gateway."""
        self.ping_number = 0
        self.pinged_at = 0.0
        """The number and the time of the ping that was not answered yet; 0 for none."""
        self._ping_at = now

    @property
    def is_slow(self) -> bool:
        """Whether so many statements wait for the other node that nothing should be retold to it now."""
        return self.control_bytes > ENOUGH

    def end(self) -> None:
        """Drop all statements, because the other node is gone. `take_traffic` has the other messages."""
        self.is_over = True
        self._drop_control()

    def take_traffic(self) -> list[bytes]:
        """Return the offers, answers and streams that were not sent, and forget them."""
        traffic = list(self._traffic)
        self._traffic.clear()
        self.traffic_bytes = 0
        return traffic

    def put_control(self, part: bytes) -> None:
        """Tell a statement: an encoded message."""
        if self.must_begin or self.is_over:
            return  # Everything is told later.
        if self._keys and not self._put_keys():
            return
        self._control.append(part)
        self.control_bytes += len(part)
        if self.control_bytes > MAX_CONTROL:
            self.begin_later(Resync.SLOW_NODE)
        elif not self._is_ready:
            self._get_ready()

    def opened(self, key: str) -> None:
        """Tell that this node has peers in a swarm."""
        self._tell_key(OPENED, key)

    def closed(self, key: str) -> None:
        """Tell that this node has no more peers in a swarm."""
        self._tell_key(CLOSED, key)

    def moved(self, key: str) -> None:
        """Tell that the other node no longer owns an infohash."""
        self._tell_key(MOVED, key)

    def put_traffic(self, part: bytes) -> bool:
        """Send an encoded message that nothing repeats. Drop the oldest ones if too many wait.

        Return False if the other node is gone.
        """
        if self.is_over:
            self._sessions.dropped[Dropped.NO_ROUTE] += 1
            return False
        self._traffic.append(part)
        self.traffic_bytes += len(part)
        while self.traffic_bytes > MAX_TRAFFIC:
            self.traffic_bytes -= len(self._traffic.popleft())
            self._sessions.dropped[Dropped.SLOW_NODE] += 1
        if not self._is_ready:
            self._get_ready()
        return True

    def send_single(self, part: bytes) -> bool:
        """Send an encoded message at once, outside of the sequence. Return whether the transport took it."""
        return self._send(SINGLE, [part])

    def begin_later(self, why: Resync) -> None:
        """Drop all statements that wait; a new epoch will begin."""
        self._drop_control()
        if not self.must_begin:
            self.must_begin = True
            self._sessions.resyncs[why] += 1

    @property
    def must_wait(self) -> bool:
        """Whether no messages should be sent now."""
        return self.is_cut_off or self._sessions.transport.pending(self.node_id) > HIGH_WATER

    def can_begin(self, now: float) -> bool:
        """Return whether a new epoch must begin, and can."""
        if not self.must_begin or (self.epoch and now < self.told_since + MIN_EPOCH):
            return False
        return not self.must_wait

    def begin(self, first: list[bytes], now: float) -> None:
        """Begin a new epoch. `first` are messages that come before the others."""
        sessions = self._sessions
        again = self.epoch > 0
        sessions.last_epoch += 1
        self.epoch = sessions.last_epoch
        self.seq = 0
        self.must_begin = False
        self.told_since = now
        self._drop_control()
        for part in first:
            self.put_control(part)
        self.put_control(encode(Begin(self.heard_epoch, again)))

    def end_job(self, job: str) -> None:
        """Note that a part of the state has been told. When all parts have been, say so."""
        if job in self.jobs:
            self.jobs.discard(job)
            if not self.jobs:
                self.put_control(encode(Done()))

    def flush(self, now: float) -> None:
        """Send all messages that wait, unless the transport has too many already."""
        sessions = self._sessions
        transport = sessions.transport
        if self._keys:
            self._put_keys()
        self._is_ready = False
        if self.is_over or (not self.control_bytes and not self._traffic):
            return
        if self.must_wait:
            self._get_ready(wake=False)
            return
        room = transport.max_payload - OVERHEAD
        self._sent_at = self._ticked_at = now
        self._tick_after = TICK_AFTER
        if self.control_bytes + self.traffic_bytes <= room:
            control, traffic = self._control, list(self._traffic)
            self._forget_all()
            self._send_batch([*control, *traffic] if control and traffic else control or traffic, len(control))
        else:
            self._send_batches(room)

    def tick(self, now: float) -> None:
        """Repeat messages that may be lost, and measure the latency. Called about ten times in a second."""
        if self.must_ask(now):
            self.send_single(encode(AskAgain(self.heard_epoch)))
        if now >= self._ticked_at + self._tick_after and not self.must_begin:
            self._ticked_at = now
            self._tick_after = min(2 * self._tick_after, MAX_TICK_AFTER)
            self.send_single(encode(Tick()))
        if now >= self._ping_at:
            self._ping_at = now + PING_PERIOD
            self.ping_number += 1
            self.pinged_at = now
            self.send_single(encode(Ping(self.ping_number)))

    def ponged(self, number: int, now: float) -> float:
        """Return the seconds since a ping, or -1 if it is not the last one or has been answered before."""
        if number != self.ping_number or not self.pinged_at:
            return -1.0
        latency = now - self.pinged_at
        self.pinged_at = 0.0
        return latency

    def has_told_long(self, now: float) -> bool:
        """Return whether the epoch that this node tells has not just begun."""
        return not self.must_begin and now > self.told_since + TICK_AFTER

    def _tell_key(self, about: int, key: str) -> None:
        if self.must_begin or self.is_over:
            return
        if self._about != about or len(self._keys) >= MAX_KEYS:
            if not self._put_keys():
                return
            self._about = about
        self._keys.append(key)
        if not self._is_ready:
            self._get_ready()

    def _put_keys(self) -> bool:
        """Tell the keys that wait. Return False if these were too many, so that everything is told later."""
        keys, self._keys = self._keys, []
        if keys:
            self.put_control(encode((self._about, keys)))
        return not self.must_begin

    def _get_ready(self, wake: bool = True) -> None:
        self._is_ready = True
        self._sessions.ready.append(self)
        if wake:
            self._sessions.wake()

    def _drop_control(self) -> None:
        self._control = []
        self._keys = []
        self.control_bytes = 0

    def _forget_all(self) -> None:
        self._drop_control()
        self._traffic.clear()
        self.traffic_bytes = 0

    def _send_batches(self, room: int) -> None:
        """Send everything in messages of at most `room` bytes, as long as the transport takes them."""
        transport = self._sessions.transport
        control = len(self._control)
        parts = [*self._control, *self._traffic]
        self._forget_all()
        batch: list[bytes] = []
        size = statements = 0
        for index, part in enumerate(parts):
            if len(part) > room:
                self._sessions.dropped[Dropped.TOO_LONG] += 1
                continue
            if size + len(part) > room:
                self._send_batch(batch, statements)
                batch, size, statements = [], 0, 0
                if transport.pending(self.node_id) > HIGH_WATER:
                    self._keep(parts[index:], control - index)
                    return
            batch.append(part)
            size += len(part)
            if index < control:
                statements += 1
        if batch:
            self._send_batch(batch, statements)

    def _keep(self, parts: list[bytes], control: int) -> None:
        """Keep messages for later, of which the first `control` are statements."""
        control = max(0, control)
        if control and not self.must_begin:
            self._control = parts[:control]
            self.control_bytes = sum(map(len, self._control))
        self._traffic.extend(parts[control:])
        self.traffic_bytes = sum(map(len, self._traffic))
        self._get_ready(wake=False)

    def _send_batch(self, parts: list[bytes], statements: int) -> None:
        self.seq += 1
        if not self._send(STREAM, parts):
            self._sessions.dropped[Dropped.NOT_SENT] += len(parts) - statements
            self.seq -= 1
            if statements:
                self.begin_later(Resync.NOT_SENT)

    def _send(self, kind: int, parts: list[bytes]) -> bool:
        sessions = self._sessions
        payload = sessions.sealer.seal(kind, self.raw, self.epoch, self.seq, parts)
        if not sessions.transport.send(self.node_id, payload):
            return False
        size = len(payload)
        for traffic in (self.traffic, sessions.traffic):
            traffic.messages_out += 1
            traffic.bytes_out += size
        return True
