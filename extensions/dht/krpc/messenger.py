"""Sends queries to nodes and passes their replies on: sockets, timeouts, pace."""

import asyncio
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import structlog

from extensions.dht.krpc import messages
from extensions.dht.krpc.messages import Address, Contact, Failure, Question, Reply
from extensions.dht.krpc.pacing import NODE_RATE, NodePace
from extensions.dht.krpc.reception import Reception
from extensions.dht.krpc.sockets import family_of, open_socket
from extensions.dialing import is_public
from tracker.extension import ExpiringMap, TokenBucket

MIN_SLOW: Final = 0.2
MAX_SLOW: Final = 0.6
"""Bounds, in seconds, of the soft timeout after which a lookup goes on without a node's reply.

Between them it follows the round-trip times measured, as the retransmission timeout of TCP does (RFC 6298).
"""

TIMEOUT: Final = 2.0
"""Seconds after which a query has failed."""

MAX_IN_FLIGHT: Final = 512
"""Queries waiting for a reply at a time: about as many as 20 lookups per second have if a quarter of nodes are dead."""

AVOID: Final = 60.0
MAX_AVOID: Final = 600.0
"""Seconds for which a node is not queried after a timeout; four times as many after each further one, up to the second.
"""

MEMORY: Final = 2 * MAX_AVOID
"""Seconds after which a node's timeouts are forgotten."""

CONFIRMED: Final = 24 * 3600.0
MAX_CONFIRMED: Final = 2000
"""Seconds for which a node that has answered is remembered, and the number of such nodes. After an outage, they are the
nodes that lookups start from."""

MAX_AVOIDED: Final = 10_000
MAX_RESPONDERS: Final = 100
TICK: Final = 0.05
"""Seconds between two checks of the pending queries for timeouts."""

UNSOLICITED: Final = 50
"""Datagrams per second that are decoded though they have no transaction id of a pending query to their sender. To
decode one takes up to a millisecond."""

MAX_TRIES: Final = 3
"""Datagrams with the transaction id of a query that are decoded, in addition to `UNSOLICITED`."""


class QueryListener(Protocol):
    """Receives the outcome of a query: perhaps `on_slow`, and then exactly one of the other calls."""

    def on_reply(self, contact: Contact, reply: Reply) -> None: ...
    def on_error(self, contact: Contact, code: int) -> None: ...
    def on_slow(self, contact: Contact) -> None: ...
    def on_timeout(self, contact: Contact) -> None: ...


@dataclass(slots=True)
class Counters:
    """Counts since the start."""

    queries: Counter[str] = field(default_factory=Counter)
    """By method."""
    replies: int = 0
    refusals: int = 0
    """Error messages."""
    timeouts: int = 0
    delayed: int = 0
    """Queries that had to wait because of the pace."""
    garbage: int = 0
    """Datagrams that answered no query."""
    invalid_items: int = 0
    stores_failed: int = 0
    """Nodes that have not taken a value or an announcement, without those that had a newer value."""
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(slots=True)
class _Pending:
    listener: QueryListener
    contact: Contact
    method: str
    arguments: dict[bytes, Any]
    sent: float = 0.0
    is_slow: bool = False
    tries: int = 0
    """Datagrams that could be its reply."""


