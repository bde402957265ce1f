"""Measures what one offer and one answer cost between two nodes: python -m benchmarks.nodes [--mac]

Two nodes with their hubs, in one process, on a bus. The figures are microseconds of CPU time at the node that sends,
from the call of the hub to the transport, and at the node that receives, from the transport to the outbox.
"""

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import click

from extensions.cluster.envelope import Sealer, derive_key
from extensions.cluster.node import Node
from extensions.cluster.transport import Bus
from tracker.core.hub import Hub
from tracker.core.nodes import NodePeers
from tracker.core.rules import Rules
from tracker.core.swarm import Connection, Peer
from tracker.extension import LEECHERS, Answer, Offer, make_answer, make_offer
from tracker.protocol.errors import RequestError
from tracker.protocol.messages import Announce

HASH: Final = "\xff" * 10 + "a" * 10
SDP: Final = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\n" + "a=candidate:1 1 udp 1 192.0.2.1 50000 typ host\r\n" * 30
ROUNDS: Final = 5000
REPEATS: Final = 8
"""Of which the fastest one counts: other programs disturb all."""


class _Connection:
    """A client that takes everything."""

    def __init__(self) -> None:
        self.peers: set[Peer] = set()
        self.address = "192.0.2.1"
        self.handshake = b""
        self.last_received = float("inf")

    @property
    def network(self) -> str:
        return self.address

    @property
    def client(self) -> object:
        return self

    @property
    def is_full(self) -> bool:
        return False

    def ping(self) -> None:
        """Do nothing."""


class _Outbox:
    """Counts what is sent."""

    def __init__(self) -> None:
        self.sent = 0

    def reply(self, connection: Connection, info_hash: str, interval: int, complete: int, incomplete: int) -> None:
        """Do nothing."""

    def offers(self, _info_hash: str, _peer_id: str, receivers: list[Peer], _offers: list[Offer]) -> None:
        self.sent += len(receivers)

    def answer(self, _connection: Connection, _answer: Answer) -> None:
        self.sent += 1

    def scrape(self, connection: Connection, counts: list[tuple[str, int, int]]) -> None:
        """Do nothing."""

    def failure(self, connection: Connection, error: RequestError) -> None:
        """Do nothing."""


class _Listener:
    def node_joined(self, *_: Any) -> None: ...
    def node_left(self, *_: Any) -> None: ...
    def gateway_changed(self, *_: Any) -> None: ...
    def refused(self, *_: Any) -> None: ...
    def round_trip(self, *_: Any) -> None: ...
    def accept(self, *_: Any) -> None: ...


class _Load:
    label, group, version, tracker_id, started, is_capable = "", "", "1", "t", 0, False

    def numbers(self) -> tuple[int, int, int, int]:
        return 0, 0, 0, 0


class Clock:
    """A clock that only moves when told to, so that no limit on rates is reached."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Place:
    """A node and its hub."""

    def __init__(self, bus: Bus, clock: Clock, node_id: str, mac: bool) -> None:
        self.clock = clock
        self.outbox = _Outbox()
        self.hub = Hub(Rules(), random.Random(1).random)
        self.peers = NodePeers(self.hub, self.outbox)
        self.transport = bus.transport(needs_mac=mac)
        self.soon: list[Callable[[], None]] = []
        sealer = Sealer(node_id, "bench", derive_key(b"secret", "bench") if mac else None)
        self.node = Node(
            node_id,
            _Load(),
            sealer,
            self.transport,
            self.peers,
            self.hub.swarms,
            clock,
            self.soon.append,
            _Listener(),
        )
        self.peers.attach(self.node)
        self.transport.begin(node_id, self.node.receive, self.node.lost, self.node.connected)

    def join(self, peer_id: str) -> None:
        """Let a peer join."""
        self.hub.apply(_Connection(), Announce(HASH, peer_id, False, False, []), self.clock(), self.outbox)

    def turn(self) -> None:
        """Do what waits for the next turn of the event loop."""
        soon, self.soon[:] = list(self.soon), []
        for call in soon:
            call()


def settle(bus: Bus, *places: Place) -> None:
    """Let the nodes tell each other everything."""
    for _ in range(50):
        for place in places:
            place.turn()
        bus.run()


def measure(bus: Bus, sender: Place, receiver: Place, put: Callable[[], object], batch: int, count: int) -> str:
    """Return the CPU times of sending and receiving, for each of the `count` items of a call."""
    best_sending = best_receiving = float("inf")
    for _ in range(REPEATS):
        sending = receiving = 0.0
        for _ in range(ROUNDS // batch):
            start = time.thread_time()
            for _ in range(batch):
                put()
            sender.turn()
            middle = time.thread_time()
            bus.run()
            receiving += time.thread_time() - middle
            sending += middle - start
            sender.clock.now += 0.01
            receiver.soon.clear()
        best_sending, best_receiving = min(best_sending, sending), min(best_receiving, receiving)
    rounds = ROUNDS // batch
    own = rounds * _cost_of_clock()
    scale = 1e6 / (rounds * batch * count)
    sending, receiving = (best_sending - own) * scale, (best_receiving - own) * scale
    return f"{sending:5.2f} us at the sender, {receiving:5.2f} us at the receiver"


def _cost_of_clock() -> float:
    """Return the seconds that reading the clock adds to each measured time."""
    costs = []
    for _ in range(REPEATS):
        start = time.thread_time()
        for _ in range(ROUNDS):
            time.thread_time()
        costs.append((time.thread_time() - start) / ROUNDS)
    return min(costs)


@click.command()
@click.option("--mac", is_flag=True, help="With a MAC, as over NATS.")
def main(mac: bool) -> None:
    """Print the figures."""
    bus = Bus()
    clock = Clock()
    here, there = Place(bus, clock, "1" * 16, mac), Place(bus, clock, "2" * 16, mac)
    for place in (here, there):
        place.node.tick()
    settle(bus, here, there)
    here.join("a" * 20)
    for number in range(30):
        there.join(f"{number:020}")
    settle(bus, here, there)
    clock.now += 0.2
    there.node.tick()
    settle(bus, here, there)
    member = here.peers.get(HASH, there.node.node_id, LEECHERS)
    assert member
    offers = [make_offer(f"{number:020}", SDP) for number in range(5)]
    answer = make_answer(HASH, f"{0:020}", "a" * 20, f"{1:020}", SDP)
    for batch in (1, 10):
        for count in (1, 5):
            put = partial(here.node.offers, member, "a" * 20, offers[:count], 0)
            figures = measure(bus, here, there, put, batch, count)
            print(f"{batch:2} messages a turn, offers by {count}: {figures}")
        figures = measure(bus, there, here, partial(there.node.answer, answer, False), batch, 1)
        print(f"{batch:2} messages a turn, answers:     {figures}")
    print(f"{there.outbox.sent} offers and {here.outbox.sent} answers delivered; {here.node.parts.sessions.dropped}")


if __name__ == "__main__":
    main()
