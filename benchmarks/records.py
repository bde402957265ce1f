"""Simulates a record of up to 10 000 trackers, and computes the load of the nodes: `python -m benchmarks.records`.

The trackers are simulated in virtual time with the product's own choices (`tests/unit/dht/crowd.py`). They join within
one hour, as after an outage, and live for some hours more. The sizes of replies are measured with libtorrent nodes on
loopback, which store full values. The most loaded node is one of the eight that store the slot that is read most.
"""

import argparse
import asyncio
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import mean, quantiles
from typing import Any, Final

from extensions.dht.krpc import messages
from extensions.dht.krpc.client import Client
from extensions.dht.krpc.messages import Address, Failure, Reply
from extensions.dht.krpc.schedule import Job
from extensions.dht.records.keys import WINDOW, announce_hash, record_key
from extensions.dht.records.slots import encode_slot
from extensions.dht.tracked import ANNOUNCE
from extensions.trackers import TrackerEntry
from tests.private_dht import PrivateDht
from tests.unit.dht.crowd import HASH, URL, Crowd, run
from tracker.logs import configure

NUMBERS: Final = (100, 1000, 10_000)
HOUR: Final = 3600.0
HOURS: Final = 5
"""Hours that are simulated: in the first one the trackers join, the last one counts as the long run."""

NODES: Final = 20
ANNOUNCED: Final = 100
"""Peers that a node has for the announced hash: it sends as many in one reply."""

LIMIT: Final = 8000
"""Bytes per second that a libtorrent node sends by default (`dht_upload_rate_limit`)."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of the UDP payload of a node's replies."""

    get: int
    put: int
    refusal: int
    get_peers: int
    announce: int


class _Asker(asyncio.DatagramProtocol):
    """Sends queries from one address, because a token is valid for that only."""

    def __init__(self) -> None:
        self._reply: asyncio.Future[bytes]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, _address: Any) -> None:
        if not self._reply.done():
            self._reply.set_result(data)

    async def ask(self, node: Address, method: str, arguments: dict[bytes, Any]) -> tuple[int, Reply | Failure]:
        """Send a query, and return the bytes of the reply and the reply."""
        self._reply = asyncio.get_running_loop().create_future()
        self.transport.sendto(messages.query(method, {b"id": bytes(20), **arguments}, os.urandom(2)), node)
        data = await asyncio.wait_for(self._reply, 5)
        message = messages.decode(data)
        assert isinstance(message, Reply | Failure)
        return len(data), message


async def measure_sizes() -> Sizes:
    """Measure the replies of a libtorrent node that stores a full value, and a hundred announced peers."""
    async with PrivateDht(NODES) as dht:
        client = Client(dht.contacts, private=True, node_rate=1000)
        await client.start(["127.0.0.1"])
        key, announced = record_key(HASH, 20000), announce_hash(HASH, 20000)
        public_key = key.public_key().public_bytes_raw()
        value = encode_slot([TrackerEntry(f"{n:064x}", int(time.time()), URL, bytes(64)) for n in range(6)], 10)
        found = await client.get(public_key, WINDOW, Job(), lambda _: None)
        await client.put(found, key, WINDOW, 1, value)
        for port in range(1, ANNOUNCED + 1):
            peers = await client.get_peers(announced, Job(), lambda _node, _peers: None)
            await client.announce(peers, announced, port)
        client.close()
        _, asker = await asyncio.get_running_loop().create_datagram_endpoint(_Asker, ("127.0.0.1", 0))
        node = found.candidates[0].contact.address
        get, reply = await asker.ask(node, "get", {b"target": messages.item_target(public_key, WINDOW)})
        assert isinstance(reply, Reply)
        own = {b"k": public_key, b"salt": WINDOW, b"token": reply.token, b"v": value}
        signed = {**own, b"seq": 2, b"sig": messages.sign_item(key, WINDOW, 2, value)}
        refusal, failure = await asker.ask(node, "put", {**signed, b"cas": 9})
        put, stored = await asker.ask(node, "put", {**signed, b"cas": 1})
        assert isinstance(failure, Failure)
        assert isinstance(stored, Reply)
        node = peers.candidates[0].contact.address
        get_peers, reply = await asker.ask(node, "get_peers", {b"info_hash": announced})
        assert isinstance(reply, Reply)
        assert len(reply.peers) == ANNOUNCED
        announcement = {b"info_hash": announced, b"port": 1, b"token": reply.token}
        announce, _ = await asker.ask(node, "announce_peer", announcement)
        asker.transport.close()
        return Sizes(get, put, refusal, get_peers, announce)


@dataclass(frozen=True)
class Period:
    """The mean load in one hour: queries per second to each node that stores the slot, shard or hash."""

    slot_gets: float
    slot_puts: float
    shard_gets: float
    announced_gets: float
    announces: float
    lookups: float
    """Lookups of one visit, mean."""

    def slot_bytes(self, sizes: Sizes) -> float:
        """Return the bytes per second that a node of the slot sends which is read most."""
        return self.slot_gets * sizes.get + self.slot_puts * max(sizes.put, sizes.refusal)

    def shard_bytes(self, sizes: Sizes) -> float:
        """Return the same for the shard that is read most. Each visit that reads it also writes it, at most."""
        return self.shard_gets * (sizes.get + max(sizes.put, sizes.refusal))

    def announced_bytes(self, sizes: Sizes) -> float:
        """Return the same for the hash that BEP 5 announces for the rendezvous."""
        return (self.announced_gets + self.announces) * sizes.get_peers + self.announces * sizes.announce