class Messenger:
    """One UDP socket for each address family.

    It is *cut off* if no node answers any more, in any address family. If some answer in another family, the nodes of
    a family that is cut off count as not usable until a `ping` is answered. `on_cut_off` is called when that changes.

    With `private`, nodes may have any address; otherwise only global ones. At most `node_rate` packets per second go
    to one node. `loop` is the running loop if it is not given.
    """

    def __init__(
        self, private: bool, node_rate: int = NODE_RATE, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self.node_id: Final = os.urandom(20)
        self.counters = Counters()
        self._private = private
        self._pace = NodePace(node_rate)
        self._given_loop = loop
        self._sockets: dict[int, asyncio.DatagramTransport] = {}
        self._pending: dict[bytes, _Pending] = {}
        self._waiting: deque[_Pending] = deque()
        self.on_cut_off: Callable[[bool], object] = lambda _: None
        self._responders: deque[Address] = deque(maxlen=MAX_RESPONDERS)
        self._confirmed: ExpiringMap[Address, bytes] = ExpiringMap(CONFIRMED, MAX_CONFIRMED)
        """The ids of the nodes that have answered."""
        self._avoided: ExpiringMap[Address, tuple[float, float]] = ExpiringMap(MEMORY, MAX_AVOIDED)
        """The time until which a node is avoided, and the seconds before that."""
        self._receptions: dict[int, Reception] = {}
        self._is_cut_off = False
        self._unsolicited = TokenBucket(UNSOLICITED, UNSOLICITED, 0.0)
        self._round_trip, self._deviation = MAX_SLOW / 3, MAX_SLOW / 6
        self._timers: set[asyncio.TimerHandle] = set()
        self._tick: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def in_flight(self) -> int:
        """Queries waiting for a reply."""
        return len(self._pending)

    @property
    def families(self) -> list[int]:
        """The address families (4, 6) that have a socket."""
        return list(self._sockets)

    @property
    def is_cut_off(self) -> bool:
        """Whether queries have no replies any more, in any address family."""
        return self._is_cut_off

    def reception(self, family: int) -> Reception:
        """Return whether nodes of an address family answer. Raises `KeyError` if the family has no socket."""
        return self._receptions[family]

    async def start(self, hosts: Iterable[str]) -> None:
        """Open a socket on a free port of each address, one for each family.

        Raises `OSError` if none can be opened.
        """
        self._loop = self._given_loop or asyncio.get_running_loop()
        fault: OSError | None = None
        for host in hosts:
            if family_of(host) in self._sockets:
                continue
            try:
                transport = await open_socket(self._loop, host, self._on_datagram)
            except OSError as error:
                fault = error
                self._log_no_socket(host, error)
            else:
                self._sockets[family_of(host)] = transport
                self._receptions[family_of(host)] = Reception(self._loop.time())
        if fault and not self._sockets:
            raise fault

    def _log_no_socket(self, host: str, error: OSError) -> None:
        log = structlog.get_logger().bind(extension="dht", host=host)
        if host in ("::", "0.0.0.0"):
            # All addresses of a family that the host does not have.
            log.info("dht_no_socket", error=str(error))
        else:
            log.warning("dht_no_socket", error=str(error))

    def close(self) -> None:
        """Close the sockets. Listeners receive no more calls."""
        self._is_closed = True
        for timer in (*self._timers, self._tick):
            if timer:
                timer.cancel()
        for transport in self._sockets.values():
            transport.abort()
        self._pending.clear()
        self._waiting.clear()

    def is_allowed(self, address: Address) -> bool:
        """Return whether a node at this address may be queried at all."""
        host, port = address
        return bool(port) and family_of(host) in self._sockets and (self._private or is_public(host))

    def is_usable(self, address: Address) -> bool:
        """Return whether a node may be queried now."""
        if not self.is_allowed(address):
            return False
        if self._receptions[family_of(address[0])].is_cut_off and not self._is_cut_off:
            # The other family will do, and costs no timeouts.
            return False
        now = self._loop.time()
        avoided = self._avoided.get(address, now)
        return not avoided or avoided[0] < now

    def take_responders(self) -> list[Address]:
        """Return the last nodes that have replied since the last call, `MAX_RESPONDERS` at most."""
        responders = list(dict.fromkeys(self._responders))
        self._responders.clear()
        return responders

    def has_answered(self, address: Address) -> bool:
        """Return whether a node has answered lately, and has missed no query since."""
        now = self._loop.time()
        return self._confirmed.get(address, now) is not None and self._avoided.get(address, now) is None

    def confirmed(self, family: int, with_silent: bool = False) -> list[Contact]:
        """Return the nodes of an address family for which `has_answered` is true, the last ones first.

        `with_silent` includes those that have missed a query since.
        """
        now, found = self._loop.time(), []
        for address in self._confirmed:
            node_id = self._confirmed.get(address, now)
            is_silent = self._avoided.get(address, now) is not None
            if node_id and family_of(address[0]) == family and (with_silent or not is_silent):
                found.append(Contact(node_id, address))
        return found[::-1]

    def ping(self, contact: Contact) -> None:
        """Send a query whose only purpose is to see whether the node answers. It may have been avoided."""
        self.query(_Nothing(), contact, "ping", {})

    def forget_timeouts(self) -> None:
        """Query nodes again although they have not answered lately."""
        self._avoided.clear()

    def query(self, listener: QueryListener, contact: Contact, method: str, arguments: dict[bytes, Any]) -> None:
        """Send a query as soon as the pace allows. The listener is called after this has returned."""
        self._send_in_turn(_Pending(listener, contact, method, arguments))

    def _send_in_turn(self, pending: _Pending) -> None:
        if len(self._pending) >= MAX_IN_FLIGHT:
            self._waiting.append(pending)
            return
        now = self._loop.time()
        when = self._pace.grant(pending.contact.address, now)
        if when <= now:
            self._transmit(pending)
            return
        self.counters.delayed += 1

        def later() -> None:
            self._timers.discard(timer)
            if len(self._pending) < MAX_IN_FLIGHT:
                self._transmit(pending)
            else:
                # The pace has granted this moment only.
                self._waiting.append(pending)

        timer = self._loop.call_at(when, later)
        self._timers.add(timer)

    def _transmit(self, pending: _Pending) -> None:
        if self._is_closed:
            return
        transaction = os.urandom(messages.TRANSACTION)
        while transaction in self._pending:
            transaction = os.urandom(messages.TRANSACTION)
        address = pending.contact.address
        data = messages.query(pending.method, {b"id": self.node_id, **pending.arguments}, transaction)
        pending.sent = self._loop.time()
        self._pending[transaction] = pending
        if self._tick is None:
            self._tick = self._loop.call_later(TICK, self._on_tick)
        self.counters.queries[pending.method] += 1
        self.counters.bytes_out += len(data)
        # A query that the system cannot send ends with its timeout.
        self._sockets[family_of(address[0])].sendto(data, address)

    def _on_datagram(self, data: bytes, address: Address) -> None:
        self.counters.bytes_in += len(data)
        expected = self._pending.get(messages.transaction_of(data))
        if expected and expected.contact.address == address and expected.tries < MAX_TRIES:
            expected.tries += 1
        elif not self._unsolicited.try_take(1, self._loop.time()):
            return
        message = messages.decode(data)
        if isinstance(message, Question):
            self._sockets[family_of(address[0])].sendto(messages.refusal(message.transaction), address)
            return
        pending = self._pending.get(message.transaction) if message else None
        if message is None or pending is None or pending.contact.address != address:
            self.counters.garbage += 1
            return
        self._settle(message.transaction)
        self._note_answer(address, message)
        if isinstance(message, Failure):
            self.counters.refusals += 1
            pending.listener.on_error(pending.contact, message.code)
        else:
            self.counters.replies += 1
            self._responders.append(address)
            self._measure(self._loop.time() - pending.sent)
            pending.listener.on_reply(pending.contact, message)

    def _settle(self, transaction: bytes) -> None:
        del self._pending[transaction]
        while self._waiting and len(self._pending) < MAX_IN_FLIGHT:
            self._send_in_turn(self._waiting.popleft())

    def _measure(self, round_trip: float) -> None:
        self._deviation += (abs(round_trip - self._round_trip) - self._deviation) / 4
        self._round_trip += (round_trip - self._round_trip) / 8

    def _on_tick(self) -> None:
        now = self._loop.time()
        slow = min(MAX_SLOW, max(MIN_SLOW, self._round_trip + 4 * self._deviation))
        try:
            for transaction, pending in list(self._pending.items()):
                if now - pending.sent > TIMEOUT:
                    self.counters.timeouts += 1
                    self._note_timeout(pending, now)
                    self._settle(transaction)
                    pending.listener.on_timeout(pending.contact)
                elif not pending.is_slow and now - pending.sent > slow:
                    pending.is_slow = True
                    pending.listener.on_slow(pending.contact)
            self._pace.forget(now)
            self._avoided.expire(now)
            self._confirmed.expire(now)
        finally:
            self._tick = self._loop.call_later(TICK, self._on_tick) if self._pending and not self._is_closed else None

    def _note_answer(self, address: Address, message: Reply | Failure) -> None:
        now = self._loop.time()
        self._avoided.pop(address)
        if isinstance(message, Reply):
            self._confirmed.put(address, message.node_id, now)
        # The timeouts before the outage was noticed had the same cause.
        for wrongly in self._receptions[family_of(address[0])].answered(now):
            self._avoided.pop(wrongly)
        self._update_cut_off()

    def _note_timeout(self, pending: _Pending, now: float) -> None:
        address = pending.contact.address
        is_known = self._confirmed.get(address, now) is not None
        if self._receptions[family_of(address[0])].timed_out(address, pending.sent, is_known):
            self._avoid(address, now)
        self._update_cut_off()

    def _update_cut_off(self) -> None:
        receptions = self._receptions.values()
        # A family without any nodes is never cut off, and helps nothing.
        is_cut_off = any(one.is_cut_off for one in receptions) and not any(one.works for one in receptions)
        if is_cut_off != self._is_cut_off:
            self._is_cut_off = is_cut_off
            self.on_cut_off(is_cut_off)

    def _avoid(self, address: Address, now: float) -> None:
        _, before = self._avoided.get(address, now) or (0.0, AVOID / 4)
        seconds = min(MAX_AVOID, before * 4)
        self._avoided.put(address, (now + seconds, seconds), now)


class _Nothing:
    """Ignores the outcome of a query."""

    def on_reply(self, contact: Contact, reply: Reply) -> None: ...
    def on_error(self, contact: Contact, code: int) -> None: ...
    def on_slow(self, contact: Contact) -> None: ...
    def on_timeout(self, contact: Contact) -> None: ...
