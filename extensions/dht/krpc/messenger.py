"""Sends queries to nodes and gives their replies to who asked: sockets, timeouts, pace."""

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
from extensions.dialing import is_public

MIN_LATE: Final = 0.2
MAX_LATE: Final = 0.6
"""Seconds after which a lookup goes on without a node's reply, between these two by what others took (RFC 6298)."""

TIMEOUT: Final = 2.0
"""Seconds after which a reply is no longer expected."""

MAX_IN_FLIGHT: Final = 64
"""Queries that wait for their reply at a time."""

SHUN: Final = 60.0
MAX_SHUN: Final = 600.0
"""Seconds that a silent node is not asked again; four times as many after each further silence, up to the second."""

OUTAGE: Final = 2 * TIMEOUT
"""Seconds of silence from all nodes that are put down to our own network."""

MAX_SHUNNED: Final = 10_000
HEARD: Final = 100
TICK: Final = 0.05
"""Seconds between two looks at the queries that wait."""

STRANGERS: Final = 50
"""Messages per second that are looked at though nobody there was asked."""


class Asker(Protocol):
    """Who hears what became of a query: `late` perhaps, and then one of the others."""

    def replied(self, contact: Contact, reply: Reply) -> None: ...
    def refused(self, contact: Contact, code: int) -> None: ...
    def late(self, contact: Contact) -> None: ...
    def silent(self, contact: Contact) -> None: ...


@dataclass(slots=True)
class Tally:
    """What was counted since the start."""

    queries: Counter[str] = field(default_factory=Counter)
    replies: int = 0
    refusals: int = 0
    timeouts: int = 0
    delayed: int = 0
    garbage: int = 0
    invalid_items: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(slots=True)
class _Pending:
    asker: Asker
    contact: Contact
    method: str
    arguments: dict[bytes, Any]
    sent: float = 0.0
    is_late: bool = False