@dataclass
class Result:
    """The result of one simulation."""

    number: int
    seconds: float
    living: int
    gaps: int
    depths: dict[int, int]
    cold: Period
    late: Period
    window_rate: float
    """Writes to the window that were stored, per second, while the trackers joined."""
    announcers: int
    sampled: list[int]
    """How often the samples of the last hour have held each tracker."""


def _period(crowd: Crowd, hour: int) -> Period:
    announces = sum(tracker.announces for tracker in crowd.trackers) / (sum(ANNOUNCE) / 2)
    return Period(
        crowd.most(crowd.reads, hour) / HOUR,
        crowd.most(crowd.writes, hour) / HOUR,
        crowd.most(crowd.reads, hour, shards=True) / HOUR,
        crowd.bep5_reads[hour] / HOUR,
        announces,
        mean(crowd.lookups_between(hour * HOUR, (hour + 1) * HOUR)),
    )


def simulate(number: int, seed: int = 1) -> Result:
    """Let so many trackers join within an hour, and live for some hours."""
    results: list[Result] = []

    async def main() -> None:
        numbers, began = random.Random(seed), time.perf_counter()
        crowd = Crowd(seed)
        crowd.add(number, lambda: numbers.uniform(0, HOUR))
        crowd.counts_from = (HOURS - 1) * HOUR
        await crowd.live(HOURS * HOUR - 1)
        results.append(
            Result(
                number,
                time.perf_counter() - began,
                len(crowd.living()),
                sum(tracker.gap > 0 for tracker in crowd.trackers),
                crowd.depths(),
                _period(crowd, 0),
                _period(crowd, HOURS - 1),
                (crowd.writes[0, WINDOW] - crowd.conflicts[0, WINDOW]) / HOUR,
                sum(tracker.announces for tracker in crowd.trackers),
                [
                    crowd.sampled[tracker.tracker_id]
                    for tracker in crowd.trackers
                    if tracker.memory.own_depth is not None
                ],
            )
        )
        await crowd.stop()

    run(main())
    return results[0]


def lines(results: list[Result], sizes: Sizes) -> Iterator[str]:
    """Yield the table of `docs/dht.md`, and the figures that it leaves out."""

    def row(name: str, cells: Iterable[object]) -> str:
        return f"| {name} | " + " | ".join(str(cell) for cell in cells) + " |"

    def both(name: str, figure: Callable[[Period], float], digits: int) -> str:
        return row(name, (f"{figure(one.cold):.{digits}f} / {figure(one.late):.{digits}f}" for one in results))

    yield f"bytes of replies: {sizes}"
    yield ""
    yield row("trackers", (f"{one.number:,}".replace(",", " ") for one in results))
    yield "|---" * (len(results) + 1) + "|"
    yield both("lookups of one visit, mean", lambda one: one.lookups, 1)
    yield both("the slot that is read most: lookups per second", lambda one: one.slot_gets, 2)
    yield both("writes to it per second", lambda one: one.slot_puts, 2)
    yield both("bytes per second that each of its nodes sends", lambda one: one.slot_bytes(sizes), 0)
    yield both("the shard that is read most: lookups per hour", lambda one: one.shard_gets * HOUR, 0)
    yield both("bytes per second that each of its nodes sends", lambda one: one.shard_bytes(sizes), 0)
    yield row("trackers that announce the rendezvous (BEP 5)", (one.announcers for one in results))
    yield both("bytes per second that each node of that hash sends", lambda one: one.announced_bytes(sizes), 0)
    yield ""
    for one in results:
        cuts = quantiles(one.sampled, n=20) if len(one.sampled) > 1 else [0.0] * 19
        yield (
            f"{one.number}: {one.living} have an entry, {one.gaps} were without one for a while; entries by depth "
            f"{one.depths}; window stored {one.window_rate:.2f}/s; a tracker in samples of the last hour: mean "
            f"{mean(one.sampled or [0]):.1f}, 5 % {cuts[0]:.0f}, median {cuts[9]:.0f}, 95 % {cuts[18]:.0f}, never "
            f"{sum(not count for count in one.sampled)}; {one.seconds:.0f} s"
        )
    worst = max(
        max(period.slot_bytes(sizes), period.shard_bytes(sizes), period.announced_bytes(sizes))
        for one in results
        for period in (one.cold, one.late)
    )
    yield f"the most loaded node sends {worst:.0f} bytes per second; libtorrent's default limit is {LIMIT}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "numbers", nargs="*", type=int, metavar="TRACKERS", default=NUMBERS, help="default: %(default)s"
    )
    options = parser.parse_args()
    configure("error", "text")
    sizes = asyncio.run(measure_sizes())
    for line in lines([simulate(number) for number in options.numbers], sizes):
        print(line)


if __name__ == "__main__":
    main()