class Messenger:
    """One UDP socket for each address family.

    With `private`, nodes may have any address; otherwise only global ones. At most `node_rate` packets go to one node
    within a second.
    """

    def __init__(self, private: bool, node_rate: int = NODE_RATE) -> None:
        self.node_id: Final = os.urandom(20)
        self.tally = Tally()
        self.heard: deque[Address] = deque(maxlen=HEARD)
        """Nodes that have replied lately."""
        self._private = private
        self._pace = NodePace(node_rate)
        self._sockets: dict[int, asyncio.DatagramTransport] = {}
        self._pending: dict[bytes, _Pending] = {}
        self._waiting: deque[_Pending] = deque()
        self._asked: Counter[Address] = Counter()
        self._shunned: dict[Address, tuple[float, float]] = {}
        self._silent_since: float | None = None
        self._is_cut_off = False
        self._strangers: deque[float] = deque(maxlen=STRANGERS)
        self._delay, self._delay_varies = MAX_LATE / 3, MAX_LATE / 6
        self._timers: set[asyncio.TimerHandle] = set()
        self._tick: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def in_flight(self) -> int:
        """Queries that wait for their reply."""
        return len(self._pending)

    @property
    def families(self) -> list[int]:
        """The address families (4, 6) there are sockets for."""
        return list(self._sockets)

    async def start(self, hosts: Iterable[str]) -> None:
        """Open a socket on a free port of each address. Raises `OSError` if none can be had."""
        self._loop = asyncio.get_running_loop()
        fault: OSError | None = None
        for host in hosts:
            if _family(host) in self._sockets:
                continue
            try:
                transport, _ = await self._loop.create_datagram_endpoint(
                    lambda: _Receiver(self._received), local_addr=(host, 0)
                )
            except OSError as error:
                fault = error
                structlog.get_logger().warning("dht_no_socket", extension="dht", host=host, error=str(error))
            else:
                self._sockets[_family(host)] = transport
        if fault and not self._sockets:
            raise fault

    def close(self) -> None:
        """Close the sockets; nobody hears of a query any more."""
        self._closed = True
        for timer in (*self._timers, self._tick):
            if timer:
                timer.cancel()
        for transport in self._sockets.values():
            transport.abort()
        self._pending.clear()
        self._waiting.clear()

    def is_usable(self, address: Address) -> bool:
        """Whether a node may be asked now."""
        host, port = address
        if not port or _family(host) not in self._sockets or not (self._private or is_public(host)):
            return False
        shunned = self._shunned.get(address)
        return not shunned or shunned[0] < self._loop.time()

    def ask(self, asker: Asker, contact: Contact, method: str, arguments: dict[bytes, Any]) -> None:
        """Send a query as soon as the pace allows; the asker hears what becomes of it after this has returned."""
        self._send_in_turn(_Pending(asker, contact, method, arguments))

    def _send_in_turn(self, pending: _Pending) -> None:
        if len(self._pending) >= MAX_IN_FLIGHT:
            self._waiting.append(pending)
            return
        now = self._loop.time()
        when = self._pace.grant(pending.contact.address, now)
        if when <= now:
            self._transmit(pending)
            return
        self.tally.delayed += 1

        def later() -> None:
            self._timers.discard(timer)
            if len(self._pending) < MAX_IN_FLIGHT:
                self._transmit(pending)
            else:
                # What the pace has granted is good for this moment only.
                self._waiting.append(pending)

        timer = self._loop.call_at(when, later)
        self._timers.add(timer)

    def _transmit(self, pending: _Pending) -> None:
        if self._closed:
            return
        transaction = os.urandom(4)
        while transaction in self._pending:
            transaction = os.urandom(4)
        address = pending.contact.address
        data = messages.query(pending.method, {b"id": self.node_id, **pending.arguments}, transaction)
        pending.sent = self._loop.time()
        self._pending[transaction] = pending
        self._asked[address] += 1
        if self._tick is None:
            self._tick = self._loop.call_later(TICK, self._on_tick)
        self.tally.queries[pending.method] += 1
        self.tally.bytes_out += len(data)
        # What the system cannot send is a query that nobody answers.
        self._sockets[_family(address[0])].sendto(data, address)

    def _received(self, data: bytes, address: Address) -> None:
        self.tally.bytes_in += len(data)
        if address not in self._asked:
            now = self._loop.time()
            if len(self._strangers) == STRANGERS and self._strangers[0] + 1.0 > now:
                return
            self._strangers.append(now)
        message = messages.decode(data)
        if isinstance(message, Question):
            self._sockets[_family(address[0])].sendto(messages.refusal(message.transaction), address)
            return
        pending = self._pending.get(message.transaction) if message else None
        if message is None or pending is None or pending.contact.address != address:
            self.tally.garbage += 1
            return
        self._settle(message.transaction)
        self._heard_from(address)
        if isinstance(message, Failure):
            self.tally.refusals += 1
            pending.asker.refused(pending.contact, message.code)
        else:
            self.tally.replies += 1
            self.heard.append(address)
            self._learn_delay(self._loop.time() - pending.sent)
            pending.asker.replied(pending.contact, message)

    def _settle(self, transaction: bytes) -> None:
        address = self._pending.pop(transaction).contact.address
        self._asked[address] -= 1
        if not self._asked[address]:
            del self._asked[address]
        while self._waiting and len(self._pending) < MAX_IN_FLIGHT:
            self._send_in_turn(self._waiting.popleft())

    def _learn_delay(self, delay: float) -> None:
        self._delay_varies += (abs(delay - self._delay) - self._delay_varies) / 4
        self._delay += (delay - self._delay) / 8

    def _on_tick(self) -> None:
        now = self._loop.time()
        late = min(MAX_LATE, max(MIN_LATE, self._delay + 4 * self._delay_varies))
        try:
            for transaction, pending in list(self._pending.items()):
                if now - pending.sent > TIMEOUT:
                    self.tally.timeouts += 1
                    self._heard_nothing(pending, now)
                    self._settle(transaction)
                    pending.asker.silent(pending.contact)
                elif not pending.is_late and now - pending.sent > late:
                    pending.is_late = True
                    pending.asker.late(pending.contact)
            self._pace.forget(now)
        finally:
            self._tick = self._loop.call_later(TICK, self._on_tick) if self._pending and not self._closed else None

    def _heard_from(self, address: Address) -> None:
        self._shunned.pop(address, None)
        self._silent_since = None
        if self._is_cut_off:
            # The nodes that were silent before that was noticed were so for the same reason.
            self._is_cut_off = False
            self._shunned.clear()

    def _heard_nothing(self, pending: _Pending, now: float) -> None:
        if self._silent_since is None:
            self._silent_since = pending.sent
        if now - self._silent_since > OUTAGE:
            # It is hardly all of them that are gone.
            self._is_cut_off = True
        if not self._is_cut_off:
            self._shun(pending.contact.address, now)

    def _shun(self, address: Address, now: float) -> None:
        _, seconds = self._shunned.pop(address, (0.0, SHUN / 4))
        seconds = min(MAX_SHUN, seconds * 4)
        if len(self._shunned) >= MAX_SHUNNED:
            del self._shunned[next(iter(self._shunned))]
        self._shunned[address] = now + seconds, seconds


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, received: Callable[[bytes, Address], None]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        try:
            self._received(data, (addr[0], addr[1]))
        except Exception:
            structlog.get_logger().exception("dht_message_failed")

    def error_received(self, exc: Exception) -> None:
        """An ICMP message, or what could not be sent: the query's timeout speaks for it."""


def _family(host: str) -> int:
    return 6 if ":" in host else 4
